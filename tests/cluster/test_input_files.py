"""Files by path and URI, plain and gzipped, and what tells that they changed."""

import gzip
import os
from pathlib import Path

import fsspec
import pytest

from cluster import input_files as source
from cluster.storage import StorageError

CONTENT = b"0123456789" * 300_000


@pytest.fixture(params=["path", "file://", "memory://"])
def name(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    (tmp_path / "f").write_bytes(CONTENT)
    (tmp_path / "f.gz").write_bytes(gzip.compress(CONTENT))
    fsspec.filesystem("memory").pipe({"/f": CONTENT, "/f.gz": gzip.compress(CONTENT)})
    return {"path": f"{tmp_path}/f", "file://": f"file://{tmp_path}/f", "memory://": "memory:///f"}[request.param]


def test_bytes_are_read_and_counted(name: str) -> None:
    """As they lie there; unpacked on request, whatever the name."""
    told: list[int] = []
    with source.open_stream(name, told.append) as stream:
        assert stream.peek(3)[:3] == b"012"  # type: ignore[attr-defined]
        assert stream.read() == CONTENT
    assert sum(told) == len(CONTENT) == source.file_size(name)
    assert len(told) > 1
    for each in (name, name + ".gz"):
        with source.open_decompressed(each) as stream:
            assert stream.read() == CONTENT


def test_a_missing_file_is_an_error(name: str) -> None:
    """On opening it, and on asking for its size."""
    with pytest.raises(StorageError, match="none"), source.open_stream(name + "none"):
        pass
    with pytest.raises(StorageError, match="none"):
        source.file_size(name + "none")
    with pytest.raises(StorageError, match="none"):
        source.fingerprint(name + "none")


def test_a_fingerprint_changes_with_the_file(tmp_path: Path) -> None:
    """Its time, its size, its ends; and not with its name."""
    path = tmp_path / "f"
    path.write_bytes(CONTENT)
    first = source.fingerprint(str(path))
    assert first == source.fingerprint(str(path))
    stat = path.stat()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert source.fingerprint(str(path)) != first
    path.write_bytes(CONTENT[:-1] + b"x")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert source.fingerprint(str(path)) != first
    path.write_bytes(CONTENT)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    moved = path.rename(tmp_path / "g")
    assert source.fingerprint(str(moved)) == first
