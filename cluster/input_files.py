"""Where texts and vectors are read: a local file, one in an object store, or on the web, plain or gzipped.

pyarrow's file systems are used where they know the URI's scheme, as for runs; fsspec for the rest, http
and https among them.
"""

import gzip
import hashlib
import io
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from cluster.storage import StorageError, is_uri, resolve_filesystem

CHUNK_BYTES = 1 << 20
GZIP_MAGIC = b"\x1f\x8b"  # what such a file begins with
PYARROW_SCHEMES = ("file", "s3", "gs", "gcs", "hdfs", "viewfs", "abfs", "abfss")  # schemes

READ_ERRORS = (OSError, EOFError, zlib.error)  # what reading on from here may raise


@contextmanager
def open_stream(path: str, on_read: Callable[[int], None] | None = None) -> Iterator[BinaryIO]:
    """Hold a file's bytes as a buffered stream, from its start to its end.

    Args:
        passed: is told how many bytes were read, each time.

    Raises:
        StorageError: there is none, or its scheme is unknown; reading on may raise `BROKEN`.
    """
    try:
        raw: Any = _open(path)
    except (OSError, ImportError, ValueError) as error:
        raise StorageError(f"{path}: cannot be read: {error}") from error
    with io.BufferedReader(_Counted(raw, on_read) if on_read else raw, CHUNK_BYTES) as stream:
        yield stream


@contextmanager
def open_decompressed(path: str, on_read: Callable[[int], None] | None = None) -> Iterator[BinaryIO]:
    """Hold the bytes of a file that may be gzipped, whatever its name.

    Raises:
        StorageError, as `opened`; reading on may raise `BROKEN`.
    """
    with open_stream(path, on_read) as stream:
        if stream.peek(2)[:2] == GZIP_MAGIC:  # type: ignore[attr-defined]
            with gzip.open(stream) as unzipped:
                yield cast(BinaryIO, unzipped)
        else:
            yield stream


def file_size(path: str) -> int | None:
    """Return a file's bytes as it lies there, None where nothing tells; StorageError if there is no such file."""
    return _facts(path)[0]


def fingerprint(path: str) -> str | None:
    """Return what identifies a file without reading it whole; None where nothing tells whether it has changed.

    Locally its size, its time of change and the bytes at its two ends; elsewhere what the store says.

    Raises:
        StorageError: there is no such file.
    """
    length, changes = _facts(path)
    if not changes:
        return None
    known: list[Any] = [length, *changes]
    if is_uri(path):
        known.append(path)
    else:
        with open_stream(path) as stream:
            known.append(stream.read(CHUNK_BYTES))
            stream.seek(max(0, (length or 0) - CHUNK_BYTES))
            known.append(stream.read(CHUNK_BYTES))
    return hashlib.sha256(repr(known).encode()).hexdigest()


def _facts(path: str) -> tuple[int | None, list[Any]]:
    """Return a file's size, and what changes when its content does."""
    try:
        if not is_uri(path):
            stat = Path(path).stat()
            return stat.st_size, [stat.st_mtime_ns]
        if _is_fsspec_only(path):
            import fsspec

            remote, inside = fsspec.core.url_to_fs(path)
            facts = remote.info(inside)
            changes = ("ETag", "Last-Modified", "mtime", "created")
            return facts.get("size"), [facts[key] for key in changes if key in facts]
        filesystem, inside = resolve_filesystem(path)
        info = filesystem.get_file_info(inside)
    except (OSError, ImportError, ValueError) as error:
        raise StorageError(f"{path}: cannot be read: {error}") from error
    if not info.is_file:
        raise StorageError(f"{path}: there is no such file")
    return info.size, [info.mtime_ns]


def _open(path: str) -> Any:
    if not is_uri(path):
        return Path(path).open("rb", buffering=0)
    if _is_fsspec_only(path):
        import fsspec

        return fsspec.open(path, "rb", block_size=CHUNK_BYTES).open()
    filesystem, inside = resolve_filesystem(path)
    return filesystem.open_input_stream(inside, compression=None)


def _is_fsspec_only(path: str) -> bool:
    """Tell whether pyarrow does not know a URI's scheme; StorageError if fsspec does not know it either."""
    scheme = path.partition("://")[0]
    if scheme in PYARROW_SCHEMES:
        return False
    import fsspec

    if scheme not in fsspec.available_protocols():
        raise StorageError(f"{path}: nothing here reads '{scheme}://'")
    return True


class _Counted(io.RawIOBase):
    """A raw stream that tells of every read."""

    def __init__(self, raw: Any, passed: Callable[[int], None]) -> None:
        self.raw = raw
        self.passed = passed

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        length = self.raw.readinto(buffer)
        if length:
            self.passed(length)
        return length

    def close(self) -> None:
        self.raw.close()
        super().close()
