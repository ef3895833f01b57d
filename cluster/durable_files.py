"""Durable files and folders of this machine: on the disk (fsync) before they have their name; the user's caches."""

import ctypes
import errno
import fcntl
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

# Errors of file systems that have no locks, or cannot flush a folder.
UNSUPPORTED = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)
AT_FDCWD, RENAME_EXCHANGE = -100, 2  # from Linux's fcntl.h and fs.h


def temporary_path(target: Path) -> Path:
    """Return a hidden path next to `target` that no other process, thread or host uses."""
    return target.with_name(f".{target.name}.{secrets.token_hex(8)}.part")


def make_folder(path: Path) -> None:
    """Create a folder and its parents, if they do not exist."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        flush(folder.parent)


@contextmanager
def remove_new_folders(path: Path | None) -> Iterator[None]:
    """Context manager: after an error, remove a folder and those above it that did not exist before, if empty."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()] if path else []
    try:
        yield
    except BaseException:
        for folder in missing:
            with suppress(OSError):  # it is not empty
                folder.rmdir()
        raise


def user_cache_path(name: str) -> Path | None:
    """Return the path of a folder among this user's caches, which need not exist; None for a user without a home.

    As its specification says, XDG_CACHE_HOME is ignored if it is no absolute path.
    """
    folder = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        return Path(folder if folder.is_absolute() else Path.home() / ".cache", "finetune-cnn", name)
    except RuntimeError:
        return None


def make_private_folder(folder: Path) -> bool:
    """Create a folder for this user alone, and return whether it can be written, and by nobody else."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.lstat()  # a link could lead to another folder of this user
    except OSError:
        return False
    return (
        stat.S_ISDIR(status.st_mode)
        and os.access(folder, os.W_OK)
        and status.st_uid == os.getuid()
        and not status.st_mode & 0o022
    )


def publish_file(part: Path, target: Path, *, replace: bool = True) -> None:
    """Rename a complete file to `target`, replacing it, or with `replace` False unless there is one."""
    flush(part)
    if replace:
        os.replace(part, target)
    else:
        try:
            os.link(part, target)  # unlike a rename it fails if the target exists
        except OSError:
            if not target.exists():  # the file system has no links
                os.replace(part, target)
    flush(target.parent)


def publish_folder(part: Path, target: Path) -> None:
    """Rename a complete folder to `target`, replacing it.

    After a crash there is the one or the other, or, if the system or the file system cannot exchange names, possibly
    only `part`: the earlier folder is removed first there.
    """
    for folder, _, files in os.walk(part):
        for name in (*files, "."):
            flush(Path(folder, name))
    if target.exists():
        if _exchange(part, target):
            flush(target.parent)
            shutil.rmtree(part, ignore_errors=True)
            return
        shutil.rmtree(target, ignore_errors=True)
    part.rename(target)
    flush(target.parent)


def _exchange(path: Path, other: Path) -> bool:
    """Exchange two names in one step; return False if the system or the file system cannot (only Linux can)."""
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    paths = (AT_FDCWD, os.fsencode(path), AT_FDCWD, os.fsencode(other))
    return renameat2 is not None and renameat2(*paths, RENAME_EXCHANGE) == 0


def flush(path: Path) -> None:
    """Wait until the content of a file, or the names in a folder, are on the disk; OSError if they cannot be written.

    On a virtual disk this took 0.03 to 0.05 s for 75 MB, whose writing took 0.1 to 0.2 s, and 6 ms for a small file
    (`dd if=/dev/zero of=x bs=1M count=75`, with and without `conv=fsync`).
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
    finally:
        os.close(descriptor)


def lock(stream: TextIO) -> bool:
    """Lock an open file, and return False if its file system has no locks.

    Raises:
        BlockingIOError: another process holds the lock, or has just removed the file.
        OSError: the file cannot be locked.
    """
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        return False
    if not os.fstat(stream.fileno()).st_nlink:
        raise BlockingIOError(errno.EWOULDBLOCK, "the file was removed by the process that held its lock")
    return True
