"""Input files of texts and vectors: local, in an object store, or on the web; plain, gzipped or compressed with zstd.

pyarrow reads the URI schemes that it knows, as for runs; fsspec reads the others, such as http and https.
"""

import glob
import gzip
import hashlib
import io
import os
import re
import urllib.parse
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, cast

from cluster.storage import (
    StorageError,
    check_local_file,
    exists,
    is_uri,
    local_path,
    raise_storage_errors,
    resolve_filesystem,
    split_query,
)

if TYPE_CHECKING:
    from pyarrow import NativeFile

CHUNK_BYTES = 1 << 20
GZIP_MAGIC = b"\x1f\x8b"  # the first bytes of a gzipped file
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
WEB_SCHEMES = ("http://", "https://")  # list no folders
PYARROW_SCHEMES = ("file", "s3", "gs", "gcs", "hdfs", "viewfs", "abfs", "abfss")
READ_ERRORS = (OSError, EOFError, zlib.error)  # raised while a stream is read


@contextmanager
def open_stream(path: str, on_read: Callable[[int], None] | None = None) -> Iterator[io.BufferedReader]:
    """Yield a buffered stream of a file's bytes.

    Args:
        on_read: called after every read with its number of bytes.

    Raises:
        StorageError: the file does not exist, or its scheme is unknown. Reading may raise `READ_ERRORS`.
    """
    with raise_storage_errors(f"{path}: cannot be read", Exception):
        raw = _open(path)
    with io.BufferedReader(_RawStream(raw, on_read) if on_read else raw, CHUNK_BYTES) as stream:
        yield stream


@contextmanager
def open_decompressed(path: str, on_read: Callable[[int], None] | None = None) -> Iterator[BinaryIO]:
    """Yield a stream of a file's bytes, decompressed if the content is gzip or zstd; the name does not matter.

    Raises:
        StorageError: as for `open_stream`. Reading may raise `READ_ERRORS`.
    """
    with open_stream(path, on_read) as stream:
        magic = stream.peek(4)[:4]
        if magic.startswith(GZIP_MAGIC):
            with gzip.open(stream) as unzipped:
                yield cast(BinaryIO, unzipped)
        elif magic == ZSTD_MAGIC:
            import pyarrow

            raw: Any = pyarrow.CompressedInputStream(pyarrow.PythonFile(stream, mode="r"), "zstd")
            with io.BufferedReader(raw, CHUNK_BYTES) as decompressed:
                yield decompressed
        else:
            yield stream


@contextmanager
def open_random_access(path: str) -> "Iterator[NativeFile]":
    """Yield a file of pyarrow that reads at any position; a compressed file is decompressed in memory.

    Raises:
        StorageError: as for `open_stream`. Reading may raise `READ_ERRORS`.
    """
    import pyarrow

    with raise_storage_errors(f"{path}: cannot be read", Exception):
        source = _open_native(path)
    with source:
        magic = source.read(4)
        source.seek(0)
        compression = "gzip" if magic.startswith(GZIP_MAGIC) else "zstd" if magic == ZSTD_MAGIC else None
        if compression is None:
            yield source
        else:
            with pyarrow.CompressedInputStream(source, compression) as stream:
                yield pyarrow.BufferReader(stream.read())


@contextmanager
def create_file(path: Path, *, compress: bool) -> Iterator[BinaryIO]:
    """Yield a stream that writes a new local file, gzipped if `compress`. Equal contents are equal files."""
    with path.open("wb") as stream:
        if not compress:
            yield stream
            return
        with gzip.GzipFile("", "wb", compresslevel=6, fileobj=stream, mtime=0) as zipped:
            yield cast(BinaryIO, zipped)


def file_size(path: str) -> int | None:
    """Return a file's stored size in bytes, None if it is unknown; StorageError if the file does not exist."""
    return _read_metadata(path)[0]


