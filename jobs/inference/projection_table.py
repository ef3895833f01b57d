"""Each word's product with each filter place, computed once and shared by all replicas of a machine as a mapped file.

The files lie in a folder of this user's in the machine's temporary folder, named by what they are made from; those
that nobody opened for a week are removed when the next is written. Where no file can be written, the table is this
process's own.
"""

import hashlib
import os
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import numpy as np

DEFAULT_TABLE_BYTES = 256 << 20
MAX_UNUSED_S = 7 * 24 * 3600


def table_folder() -> Path:
    """Return where this machine's tables lie; PermissionError if it is somebody else's."""
    path = Path(tempfile.gettempdir(), f"finetune-cnn-tables-{os.getuid()}")
    path.mkdir(mode=0o700, exist_ok=True)
    found = path.lstat()
    if found.st_uid != os.getuid() or found.st_mode & 0o77 or path.is_symlink():
        raise PermissionError(f"{path} can be written by others")
    return path


def load_or_compute(vectors: np.ndarray, filters: np.ndarray) -> np.ndarray:
    """Return `vectors @ filters`, `(words, columns)` float32, mapped read-only from this machine's file of it."""
    try:
        path = table_folder() / f"{_digest(vectors, filters)}.npy"
        if not path.exists():
            _write(path, vectors @ filters)
        os.utime(path)
        return np.load(path, mmap_mode="r")
    except (OSError, ValueError):
        return vectors @ filters


def _write(path: Path, table: np.ndarray) -> None:
    for other in path.parent.glob("*.npy*"):
        with suppress(OSError):
            if time.time() - other.stat().st_mtime > MAX_UNUSED_S:
                other.unlink()
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as stream:
            np.save(stream, table)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _digest(*arrays: np.ndarray) -> str:
    found = hashlib.sha256()
    for array in arrays:
        found.update(repr(array.shape).encode())
        found.update(np.ascontiguousarray(array))
    return found.hexdigest()
