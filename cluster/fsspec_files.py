"""Files at URIs with the interface of fsspec.

fsspec reads the schemes that pyarrow does not know, such as http and https, and lists folders and patterns of both.
"""

import io
import os
import urllib.parse
from collections.abc import Callable
from typing import Any

from cluster.storage import StorageError, resolve_filesystem

PYARROW_SCHEMES = ("file", "s3", "gs", "gcs", "hdfs", "viewfs", "abfs", "abfss")


def is_fsspec_only(uri: str) -> bool:
    """Return whether only fsspec knows a URI's scheme; StorageError if neither fsspec nor pyarrow does."""
    scheme = uri.partition("://")[0]
    if scheme in PYARROW_SCHEMES:
        return False
    import fsspec

    if scheme not in fsspec.available_protocols():
        raise StorageError(f"{uri}: nothing here reads '{scheme}://'")
    return True


def resolve_fsspec(uri: str) -> tuple[Any, str]:
    """Return the file system of a URI with the interface of fsspec, and the path inside it.

    Raises:
        StorageError: nothing reads its scheme. A file system of fsspec may raise any other exception.
    """
    if is_fsspec_only(uri):
        import fsspec

        remote, inside = fsspec.core.url_to_fs(uri)
        return remote, inside
    from fsspec.implementations.arrow import ArrowFSWrapper

    filesystem, inside = resolve_filesystem(uri)
    return ArrowFSWrapper(filesystem), inside


def quote_name(uri: str, name: str) -> str:
    """Return a name in the folder at a URI as a part of a URI: pyarrow decodes escapes, fsspec does not."""
    return name if is_fsspec_only(uri) else urllib.parse.quote(name)


def open_fsspec(uri: str, block_bytes: int) -> "tuple[RawStream, bool]":
    """Return a stream of a file, and whether it reads at any position: some web servers send only whole files.

    Args:
        block_bytes: of each request, where the file is read by parts.
    """
    remote, inside = resolve_fsspec(uri)
    file = remote.open(inside, "rb", block_size=block_bytes)
    try:
        file.seek(-1, os.SEEK_END)
        file.read(1)
        file.seek(0)
    except ValueError:
        file.close()
        return RawStream(remote.open(inside, "rb", block_size=0)), False
    return RawStream(file), True


def read_fsspec_metadata(uri: str) -> tuple[int | None, list[Any]]:
    """Return a file's size in bytes, None if it is unknown, and metadata that changes with its content."""
    remote, inside = resolve_fsspec(uri)
    metadata = remote.info(inside)
    keys = ("ETag", "Last-Modified", "mtime", "created")
    return metadata.get("size"), [metadata[key] for key in keys if key in metadata]


class RawStream(io.RawIOBase):
    """A raw stream around another. Reading raises OSErrors only, and calls `on_read` with the number of bytes."""

    def __init__(self, raw: Any, on_read: Callable[[int], None] = lambda length: None) -> None:
        self.raw = raw
        self.on_read = on_read

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
