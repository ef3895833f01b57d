"""Storage of runs by path or URI: a local folder, a shared one, or an object store.

Files and folders appear whole or not at all: locally by renaming what is already on the disk (fsync), in object stores
because a put is atomic. A `file://` URI is a local path.
"""

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from cluster import UsageError
from cluster.durable_files import lock, make_folder, publish_file, publish_folder, temporary_path

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

logger = logging.getLogger(__name__)

LOCK_FILE = ".lock"  # of `lock_folder`


class StorageError(UsageError):
    """A path or URI cannot be read or written."""


@contextmanager
def raise_storage_errors(message: str, errors: type[Exception] = OSError) -> Iterator[None]:
    """Raise a StorageError that begins with a message instead of `errors`; those of HTTP clients may be any."""
    try:
        yield
    except StorageError:
        raise
    except errors as error:
        raise StorageError(f"{message}: {str(error) or repr(error)}") from error


def is_uri(path: str) -> bool:
    """Return whether a path names an object store or another remote file system."""
    return "://" in path


def split_query(path: str) -> tuple[str, str]:
    """Return a URI without its query, and the query with its "?"; a path has none."""
    before, mark, query = path.partition("?") if is_uri(path) else (path, "", "")
    return before, mark + query


def absolute_path(path: str | Path) -> str:
    """Return a path that is valid in every process of this machine; a URI unchanged.

    Raises:
        StorageError: it starts with the home folder of a user that does not exist.
    """
    path = str(path)
    try:
        return path if is_uri(path) else str(Path(path).expanduser().absolute())
    except RuntimeError as error:
        raise StorageError(f"{path}: {error}") from error


def local_path(path: str) -> Path | None:
    """Return the absolute path of a file or folder of this machine, also of a `file://` URI; None for other URIs."""
    if not is_uri(path):
        return Path(absolute_path(path))
    return Path(resolve_filesystem(path)[1]) if path.startswith("file://") else None


def join(folder: str, *names: str) -> str:
    """Return the path of something inside a folder; the query of a URI stays at the end."""
    path, query = split_query(folder)
    return "/".join([path.rstrip("/"), *names]) + query


def parent(path: str) -> str:
    """Return the folder of a path."""
    path, query = split_query(path)
    return path.rstrip("/").rpartition("/")[0] + query


def exists(path: str) -> bool:
    """Return whether a file or folder exists; StorageError if the storage does not respond."""
    from pyarrow.fs import FileType

    filesystem, inside = resolve_filesystem(path)
    with raise_storage_errors(f"{path}: the storage does not respond"):
        return bool(filesystem.get_file_info(inside).type != FileType.NotFound)


def list_folders(path: str) -> list[str]:
    """Return the names of the folders in a folder, unordered; empty if it does not exist."""
    from pyarrow.fs import FileSelector, FileType

    filesystem, inside = resolve_filesystem(path)
    with raise_storage_errors(f"{path}: cannot be read"):
        entries = filesystem.get_file_info(FileSelector(inside, allow_not_found=True))
    return [entry.base_name for entry in entries if entry.type == FileType.Directory]


def remove_folder(path: str) -> None:
    """Remove a folder with its content, if it exists."""
    filesystem, inside = resolve_filesystem(path)
    with raise_storage_errors(f"{path}: cannot be removed"):
        if exists(path):
            filesystem.delete_dir(inside)


def read_text(path: str, max_bytes: int | None = None) -> str:
    """Return a file's UTF-8 text; StorageError if it cannot be read, or is longer than `max_bytes`."""
    filesystem, inside = resolve_filesystem(path)
    try:
        with filesystem.open_input_stream(inside) as stream:
            content: bytes = stream.read(None if max_bytes is None else max_bytes + 1)
        if max_bytes is not None and len(content) > max_bytes:
            raise StorageError(f"{path}: is longer than {max_bytes:,} bytes")
        return content.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError(f"{path}: cannot be read: {error}") from error


