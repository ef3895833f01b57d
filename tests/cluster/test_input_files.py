"""Input files by path and URI, plain and gzipped, and their fingerprints."""

import gzip
import os
from pathlib import Path

import fsspec
import pytest

from cluster import input_files
from cluster.storage import StorageError

CONTENT = b"0123456789" * 300_000


@pytest.fixture(params=["path", "file://", "memory://"])
def name(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    (tmp_path / "f").write_bytes(CONTENT)
    (tmp_path / "f.gz").write_bytes(gzip.compress(CONTENT))
    fsspec.filesystem("memory").pipe({"/f": CONTENT, "/f.gz": gzip.compress(CONTENT)})
    return {"path": f"{tmp_path}/f", "file://": f"file://{tmp_path}/f", "memory://": "memory:///f"}[request.param]


def test_bytes_are_read_and_counted(name: str) -> None:
    """Stored bytes are counted, or decompressed ones; the file name does not matter."""
    sizes: list[int] = []
    with input_files.open_stream(name, sizes.append) as stream:
        assert stream.peek(3)[:3] == b"012"
        assert stream.read() == CONTENT
    assert sum(sizes) == len(CONTENT) == input_files.file_size(name)
    assert len(sizes) > 1
    for path in (name, name + ".gz"):
        with input_files.open_decompressed(path) as stream:
            assert stream.read() == CONTENT


def test_a_missing_file_is_an_error(name: str) -> None:
    """The stream, the size and the fingerprint of a missing file are errors."""
    with pytest.raises(StorageError, match="none"), input_files.open_stream(name + "none"):
        pass
    with pytest.raises(StorageError, match="none"):
        input_files.file_size(name + "none")
    with pytest.raises(StorageError, match="none"):
        input_files.fingerprint(name + "none")


def test_a_fingerprint_changes_with_the_file(tmp_path: Path) -> None:
    """The fingerprint depends on the modification time, the size and the ends of the file, not on its name."""
    path = tmp_path / "f"
    path.write_bytes(CONTENT)
    first = input_files.fingerprint(str(path))
    assert first == input_files.fingerprint(str(path))
    stat = path.stat()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert input_files.fingerprint(str(path)) != first
    path.write_bytes(CONTENT[:-1] + b"x")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert input_files.fingerprint(str(path)) != first
    path.write_bytes(CONTENT)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    moved = path.rename(tmp_path / "g")
    assert input_files.fingerprint(str(moved)) == first
