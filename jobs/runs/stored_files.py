"""Files of a folder of runs, on this machine or in an object store, with their sizes and times."""

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cluster.storage import StorageError, absolute_path, is_uri, resolve_filesystem


@dataclass(frozen=True)
class StoredFile:
    """One name of a file. modified, used: seconds since 1970; 0 if the storage has no times. used: that of
    the last change in an object store.

    links: number of names of the file; checkpoints share files that are equal. identity: the same for all of them.
    """

    size: int
    modified: float
    used: float
    links: int
    identity: object


def list_files(folder: str) -> Mapping[str, StoredFile]:
    """Return all files in a folder by their path inside it; empty if it does not exist.

    Raises:
        StorageError: the storage cannot be listed.
    """
    return _list_remote(folder) if is_uri(folder) else _list_local(Path(absolute_path(folder)))


def unique_size(files: Iterable[StoredFile]) -> int:
    """Return the bytes of some files; a file with several names counts once."""
    return sum({file.identity: file.size for file in files}.values())


def freed_size(files: Iterable[StoredFile]) -> int:
    """Return the bytes that are freed if some files are deleted: a file stays while it has other names."""
    files = list(files)
    removed = Counter(file.identity for file in files)
    return unique_size(file for file in files if removed[file.identity] >= file.links)


def format_time(seconds: float) -> str:
    """Return a time in the local time zone, to the minute."""
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M") if seconds else "unknown"


def _list_local(folder: Path) -> dict[str, StoredFile]:
    files = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            try:
                status = path.lstat()
            except FileNotFoundError:  # deleted since the folder was listed
                continue
            files[path.relative_to(folder).as_posix()] = StoredFile(
                status.st_size,
                status.st_mtime,
                max(status.st_mtime, status.st_atime),
                status.st_nlink,
                (status.st_dev, status.st_ino),
            )
    return files


def _list_remote(folder: str) -> dict[str, StoredFile]:
    from pyarrow.fs import FileSelector

    filesystem, inside = resolve_filesystem(folder)
    try:
        entries = filesystem.get_file_info(FileSelector(inside, recursive=True, allow_not_found=True))
    except OSError as error:
        raise StorageError(f"{folder}: cannot be listed: {error}") from error
    files = {}
    for entry in entries:
        if entry.is_file:
            modified = entry.mtime.timestamp() if entry.mtime else 0.0
            files[entry.path.removeprefix(inside).lstrip("/")] = StoredFile(
                entry.size, modified, modified, links=1, identity=entry.path
            )
    return files
