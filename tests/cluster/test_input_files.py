"""Input files by path and URI, plain and compressed, their folders and fingerprints."""

import gzip
import os
from pathlib import Path

import fsspec
import pyarrow
import pytest

from cluster import input_files
from cluster.storage import StorageError

CONTENT = b"0123456789" * 300_000


@pytest.fixture(params=["path", "file://", "memory://"])
def name(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    (tmp_path / "f").write_bytes(CONTENT)
    files = {"/f": CONTENT, "/f.gz": gzip.compress(CONTENT), "/f.zst": pyarrow.compress(CONTENT, "zstd", asbytes=True)}
    for path, content in files.items():
        Path(f"{tmp_path}{path}").write_bytes(content)
    fsspec.filesystem("memory").pipe({f"/inputs{path}": content for path, content in files.items()})
    return {"path": f"{tmp_path}/f", "file://": f"file://{tmp_path}/f", "memory://": "memory:///inputs/f"}[
        request.param
    ]


def test_bytes_are_read_and_counted(name: str) -> None:
    """Stored bytes are counted, or decompressed ones; the file name does not matter."""
    sizes: list[int] = []
    with input_files.open_stream(name, sizes.append) as stream:
        assert stream.peek(3)[:3] == b"012"
        assert stream.read() == CONTENT
    assert sum(sizes) == len(CONTENT) == input_files.file_size(name)
    assert len(sizes) > 1
    for path in (name, name + ".gz", name + ".zst"):
        with input_files.open_decompressed(path) as stream:
            assert stream.read() == CONTENT
        with input_files.open_random_access(path) as file:
            file.seek(2_999_997)
            assert (file.read(), file.size()) == (b"789", len(CONTENT))


def test_a_missing_file_is_an_error(name: str) -> None:
    """The stream, the size and the fingerprint of a missing file are errors."""
    with pytest.raises(StorageError, match="none"), input_files.open_stream(name + "none"):
        pass
    with pytest.raises(StorageError, match="none"), input_files.open_random_access(name + "none"):
        pass
    with pytest.raises(StorageError, match="none"):
        input_files.file_size(name + "none")
    with pytest.raises(StorageError, match="none"):
        input_files.fingerprint(name + "none")


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_truncated_compression_is_an_error(tmp_path: Path, compression: str) -> None:
    """As one of the errors that readers expect."""
    content = pyarrow.compress(CONTENT, "zstd", asbytes=True) if compression == "zstd" else gzip.compress(CONTENT)
    path = tmp_path / "f"
    for size in (5, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        with input_files.open_decompressed(str(path)) as stream, pytest.raises(input_files.READ_ERRORS):
            stream.read()


def test_files_compressed_in_several_parts_are_read_whole(tmp_path: Path) -> None:
    """As compressors with several threads write them, or `cat`."""
    for name, part in (
        ("f.gz", gzip.compress(b"a\nb\n")),
        ("f.zst", pyarrow.compress(b"a\nb\n", "zstd", asbytes=True)),
    ):
        (tmp_path / name).write_bytes(part + part)
        with input_files.open_decompressed(str(tmp_path / name)) as stream:
            assert list(stream) == [b"a\n", b"b\n"] * 2


def test_folders_and_patterns_are_listed(name: str) -> None:
    """Sorted, with the names of folders and of files; a file is found under each name that is listed."""
    folder = name.rpartition("/")[0]
    assert input_files.find_kind(name) == "file"
    assert input_files.find_kind(name + "none") is None
    assert input_files.find_kind("https://example.invalid/f?x") == "file"  # is not asked
    assert list(input_files.list_folder(folder)) == ["f", "f.gz", "f.zst"]
    assert input_files.list_matches(f"{folder}/*.[gz]*") == [f"{folder}/f.gz", f"{folder}/f.zst"]
    assert input_files.list_matches(f"{folder}/x*") == []
    with pytest.raises(StorageError, match=r"none: cannot be listed"):
        input_files.list_folder(f"{folder}/none")


@pytest.mark.parametrize("text", ["word " * 100, "~nobody-of-this-name", "a\0b"])
def test_a_text_is_not_the_same_file(tmp_path: Path, text: str) -> None:
    """Also one that no file can be called."""
    (tmp_path / "f").write_bytes(CONTENT)
    with pytest.raises(StorageError, match="exists and is not replaced"):
        input_files.check_not_replaced(str(tmp_path / "f"), text)


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
