"""Projection table: each word's products with the filters, computed once and shared by a machine's processes.

It is laid out as described in `jobs.inference.scoring_kernel` and mapped from a file in the machine's temporary folder.
The folder belongs to the user. The file is named by a hash of what the table is computed from and of its type. It has
the values, the scales and a checksum, which every process verifies: a file that a crash left empty or filled with zeros
is replaced.

A process holds a shared lock on the file as long as it maps the table. Of the tables without a lock only the one used
last remains. If no file can be written, the process has a table of its own.
"""

import fcntl
import hashlib
import os
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from cluster.durable_files import temporary_path
from jobs.compilation.intrinsics import CACHE_LINE

TableDtype = Literal["int16", "float32"]

DEFAULT_TABLE_BYTES = 256 << 20
BATCH_TABLE_BYTES = 512 << 20  # in batch prediction, where a process has a core of its own
DEFAULT_TABLE_DTYPE: TableDtype = "int16"
NUM_UNUSED_TO_KEEP = 1
CHECKSUM_BYTES = 8
_FILTERS_AT_A_TIME = 32  # so that little memory is needed for the products in float32


def table_folder() -> Path:
    """Return the folder of this machine's tables; PermissionError if other users can write to it."""
    path = Path(tempfile.gettempdir(), f"finetune-cnn-tables-{os.getuid()}")
    path.mkdir(mode=0o700, exist_ok=True)
    status = path.lstat()
    if status.st_uid != os.getuid() or status.st_mode & 0o77 or path.is_symlink():
        raise PermissionError(f"{path} can be written by other users")
    return path


class ProjectionTable(NamedTuple):
    """A table and the scale of each filter, by which its entries are multiplied.

    values: `(words, columns)` int16 or float32; scales: `(filters,)` float32, all 1 if the values are float32.
    """

    values: np.ndarray
    scales: np.ndarray


def load_or_compute(
    vectors: np.ndarray, projection: np.ndarray, filter_indices: np.ndarray, dtype: TableDtype
) -> ProjectionTable:
    """Return the table of `compute`, mapped read-only from its file where there can be one."""
    try:
        path = table_folder() / f"{_digest(vectors, projection, filter_indices, np.empty(0, dtype))}.table"
        shape = len(vectors), projection.shape[1]
        table = _map(path, shape, filter_indices.max() + 1, dtype)
        if table is None:
            with _exclusive_lock(path.with_suffix(".lock")):  # one process computes, the others wait
                table = _map(path, shape, filter_indices.max() + 1, dtype)
                if table is None:
                    _write(path, compute(vectors, projection, filter_indices, dtype))
                    table = _map(path, shape, filter_indices.max() + 1, dtype)
        _remove_unused(path.parent)
        return compute(vectors, projection, filter_indices, dtype) if table is None else table
    except (OSError, ValueError):
        return compute(vectors, projection, filter_indices, dtype)


def compute(
    vectors: np.ndarray, projection: np.ndarray, filter_indices: np.ndarray, dtype: TableDtype
) -> ProjectionTable:
    """Return the table of `vectors @ projection`.

    With int16, all entries of a filter are rounded to multiples of its scale, so they differ by at most half of it.

    Args:
        vectors: `(words, dimensions)` float32; projection: `(dimensions, columns)` float32.
        filter_indices: `(columns,)` int64, the filter of each column.
    """
    num_filters = filter_indices.max() + 1
    values, scales = _empty_table((len(vectors), projection.shape[1]), dtype), np.ones(num_filters, np.float32)
    if dtype == "float32":
        return ProjectionTable(np.matmul(vectors, projection, out=values), scales)
    for first in range(0, num_filters, _FILTERS_AT_A_TIME):
        columns = np.flatnonzero((filter_indices >= first) & (filter_indices < first + _FILTERS_AT_A_TIME))
        filters = filter_indices[columns]
        products = vectors @ projection[:, columns]
        bounds = np.maximum(products.max(axis=0, initial=0), -products.min(axis=0, initial=0))
        filter_bounds = np.zeros(num_filters, np.float32)
        np.maximum.at(filter_bounds, filters, bounds)
        filter_scales = filter_bounds / np.float32(np.iinfo(np.int16).max)
        scales[filter_scales > 0] = filter_scales[filter_scales > 0]
        products /= scales[filters]
        values[:, columns] = np.rint(products, out=products)
    return ProjectionTable(values, scales)


def _empty_table(shape: tuple[int, int], dtype: TableDtype) -> np.ndarray:
    """Return an array that starts with a cache line, as a mapped file does: other loads take twice the time."""
    size = np.dtype(dtype).itemsize * shape[0] * shape[1]
    memory = np.empty(size + CACHE_LINE, np.uint8)
    start = -memory.ctypes.data % CACHE_LINE
    return memory[start : start + size].view(dtype).reshape(shape)


def _map(path: Path, shape: tuple[int, int], num_filters: int, dtype: TableDtype) -> ProjectionTable | None:
    """Return the table of a file, locked while it is in use; None if there is no such file, or if it is damaged."""
    num_bytes = np.dtype(dtype).itemsize * shape[0] * shape[1]
    with suppress(FileNotFoundError), path.open("rb") as stream:
        if os.fstat(stream.fileno()).st_size != num_bytes + 4 * num_filters + CHECKSUM_BYTES:
            return None
        fcntl.flock(stream, fcntl.LOCK_SH)  # of the open file, which the mapping keeps open
        values = np.memmap(stream, dtype, "r", shape=shape)
        stream.seek(num_bytes)
        table = ProjectionTable(values, np.frombuffer(stream.read(4 * num_filters), np.float32))
        if _checksum(table) == stream.read():
            os.utime(path)
            return table
    return None


@contextmanager
def _exclusive_lock(path: Path) -> Iterator[None]:
    with path.open("wb") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
        path.unlink(missing_ok=True)


def _write(path: Path, table: ProjectionTable) -> None:
    # Without fsync, which takes longer than the computation: the checksum shows what a crash left incomplete.
    part = temporary_path(path)
    try:
        with part.open("wb") as stream:
            fcntl.flock(stream, fcntl.LOCK_SH)
            stream.writelines(array.data for array in table)
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


def _checksum(table: ProjectionTable) -> bytes:
    # CRC-32 takes a third of the time of SHA-256, and only accidents are to be detected.
    return b"CRC2" + zlib.crc32(table.scales.data, zlib.crc32(table.values.data)).to_bytes(4, "little")


def _digest(*arrays: np.ndarray) -> str:
    sha256 = hashlib.sha256()
    for array in arrays:
        sha256.update(repr((array.shape, array.dtype.str)).encode())
        sha256.update(np.ascontiguousarray(array).data)
    return sha256.hexdigest()
