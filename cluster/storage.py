"""Storage of runs by path or URI: a local folder, a shared one, or an object store.

Files appear whole or not at all: locally by renaming, in object stores because a put is atomic.
"""

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from cluster import UsageError

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem


class StorageError(UsageError):
    """A path or URI cannot be read or written."""


def is_uri(path: str) -> bool:
    """Return whether a path names an object store or another remote file system."""
    return "://" in path


def absolute_path(path: str | Path) -> str:
    """Return a path that is valid in every process of this machine; a URI unchanged."""
    path = str(path)
    return path if is_uri(path) else str(Path(path).expanduser().absolute())


def join(folder: str, *names: str) -> str:
    """Return the path of something inside a folder; the query of a URI stays at the end."""
    path, query = _split(folder)
    return "/".join([path.rstrip("/"), *names]) + query


def parent(path: str) -> str:
    """Return the folder of a path."""
    path, query = _split(path)
    return path.rstrip("/").rpartition("/")[0] + query


def exists(path: str) -> bool:
    """Return whether a file or folder exists; StorageError if the storage does not respond."""
    from pyarrow.fs import FileType

    filesystem, inside = resolve_filesystem(path)
    try:
        return bool(filesystem.get_file_info(inside).type != FileType.NotFound)
    except OSError as error:
        raise StorageError(f"{path}: the storage does not respond: {error}") from error


def list_folders(path: str) -> list[str]:
    """Return the names of the folders in a folder, unordered; empty if it does not exist."""
    from pyarrow.fs import FileSelector, FileType

    filesystem, inside = resolve_filesystem(path)
    try:
        entries = filesystem.get_file_info(FileSelector(inside, allow_not_found=True))
    except OSError as error:
        raise StorageError(f"{path}: cannot be read: {error}") from error
    return [entry.base_name for entry in entries if entry.type == FileType.Directory]


def remove_folder(path: str) -> None:
    """Remove a folder with its content, if it exists."""
    filesystem, inside = resolve_filesystem(path)
    try:
        if exists(path):
            filesystem.delete_dir(inside)
    except OSError as error:
        raise StorageError(f"{path}: cannot be removed: {error}") from error


def read_text(path: str) -> str:
    """Return a file's UTF-8 text; StorageError if it cannot be read."""
    filesystem, inside = resolve_filesystem(path)
    try:
        with filesystem.open_input_stream(inside) as stream:
            content: bytes = stream.read()
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


def write_bytes(path: str, content: bytes) -> None:
    """Write or replace a file, whole or not at all; StorageError if it cannot be written."""
    filesystem, inside = resolve_filesystem(path)
    if not is_uri(path):
        with atomic_write(Path(inside)) as part:
            part.write_bytes(content)
        return
    try:
        if filesystem.type_name == "local":  # an object store has no folders
            filesystem.create_dir(inside.rpartition("/")[0], recursive=True)
        with filesystem.open_output_stream(inside) as stream:
            stream.write(content)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error}") from error


def remove_file(path: str) -> None:
    """Delete a file; StorageError if it cannot be deleted."""
    filesystem, inside = resolve_filesystem(path)
    try:
        filesystem.delete_file(inside)
    except OSError as error:
        raise StorageError(f"{path}: cannot be deleted: {error}") from error


@contextmanager
def lock_folder(folder: str) -> Iterator[None]:
    """Context manager: lock a folder against other commands. The lock ends with the process; a URI is not locked.

    Raises:
        StorageError: another command holds the lock, or the folder cannot be written.
    """
    if is_uri(folder):
        yield
        return
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        stream = Path(folder, ".lock").open("w")  # noqa: SIM115 closed below
    except OSError as error:
        raise StorageError(f"{folder}: cannot be written: {error}") from error
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StorageError(f"{folder}: another command is using this run folder; wait for it to end") from error
        yield


