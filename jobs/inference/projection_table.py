"""Projection table: each word's products with the filters, computed once and shared by a machine's processes.

It is laid out as described in `jobs.inference.scoring_kernel` and mapped from a file in the machine's temporary folder.
The folder belongs to the user. The file is named by a hash of what the table is computed from, and ends with a
checksum of the table, which every process verifies: a file that a crash left empty or filled with zeros is replaced.

A process holds a shared lock on the file as long as it maps the table. Of the tables without a lock only the one used
last remains. If no file can be written, the process has a table of its own.
"""

import fcntl
import hashlib
import os
import tempfile
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np

from cluster.durable_files import temporary_path

DEFAULT_TABLE_BYTES = 256 << 20
NUM_UNUSED_TO_KEEP = 1
CHECKSUM_BYTES = 8


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
        path = table_folder() / f"{_digest(vectors, filters)}.table"
        shape = len(vectors), filters.shape[1]
        table = _map(path, shape)
        if table is None:
            _write(path, compute(vectors, filters))
            table = _map(path, shape)
        _remove_unused(path.parent)
        return compute(vectors, filters) if table is None else table
    except (OSError, ValueError):
        return compute(vectors, filters)


def compute(vectors: np.ndarray, filters: np.ndarray) -> np.ndarray:
    """Return `vectors @ filters`, `(words, columns)` float32."""
    table: np.ndarray = vectors @ filters
    return table


def _map(path: Path, shape: tuple[int, int]) -> np.ndarray | None:
    """Return the table of a file, locked while it is in use; None if there is no such file, or if it is damaged."""
    with suppress(FileNotFoundError), path.open("rb") as stream:
        if os.fstat(stream.fileno()).st_size != 4 * shape[0] * shape[1] + CHECKSUM_BYTES:
            return None
        fcntl.flock(stream, fcntl.LOCK_SH)  # of the open file, which the mapping keeps open
        table = np.memmap(stream, np.float32, "r", shape=shape)
        stream.seek(-CHECKSUM_BYTES, os.SEEK_END)
        if _checksum(table) == stream.read():
            os.utime(path)
            return table
    return None


def _write(path: Path, table: np.ndarray) -> None:
    # Without fsync, which takes longer than the computation: the checksum shows what a crash left incomplete.
    part = temporary_path(path)
    try:
        with part.open("wb") as stream:
            fcntl.flock(stream, fcntl.LOCK_SH)
            stream.write(table.data)
            stream.write(_checksum(table))
            os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _remove_unused(folder: Path) -> None:
    """Remove the files that no process uses, except the tables used last."""
    unused = []
    for path in folder.iterdir():
        with suppress(OSError), path.open("rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            unused.append((path.suffix == ".table", path.stat().st_mtime, path))
    for *_, path in sorted(unused, reverse=True)[NUM_UNUSED_TO_KEEP:]:
        path.unlink(missing_ok=True)


def _checksum(table: np.ndarray) -> bytes:
    # CRC-32 takes a third of the time of SHA-256, and only accidents are to be detected.
    return b"CRC1" + zlib.crc32(table.data).to_bytes(4, "little")


def _digest(*arrays: np.ndarray) -> str:
    sha256 = hashlib.sha256()
    for array in arrays:
        sha256.update(repr(array.shape).encode())
        sha256.update(np.ascontiguousarray(array).data)
    return sha256.hexdigest()
