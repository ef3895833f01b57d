"""Cache of array files in a folder: written completely or not at all, and never read if they are damaged.

It is in the storage. If that is at a URI, which cannot be mapped into memory, the cache is in a folder of the user on
this machine, where the size and the age of the files are limited. Processes on other nodes have no such folder, and
another command may remove a file that is in use: its arrays stay, but no process can open it again. So these files are
not shared.
"""

import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from cluster.durable_files import make_private_folder, user_cache_path
from jobs.datasets.prepared.array_file import ArrayFile, ArrayWriter, create_array_file, open_array_file

logger = logging.getLogger(__name__)

NUM_KEY_DIGITS = 32  # in the names of files; so many that different texts never have the same
USER_CACHE = "corpora"
MAX_USER_CACHE_BYTES = 50 * 10**9
MAX_UNUSED_S = 30 * 24 * 3600.0
IN_USE_S = 3600.0  # so that commands at the same time do not remove each other's files
MAX_WRITING_S = 24 * 3600.0  # without a change; then the writer was killed

_OWN_NAMES = re.compile(r"(texts|tokens)-\w+\.arrays|\..+\.part")


class ChangedSourceError(Exception):
    """The files that an array file is made of have changed meanwhile."""


def find_user_cache() -> Path | None:
    """Return the user's folder, which exists then and which only the user can read.

    None if it cannot be written, or if others can write it.
    """
    folder = user_cache_path(USER_CACHE)
    if folder is None or not make_private_folder(folder):
        return None
    folder.chmod(0o700)  # it may have existed
    return folder


def load_or_create(
    path: Path | None, write: Callable[[ArrayWriter, Path], None], check: Callable[[], None] | None = None
) -> ArrayFile:
    """Return the arrays of a file, which is written if there is none, or if it is damaged.

    Args:
        path: None, or where no file can be written: the file gets no name, and is deleted with its arrays.
        write: writes the arrays and the metadata; the folder is for temporary files. It is called again, for a file
            without a name, if it raises an OSError.
        check: called before a written file gets its name. If it raises a ChangedSourceError, `write` is called again,
            for a file without a name.
    """
    if path is None:
        return _create(None, write)
    is_shared = path.parent != user_cache_path(USER_CACHE)
    try:
        return replace(_load_or_create_named(path, write, check), is_shared=is_shared)
    except OSError as error:
        logger.warning(f"{path}: cannot be written, so the next command reads the texts again: {error}")
    except ChangedSourceError as error:
        logger.warning(f"{error}; they are read again, and by the next command too")
    finally:
        if not is_shared:
            with suppress(OSError):
                _remove_old_files(path.parent)
    return _create(None, write)


def _load_or_create_named(
    path: Path, write: Callable[[ArrayWriter, Path], None], check: Callable[[], None] | None
) -> ArrayFile:
    file = open_array_file(path)
    if file is None:
        return _create(path, write, check)
    logger.info(f"from the cache: {path}")
    with suppress(OSError):
        os.utime(path)  # it was used now
    return file


def _create(
    path: Path | None, write: Callable[[ArrayWriter, Path], None], check: Callable[[], None] | None = None
) -> ArrayFile:
    with create_array_file(path) as (writer, finished):
        write(writer, Path(tempfile.gettempdir()) if path is None else path.parent)
        if check is not None:
            check()
    return finished[0]


def _remove_old_files(folder: Path) -> None:
    """Remove files that were not used for long, and those used the longest time ago beyond the limit of the size.

    The limit is also half of the space that nothing else uses, so that the cache does not fill the disk.
    """
    files = []
    for entry in os.scandir(folder):
        with suppress(FileNotFoundError):  # another command has renamed or removed it
            if _OWN_NAMES.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                files.append((entry.stat(follow_symlinks=False), Path(entry.path)))
    total = sum(status.st_size for status, _ in files)
    limit = min(MAX_USER_CACHE_BYTES, (shutil.disk_usage(folder).free + total) // 2)
    now, size = time.time(), 0
    for status, path in sorted(files, key=lambda file: -file[0].st_mtime):
        unused_s = now - status.st_mtime
        size += status.st_size
        is_old = unused_s > IN_USE_S and (size > limit or unused_s > MAX_UNUSED_S)
        if unused_s > MAX_WRITING_S if path.suffix == ".part" else is_old:
            path.unlink(missing_ok=True)