def find_kind(path: str) -> Literal["file", "folder"] | None:
    """Return whether there is a file or a folder at a path or URI, None if there is neither; web servers have files.

    Raises:
        StorageError: the storage does not respond, or its scheme is unknown.
    """
    if path.startswith(WEB_SCHEMES):
        return "file"
    with raise_storage_errors(f"{path}: cannot be read", Exception):
        if not is_uri(path):
            return "folder" if os.path.isdir(path) else "file" if os.path.isfile(path) else None
        with suppress(FileNotFoundError):
            remote, inside = _browse(path)
            kind = remote.info(inside)["type"]
            return "file" if kind == "file" else "folder" if kind == "directory" else None
    return None


def list_folder(folder: str) -> dict[str, bool]:
    """Return the names of the files and folders in a folder, sorted, and whether each is a folder.

    Raises:
        StorageError: the folder cannot be listed.
    """
    with raise_storage_errors(f"{folder}: cannot be listed", Exception):
        if not is_uri(folder):
            return dict(sorted((entry.name, entry.is_dir()) for entry in os.scandir(folder)))
        remote, inside = _browse(folder)
        entries = remote.ls(inside, detail=True)
    names = {_quote(folder, entry["name"].rstrip("/").rpartition("/")[2]): entry["type"] for entry in entries}
    return {name: names[name] == "directory" for name in sorted(names)}


def list_matches(pattern: str) -> list[str]:
    """Return the sorted paths or URIs that match a glob pattern: *, [] and **, and ? in paths.

    Raises:
        StorageError: the storage cannot be listed.
    """
    if not is_uri(pattern):
        return sorted(glob.glob(pattern, recursive=True))
    path, query = split_query(pattern)
    base = path[: re.search(r"[*\[]|$", path).start()].rpartition("/")[0]  # type: ignore[union-attr]
    with raise_storage_errors(f"{pattern}: cannot be listed", Exception):
        remote, inside = _browse(base + query)
        inside = inside.rstrip("/")
        matches = [match[len(inside) :].lstrip("/") for match in remote.glob(f"{inside}{path[len(base) :]}")]
    return [f"{base}/{_quote(pattern, match)}{query}" for match in sorted(matches)]


def fingerprint(path: str) -> str | None:
    """Return a digest that changes with a file's content; None if the store has no metadata that shows changes.

    For a local file it covers size, modification time and the bytes at both ends; for others the store's metadata.

    Raises:
        StorageError: the file does not exist.
    """
    size, versions = _read_metadata(path, with_etag=True)
    if not versions:
        return None
    parts: list[Any] = [size, *versions, *([path] if is_uri(path) else [])]
    if not is_uri(path):
        with open_stream(path) as stream:
            parts.append(stream.read(CHUNK_BYTES))
            stream.seek(max(0, (size or 0) - CHUNK_BYTES))
            parts.append(stream.read(CHUNK_BYTES))
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def is_same_file(path: str, other: str) -> bool:
    """Return whether two paths or URIs lead to the same existing file, or are the same URI."""
    try:
        local, other_local = local_path(path), local_path(other)
        if local is None or other_local is None:
            return path == other
        return local.exists() and other_local.exists() and local.samefile(other_local)
    except (OSError, ValueError, StorageError):  # a text, such as one that is too long for a name
        return False


def check_output_file(path: str, *inputs: str) -> None:
    """Raise a StorageError if a file cannot be written at a path or URI, or if it is one of the input files."""
    for name in inputs:
        if is_same_file(name, path):
            raise StorageError(f"{path}: is the input file, which is never changed; name another file to write")
    check = resolve_filesystem if local_path(path) is None else check_local_file
    check(path)


def check_not_replaced(path: str, *inputs: str) -> None:
    """Raise a StorageError if there is a file at a path or URI to write. That it is an input is another error."""
    local = local_path(path)
    is_existing = exists(path) if local is None else os.path.isfile(local)
    if is_existing and not any(is_same_file(name, path) for name in inputs):
        raise StorageError(f"{path}: exists and is not replaced; name another file, or add --force")