@contextmanager
def atomic_write(target: Path) -> Iterator[Path]:
    """Yield the path of a temporary file next to `target`, which replaces it if the body succeeds.

    Raises:
        StorageError: the target cannot be written.
    """
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield part
            os.replace(part, target)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(f"{target}: cannot be written: {error}") from error


def prepare_local_file(path: str) -> Path:
    """Return the absolute path of a local file to write, after its folder was created.

    Raises:
        StorageError: the path is a URI or a folder, or its folder cannot be created.
    """
    if is_uri(path):
        raise StorageError(f"{path}: is written to a path of this machine, not to a URI")
    try:
        target = Path(path).expanduser().absolute()
        target.parent.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:
        raise StorageError(f"{path}: cannot be written: {error}") from error
    if target.is_dir():
        raise StorageError(f"{path}: is a folder; name a file")
    return target


def copy_folder(source: str, target: str) -> None:
    """Copy a folder to a new path; locally the folder appears whole, in an object store each file does.

    Raises:
        StorageError: it cannot be read or written, or was copied in part.
    """
    from pyarrow.fs import copy_files

    try:
        source_filesystem, source_inside = resolve_filesystem(source)
        filesystem, inside = resolve_filesystem(target)
        if is_uri(target):
            if filesystem.type_name == "local":  # an object store has no folders
                filesystem.create_dir(inside, recursive=True)
            copy_files(source_inside, inside, source_filesystem, filesystem)
            _check_copied(list_file_sizes(source), target)
            return
        part = f"{inside}.{os.getpid()}.part"
        shutil.rmtree(part, ignore_errors=True)
        Path(part).mkdir(parents=True)
        copy_files(source_inside, part, source_filesystem, filesystem)
        shutil.rmtree(inside, ignore_errors=True)
        os.rename(part, inside)
    except OSError as error:
        raise StorageError(f"{source} cannot be copied to {target}: {error}") from error


def _check_copied(expected: dict[str, int], target: str) -> None:
    """Raise if a copy lacks files: pyarrow's copy_files is silent when a part of an upload fails."""
    sizes = list_file_sizes(target)
    incomplete = sorted(name for name, size in expected.items() if sizes.get(name) != size)
    if incomplete:
        raise StorageError(f"{target}: {', '.join(incomplete)} was not copied completely")


def _split(path: str) -> tuple[str, str]:
    """Return a URI without its query, and the query with its "?"; a path has none."""
    before, mark, query = path.partition("?") if is_uri(path) else (path, "", "")
    return before, mark + query


def list_file_sizes(folder: str) -> dict[str, int]:
    """Return the size in bytes of all files in a folder, by path inside it; empty if it does not exist.

    Raises:
        StorageError: the storage cannot be listed.
    """
    from pyarrow.fs import FileSelector

    filesystem, inside = resolve_filesystem(folder)
    try:
        entries = filesystem.get_file_info(FileSelector(inside, recursive=True, allow_not_found=True))
    except OSError as error:
        raise StorageError(f"{folder}: cannot be listed: {error}") from error
    return {entry.path.removeprefix(inside).lstrip("/"): entry.size for entry in entries if entry.is_file}


@contextmanager
def output_folder(path: str) -> Iterator[Path]:
    """Yield a local folder to write into: `path`, or for a URI a temporary folder that is copied there on success.

    Raises:
        StorageError: the path cannot be written.
    """
    try:
        if not is_uri(path):
            Path(path).mkdir(parents=True, exist_ok=True)
            yield Path(path)
            return
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
            copy_folder(folder, path)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error}") from error


@contextmanager
def as_local_folder(path: str) -> Iterator[Path]:
    """Yield a local folder with the content of `path`: the path itself, or for a URI a temporary copy."""
    if not is_uri(path):
        yield Path(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        copy_folder(path, folder)
        yield Path(folder)


def cache_folder(storage: str) -> Path:
    """Return the folder for results that are expensive to compute and can be recomputed."""
    if is_uri(storage):
        return Path.home() / ".cache" / "finetune-cnn"
    return Path(absolute_path(storage)) / "cache"


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
