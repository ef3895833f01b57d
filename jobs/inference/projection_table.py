"""Projection table: each word's products with the filters, computed once and shared by a machine's processes.

It is laid out as described in `jobs.inference.scoring_kernel` and mapped from a file in the machine's temporary folder.
The folder belongs to the user, and the file is named by a hash of what the table is computed from. Files that nobody
has opened for a week are removed when the next one is written. If no file can be written, the process has a table of
its own.
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
    """Return the folder of this machine's tables; PermissionError if other users can write to it."""
    path = Path(tempfile.gettempdir(), f"finetune-cnn-tables-{os.getuid()}")
    path.mkdir(mode=0o700, exist_ok=True)
    status = path.lstat()
    if status.st_uid != os.getuid() or status.st_mode & 0o77 or path.is_symlink():
        raise PermissionError(f"{path} can be written by other users")
    return path


def load_or_compute(vectors: np.ndarray, filters: np.ndarray) -> np.ndarray:
    """Return `vectors @ filters`, `(words, columns)` float32, mapped read-only from its file where there can be one."""
    try:
        path = table_folder() / f"{_digest(vectors, filters)}.npy"
        if not path.exists():
            _write(path, _product(vectors, filters))
        os.utime(path)
        table: np.ndarray = np.load(path, mmap_mode="r")
        return table
    except (OSError, ValueError):
        return _product(vectors, filters)


def _product(vectors: np.ndarray, filters: np.ndarray) -> np.ndarray:
    table: np.ndarray = vectors @ filters
    return table


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
    sha256 = hashlib.sha256()
    for array in arrays:
        sha256.update(repr(array.shape).encode())
        sha256.update(np.ascontiguousarray(array).data)
    return sha256.hexdigest()