def _read_metadata(path: str, *, with_etag: bool = False) -> tuple[int | None, list[Any]]:
    """Return a file's size in bytes, and metadata that changes with its content."""
    with raise_storage_errors(f"{path}: cannot be read", Exception):
        if not is_uri(path):
            stat = Path(path).stat()
            return stat.st_size, [stat.st_mtime_ns]
        if _is_fsspec_only(path):
            remote, inside = _browse(path)
            metadata = remote.info(inside)
            keys = ("ETag", "Last-Modified", "mtime", "created")
            return metadata.get("size"), [metadata[key] for key in keys if key in metadata]
        filesystem, inside = resolve_filesystem(path)
        info = filesystem.get_file_info(inside)
        if not info.is_file:
            raise StorageError(f"{path}: there is no such file")
        etags: list[Any] = []
        if with_etag:  # takes another request, but the times of S3 are whole seconds
            with filesystem.open_input_file(inside) as file:
                etags = [value for key, value in (file.metadata() or {}).items() if key.lower() == "etag"]
    return info.size, [info.mtime_ns, *etags]


def _open(path: str) -> Any:
    if not is_uri(path):
        return Path(path).open("rb", buffering=0)
    if _is_fsspec_only(path):
        return _open_remote(path)[0]
    filesystem, inside = resolve_filesystem(path)
    return filesystem.open_input_stream(inside, compression=None)


def _open_native(path: str) -> "NativeFile":
    import pyarrow

    if not is_uri(path):
        return pyarrow.OSFile(path)
    if not _is_fsspec_only(path):
        filesystem, inside = resolve_filesystem(path)
        return filesystem.open_input_file(inside)
    stream, is_seekable = _open_remote(path)
    if is_seekable:
        return pyarrow.PythonFile(stream, mode="r")
    with stream:
        return pyarrow.BufferReader(stream.raw.read())


def _open_remote(path: str) -> "tuple[_RawStream, bool]":
    """Return a stream of fsspec, and whether it reads at any position: some web servers send only whole files."""
    remote, inside = _browse(path)
    file = remote.open(inside, "rb", block_size=CHUNK_BYTES)
    try:
        file.seek(-1, os.SEEK_END)
        file.read(1)
        file.seek(0)
    except ValueError:
        file.close()
        return _RawStream(remote.open(inside, "rb", block_size=0)), False
    return _RawStream(file), True


def _browse(path: str) -> tuple[Any, str]:
    """Return the file system of a URI with the interface of fsspec, and the path inside it."""
    if _is_fsspec_only(path):
        import fsspec

        remote, inside = fsspec.core.url_to_fs(path)
        return remote, inside
    from fsspec.implementations.arrow import ArrowFSWrapper

    filesystem, inside = resolve_filesystem(path)
    return ArrowFSWrapper(filesystem), inside


def _quote(uri: str, name: str) -> str:
    """Return a name as a part of a URI: pyarrow decodes escapes, fsspec does not."""
    return name if _is_fsspec_only(uri) else urllib.parse.quote(name)


def _is_fsspec_only(path: str) -> bool:
    """Return whether only fsspec knows a URI's scheme; StorageError if neither fsspec nor pyarrow does."""
    scheme = path.partition("://")[0]
    if scheme in PYARROW_SCHEMES:
        return False
    import fsspec

    if scheme not in fsspec.available_protocols():
        raise StorageError(f"{path}: nothing here reads '{scheme}://'")
    return True


class _RawStream(io.RawIOBase):
    """A raw stream around another. Reading raises OSErrors only, and calls `on_read` with the number of bytes."""

    def __init__(self, raw: Any, on_read: Callable[[int], None] = lambda length: None) -> None:
        self.raw, self.on_read = raw, on_read

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return int(self.raw.seek(offset, whence))

    def readinto(self, buffer: Any) -> int:
        try:
            length: int = self.raw.readinto(buffer)
        except OSError:
            raise
        except Exception as error:  # of fsspec's HTTP client, for instance aiohttp
            raise OSError(str(error) or repr(error)) from error
        if length:
            self.on_read(length)
        return length

    def close(self) -> None:
        self.raw.close()
        super().close()
