"""Where runs lie: a local folder, a shared one, or an object store, by path or URI.

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
    """Tell whether a path names an object store or another remote file system."""
    return "://" in path


def absolute_path(path: str | Path) -> str:
    """Return a path that means the same in every process; a URI as it is."""
    path = str(path)
    return path if is_uri(path) else str(Path(path).expanduser().absolute())


def join(folder: str, *names: str) -> str:
    """Return the path of something inside a folder; what a URI asks for after its "?" stays at its end."""
    path, query = _split(folder)
    return "/".join([path.rstrip("/"), *names]) + query


def parent(path: str) -> str:
    """Return the folder that something lies in."""
    path, query = _split(path)
    return path.rstrip("/").rpartition("/")[0] + query


def exists(path: str) -> bool:
    """Tell whether there is a file or folder; StorageError if the storage does not answer."""
    return _type_of(path) != "NotFound"


def is_folder(path: str) -> bool:
    """Tell whether there is a folder; StorageError if the storage does not answer."""
    return _type_of(path) == "Directory"


def list_folders(path: str) -> list[str]:
    """Return the names of the folders in a folder, in no order; none if it is not there."""
    from pyarrow.fs import FileSelector, FileType

    filesystem, inside = resolve_filesystem(path)
    try:
        found = filesystem.get_file_info(FileSelector(inside, allow_not_found=True))
    except OSError as error:
        raise StorageError(f"{path}: cannot be read: {error}") from error
    return [info.base_name for info in found if info.type == FileType.Directory]


def remove_folder(path: str) -> None:
    """Remove a folder and all that is in it, if it is there."""
    filesystem, inside = resolve_filesystem(path)
    try:
        if exists(path):
            filesystem.delete_dir(inside)
    except OSError as error:
        raise StorageError(f"{path}: cannot be removed: {error}") from error


def read_text(path: str) -> str:
    """Return a file's UTF-8 text; StorageError if there is none."""
    filesystem, inside = resolve_filesystem(path)
    try:
        with filesystem.open_input_stream(inside) as stream:
            return stream.read().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError(f"{path}: cannot be read: {error}") from error


def write_text(path: str, text: str) -> None:
    """Write a file whole, over what was there."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: str, value: object) -> None:
    """Write a value as JSON into a file, whole or not at all; StorageError if it cannot be written."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_bytes(path: str, content: bytes) -> None:
    """Write a file whole, over what was there."""
    filesystem, inside = resolve_filesystem(path)
    if not is_uri(path):
        with atomic_write(Path(inside)) as part:
            part.write_bytes(content)
        return
    try:
        if filesystem.type_name == "local":  # a store has no folders
            filesystem.create_dir(inside.rpartition("/")[0], recursive=True)
        with filesystem.open_output_stream(inside) as stream:
            stream.write(content)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error}") from error


def _type_of(path: str) -> str:
    """Return `File`, `Directory`, `NotFound` or `Unknown`."""
    filesystem, inside = resolve_filesystem(path)
    try:
        return filesystem.get_file_info(inside).type.name
    except OSError as error:
        raise StorageError(f"{path}: the storage does not answer: {error}") from error


def _split(path: str) -> tuple[str, str]:
    """Return a URI and its query, "?" included; a path has none."""
    before, mark, query = path.partition("?") if is_uri(path) else (path, "", "")
    return before, mark + query


def remove_file(path: str) -> None:
    """Delete a file; StorageError if it cannot be."""
    filesystem, inside = resolve_filesystem(path)
    try:
        filesystem.delete_file(inside)
    except OSError as error:
        raise StorageError(f"{path}: cannot be deleted: {error}") from error


@contextmanager
def lock_folder(folder: str) -> Iterator[None]:
    """Hold a folder against other commands; the lock goes with the process, however it ends. URIs have none.

    Raises:
        StorageError: another command holds it, or it cannot be written.
    """
    if is_uri(folder):
        yield
        return
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        stream = Path(folder, ".lock").open("w")  # noqa: SIM115 held open below
    except OSError as error:
        raise StorageError(f"{folder}: cannot be written: {error}") from error
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StorageError(f"{folder}: another command is at work on this run; wait for it to end") from error
        yield


@contextmanager
def atomic_write(target: Path) -> Iterator[Path]:
    """Hold the path of a file to write beside `target`, which takes its place when all went well.

    Raises:
        StorageError: it cannot be written.
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
    """Return the file of this machine that a path means, to be written; its folder is made.

    Raises:
        StorageError: it is a URI or a folder, or cannot be written.
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
    """Copy a folder to where nothing is yet; locally it appears whole, in a store its files do.

    Raises:
        StorageError: it cannot be read or written, or did not arrive whole.
    """
    from pyarrow.fs import copy_files

    try:
        source_filesystem, source_inside = resolve_filesystem(source)
        filesystem, inside = resolve_filesystem(target)
        if is_uri(target):
            if filesystem.type_name == "local":  # a store has no folders
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
    """Raise where files did not arrive: pyarrow's copy_files is silent when a part of an upload fails."""
    found = list_file_sizes(target)
    lost = sorted(name for name, size in expected.items() if found.get(name) != size)
    if lost:
        raise StorageError(f"{target}: {', '.join(lost)} did not arrive whole")


def list_file_sizes(folder: str) -> dict[str, int]:
    """Return the bytes of all files in a folder, by their path inside it; none where there is no folder.

    Raises:
        StorageError: the storage cannot be listed.
    """
    from pyarrow.fs import FileSelector

    filesystem, inside = resolve_filesystem(folder)
    try:
        found = filesystem.get_file_info(FileSelector(inside, recursive=True, allow_not_found=True))
    except OSError as error:
        raise StorageError(f"{folder}: cannot be listed: {error}") from error
    return {info.path.removeprefix(inside).lstrip("/"): info.size for info in found if info.is_file}


@contextmanager
def output_folder(path: str) -> Iterator[Path]:
    """Hold a folder of this machine to write into: `path` itself, or one that is copied there when all went well.

    Raises:
        StorageError: it cannot be written.
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
    """Hold a folder of this machine with the contents of `path`: itself, or a copy that is removed after."""
    if not is_uri(path):
        yield Path(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        copy_folder(path, folder)
        yield Path(folder)


def cache_folder(storage: str) -> Path:
    """Return the folder for what is expensive to make and can be made again."""
    if is_uri(storage):
        return Path.home() / ".cache" / "finetune-cnn"
    return Path(absolute_path(storage)) / "cache"


def resolve_filesystem(path: str) -> "tuple[FileSystem, str]":
    """Return pyarrow's file system for a path or URI, and the path inside it; StorageError if it knows none."""
    from pyarrow.fs import FileSystem, LocalFileSystem

    if not is_uri(path):
        return LocalFileSystem(), absolute_path(path)
    try:
        return FileSystem.from_uri(path)
    except (OSError, ValueError, ImportError) as error:
        raise StorageError(f"{path}: not a storage that can be opened: {error}") from error
