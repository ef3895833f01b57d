"""Input files of texts and vectors: local, in an object store, or on the web; plain, gzipped or compressed with zstd.

pyarrow reads the URI schemes that it knows, as for runs; fsspec reads the others (`cluster.fsspec_files`).
"""

import glob
import gzip
import hashlib
import io
import os
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, cast

from cluster.fsspec_files import (
    RawStream,
    is_fsspec_only,
    open_fsspec,
    quote_name,
    read_fsspec_metadata,
    resolve_fsspec,
)
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
    with io.BufferedReader(RawStream(raw, on_read) if on_read else raw, CHUNK_BYTES) as stream:
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
        if magic.startswith(GZIP_MAGIC):
            compression = "gzip"
        elif magic == ZSTD_MAGIC:
            compression = "zstd"
        else:
            yield source
            return
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
            if os.path.isdir(path):
                return "folder"
            return "file" if os.path.isfile(path) else None
        try:
            remote, inside = resolve_fsspec(path)
            kind = remote.info(inside)["type"]
        except FileNotFoundError:
            return None
    if kind == "directory":
        return "folder"
    return "file" if kind == "file" else None


def list_folder(folder: str) -> dict[str, bool]:
    """Return the names of the files and folders in a folder, sorted, and whether each is a folder.

    Raises:
        StorageError: the folder cannot be listed.
    """
    with raise_storage_errors(f"{folder}: cannot be listed", Exception):
        if not is_uri(folder):
            return dict(sorted((entry.name, entry.is_dir()) for entry in os.scandir(folder)))
        remote, inside = resolve_fsspec(folder)
        entries = remote.ls(inside, detail=True)
    is_folder = {}
    for entry in entries:
        name = entry["name"].rstrip("/").rpartition("/")[2]
        is_folder[quote_name(folder, name)] = entry["type"] == "directory"
    return dict(sorted(is_folder.items()))


def list_matches(pattern: str) -> list[str]:
    """Return the sorted paths or URIs that match a glob pattern: *, [] and **, and ? in paths.

    Raises:
        StorageError: the storage cannot be listed.
    """
    if not is_uri(pattern):
        return sorted(glob.glob(pattern, recursive=True))
    path, query = split_query(pattern)
    base = re.split(r"[*\[]", path, maxsplit=1)[0].rpartition("/")[0]  # the folder that is listed
    with raise_storage_errors(f"{pattern}: cannot be listed", Exception):
        remote, inside = resolve_fsspec(base + query)
        inside = inside.rstrip("/")
        paths = remote.glob(inside + path.removeprefix(base))
    matches = sorted(match[len(inside) :].lstrip("/") for match in paths)
    return [f"{base}/{quote_name(pattern, match)}{query}" for match in matches]


def fingerprint(path: str) -> str | None:
    """Return a digest that changes with a file's content; None if the store has no metadata that shows changes.

    For a local file it covers size, modification time and the bytes at both ends; for others the store's metadata.

    Raises:
        StorageError: the file does not exist.
    """
    size, versions = _read_metadata(path, with_etag=True)
    if not versions:
        return None
    parts: list[Any] = [size, *versions]
    if is_uri(path):
        parts.append(path)
    else:
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
    if local_path(path) is None:
        resolve_filesystem(path)
    else:
        check_local_file(path)


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
        if is_fsspec_only(path):
            return read_fsspec_metadata(path)
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
    if is_fsspec_only(path):
        stream, _ = open_fsspec(path, CHUNK_BYTES)
        return stream
    filesystem, inside = resolve_filesystem(path)
    return filesystem.open_input_stream(inside, compression=None)


def _open_native(path: str) -> "NativeFile":
    import pyarrow

    if not is_uri(path):
        return pyarrow.OSFile(path)
    if not is_fsspec_only(path):
        filesystem, inside = resolve_filesystem(path)
        return filesystem.open_input_file(inside)
    stream, is_seekable = open_fsspec(path, CHUNK_BYTES)
    if is_seekable:
        return pyarrow.PythonFile(stream, mode="r")
    with stream:
        return pyarrow.BufferReader(stream.raw.read())