def write_text(path: str, text: str) -> None:
    """Write or replace a file, whole or not at all; StorageError if it cannot be written."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: str, value: object, *, ascii_only: bool = False) -> None:
    """Write a value as JSON into a new or existing file, whole or not at all; StorageError as for `write_text`.

    Args:
        ascii_only: escape other characters. Needed where text may hold parts of characters, as messages with the name
            of a file in another encoding do.
    """
    write_text(path, json.dumps(value, indent=1, ensure_ascii=ascii_only) + "\n")


def write_bytes(path: str, content: bytes, *, replace: bool = True) -> None:
    """Write or replace a file, whole or not at all; StorageError if it cannot be written.

    Args:
        replace: if False, an existing file stays. In an object store two simultaneous writers may replace each other's.
    """
    if replace or not exists(path):
        with output_file(path, replace=replace) as part:
            part.write_bytes(content)


def remove_file(path: str) -> None:
    """Delete a file; StorageError if it cannot be deleted."""
    filesystem, inside = resolve_filesystem(path)
    with raise_storage_errors(f"{path}: cannot be deleted"):
        filesystem.delete_file(inside)


@contextmanager
def lock_folder(folder: str) -> Iterator[bool]:
    """Context manager: lock a folder against other commands, and yield whether it is locked.

    It ends with the process. A remote folder is not locked, nor, with a warning, one on a file system without locks.

    Raises:
        StorageError: another command holds the lock, or the folder cannot be written.
    """
    local = local_path(folder)
    if local is None:
        yield False
        return
    with ExitStack() as stack:
        try:
            make_folder(local)
            has_locks = lock(stack.enter_context(Path(local, LOCK_FILE).open("w")))
        except BlockingIOError as error:
            raise StorageError(f"{folder}: another command is using this run folder; wait for it to end") from error
        except OSError as error:
            raise StorageError(f"{folder}: cannot be written: {error}") from error
        if not has_locks:
            logger.warning(f"{folder}: the file system has no locks; do not run another command on this folder")
        yield has_locks


@contextmanager
def output_file(path: str, *, replace: bool = True) -> Iterator[Path]:
    """Yield a temporary file's path; it becomes the file at `path` on success. StorageError if it cannot be written.

    Args:
        replace: as of `write_bytes`.
    """
    filesystem, inside = resolve_filesystem(path)
    if (local := local_path(path)) is not None:
        with atomic_write(local, replace=replace) as part:
            yield part
        return
    with tempfile.TemporaryDirectory() as folder:
        part = Path(folder, "part")
        yield part

        def upload() -> None:
            with part.open("rb") as source, filesystem.open_output_stream(inside) as stream:
                shutil.copyfileobj(source, stream, 1 << 20)

        with raise_storage_errors(f"{path}: cannot be written"), ThreadPoolExecutor(1) as pool:
            pool.submit(upload).result()  # in a thread: an interrupt would close the stream, which publishes a part


@contextmanager
def atomic_write(target: Path, *, replace: bool = True) -> Iterator[Path]:
    """Yield the path of a temporary file next to `target`, which becomes or replaces it if the body succeeds.

    Raises:
        StorageError: the target cannot be written.
    """
    part = temporary_path(target)
    with raise_storage_errors(f"{target}: cannot be written"):
        make_folder(target.parent)
        try:
            yield part
            publish_file(part, target, replace=replace)
        finally:
            part.unlink(missing_ok=True)


def check_local_file(path: str) -> Path:
    """Return the absolute path of a local file to write, whose folder need not exist. Nothing is written.

    Raises:
        StorageError: the path is a URI or a folder, or its folder cannot be created or written.
    """
    target = local_path(path)
    if target is None:
        raise StorageError(f"{path}: is written to a path of this machine, not to a URI")
    with raise_storage_errors(f"{path}: cannot be written"):  # a name may be too long
        folder = next(parent for parent in target.parents if os.path.lexists(parent))
        if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
            raise StorageError(f"{path}: cannot be written: {folder} is no folder that this user can write")
        if target.is_dir():
            raise StorageError(f"{path}: is a folder; name a file")
    return target


def copy_folder(source: str, target: str) -> None:
    """Copy a folder to a new path; locally the folder appears whole, in an object store each file does.

    Raises:
        StorageError: it cannot be read or written, or was copied in part.
    """
    local = local_path(target)
    if local is None:
        _copy_files(source, target)
        return
    part = temporary_path(local)
    with raise_storage_errors(f"{target}: cannot be written"):
        try:
            make_folder(part)
            _copy_files(source, str(part))
            publish_folder(part, local)
        finally:
            shutil.rmtree(part, ignore_errors=True)


def _copy_files(source: str, target: str) -> None:
    from pyarrow.fs import copy_files

    filesystem, inside = resolve_filesystem(source)
    target_filesystem, target_inside = resolve_filesystem(target)
    source_sizes = list_file_sizes(source)  # first: a file may be added meanwhile, such as a lease
    with raise_storage_errors(f"{source} cannot be copied to {target}"):
        copy_files(inside, target_inside, filesystem, target_filesystem)
    # pyarrow is silent when a part of an upload fails.
    sizes = list_file_sizes(target)
    incomplete = sorted(name for name, size in source_sizes.items() if sizes.get(name) != size)
    if incomplete:
        raise StorageError(f"{target}: {', '.join(incomplete)} was not copied completely")


def list_file_sizes(folder: str) -> dict[str, int]:
    """Return the bytes of all files in a folder, by path inside it, {} without a folder; StorageError on failure."""
    from pyarrow.fs import FileSelector

    filesystem, inside = resolve_filesystem(folder)
    with raise_storage_errors(f"{folder}: cannot be listed"):
        entries = filesystem.get_file_info(FileSelector(inside, recursive=True, allow_not_found=True))
    return {entry.path.removeprefix(inside).lstrip("/"): entry.size for entry in entries if entry.is_file}


@contextmanager
def output_folder(path: str) -> Iterator[Path]:
    """Yield a local folder to write into: `path`, or for a URI a temporary folder that is copied there on success.

    Raises:
        StorageError: the path cannot be written.
    """
    local = local_path(path)
    with raise_storage_errors(f"{path}: cannot be written"):
        if local is not None:
            make_folder(local)
            yield local
            return
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
            copy_folder(folder, path)


@contextmanager
def as_local_folder(path: str) -> Iterator[Path]:
    """Yield a local folder with the content of `path`: the path itself, or for a URI a temporary copy."""
    local = local_path(path)
    if local is not None:
        yield local
        return
    with tempfile.TemporaryDirectory() as folder:
        _copy_files(path, folder)
        yield Path(folder)


def resolve_filesystem(path: str) -> "tuple[FileSystem, str]":
    """Return pyarrow's file system for a path or URI, and the path inside it; StorageError if there is none."""
    from pyarrow.fs import FileSystem, LocalFileSystem

    if not is_uri(path):
        return LocalFileSystem(), absolute_path(path)
    try:
        filesystem, inside = FileSystem.from_uri(path)
    except (OSError, ValueError, ImportError) as error:
        raise StorageError(f"{path}: the storage cannot be opened: {error}") from error
    return filesystem, inside
