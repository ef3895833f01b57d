"""Arrays that are computed once on a machine and shared by its processes, which map them from a file.

The files are in the machine's temporary folder, in one that belongs to the user. A file is named by a hash of what its
arrays are computed from. Each of its arrays begins with a cache line; a checksum is last, which every process verifies:
a file that a crash left empty or filled with zeros is replaced.

A process holds a shared lock on the file as long as it maps an array. Of the files of a kind without a lock only the
one used last remains. If no file can be written, the process has arrays of its own.
"""

import fcntl
import hashlib
import os
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from math import prod
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np

from cluster.durable_files import temporary_path
from jobs.compilation.intrinsics import CACHE_LINE

Kind = Literal["table", "linear"]  # suffix of a file

NUM_UNUSED_TO_KEEP = 1  # of each kind
_HEADER, _CHECKSUM_BYTES = b"CRC3", 8


class Layout(NamedTuple):
    """Shape and type of an array."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def num_bytes(self) -> int:
        """Size of the array."""
        return prod(self.shape) * np.dtype(self.dtype).itemsize

    @property
    def padded_bytes(self) -> int:
        """Size in a file, with the rest of its last cache line."""
        return -(-self.num_bytes // CACHE_LINE) * CACHE_LINE


def shared_folder() -> Path:
    """Return the folder of this machine's files; PermissionError if other users can write to it."""
    path = Path(tempfile.gettempdir(), f"finetune-cnn-tables-{os.getuid()}")
    path.mkdir(mode=0o700, exist_ok=True)
    status = path.lstat()
    if status.st_uid != os.getuid() or status.st_mode & 0o77 or path.is_symlink():
        raise PermissionError(f"{path} can be written by other users")
    return path


def load_or_compute(
    kind: Kind, inputs: Sequence[np.ndarray], layouts: Sequence[Layout], compute: Callable[[], Sequence[np.ndarray]]
) -> list[np.ndarray]:
    """Return arrays, mapped read-only from their file where there can be one.

    Args:
        inputs: what they are computed from, `layouts` included.
        layouts: of the arrays that `compute` returns.
    """
    try:
        path = shared_folder() / f"{_digest(inputs)}.{kind}"
        arrays = _map(path, layouts)
        if arrays is None:
            with _exclusive_lock(path.with_suffix(".lock")):  # one process computes, the others wait
                arrays = _map(path, layouts)
                if arrays is None:
                    _write(path, layouts, compute())
                    arrays = _map(path, layouts)
        _remove_unused(path.parent)
        return [*compute()] if arrays is None else arrays
    except (OSError, ValueError):
        return [*compute()]


def make_array(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Return an uninitialised array that begins with a cache line, as in a file: other loads take twice the time."""
    layout = Layout(shape, dtype)
    memory = np.empty(layout.num_bytes + CACHE_LINE, np.uint8)
    start = -memory.ctypes.data % CACHE_LINE
    return memory[start : start + layout.num_bytes].view(dtype).reshape(shape)


def _map(path: Path, layouts: Sequence[Layout]) -> list[np.ndarray] | None:
    """Return the arrays of a file, locked while one is in use; None if there is no such file, or if it is damaged."""
    num_bytes = sum(layout.padded_bytes for layout in layouts)
    with suppress(FileNotFoundError), path.open("rb") as stream:
        if os.fstat(stream.fileno()).st_size != num_bytes + _CHECKSUM_BYTES:
            return None
        fcntl.flock(stream, fcntl.LOCK_SH)  # of the open file, which the mapping keeps open
        memory = np.memmap(stream, np.uint8, "r")
        if _format_checksum(zlib.crc32(memory[:num_bytes].data)) != memory[num_bytes:].tobytes():
            return None
        os.utime(path)
        arrays, start = [], 0
        for layout in layouts:
            arrays.append(memory[start : start + layout.num_bytes].view(layout.dtype).reshape(layout.shape))
            start += layout.padded_bytes
        return arrays
    return None


@contextmanager
def _exclusive_lock(path: Path) -> Iterator[None]:
    with path.open("wb") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
        path.unlink(missing_ok=True)


def _write(path: Path, layouts: Sequence[Layout], arrays: Sequence[np.ndarray]) -> None:
    # Without fsync, which takes longer than the computation: the checksum shows what a crash left incomplete.
    part = temporary_path(path)
    checksum = 0
    try:
        with part.open("wb") as stream:
            fcntl.flock(stream, fcntl.LOCK_SH)
            for layout, array in zip(layouts, arrays, strict=True):
                assert Layout(array.shape, array.dtype.name) == layout, "the file would not fit"
                for content in (array.data, bytes(layout.padded_bytes - layout.num_bytes)):
                    stream.write(content)
                    checksum = zlib.crc32(content, checksum)
            stream.write(_format_checksum(checksum))
            os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _remove_unused(folder: Path) -> None:
    """Remove the files that no process uses, except those of each kind that were used last."""
    unused: dict[str, list[tuple[float, Path]]] = {}
    for path in folder.iterdir():
        with suppress(OSError), path.open("rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            unused.setdefault(path.suffix, []).append((path.stat().st_mtime, path))
    for suffix, files in unused.items():
        num_to_keep = NUM_UNUSED_TO_KEEP if suffix[1:] in get_args(Kind) else 0
        for _, path in sorted(files, reverse=True)[num_to_keep:]:
            path.unlink(missing_ok=True)


def _format_checksum(checksum: int) -> bytes:
    # CRC-32 takes a third of the time of SHA-256, and only accidents are to be detected.
    return _HEADER + checksum.to_bytes(_CHECKSUM_BYTES - len(_HEADER), "little")


def _digest(arrays: Sequence[np.ndarray]) -> str:
    sha256 = hashlib.sha256()
    for array in arrays:
        sha256.update(repr((array.shape, array.dtype.str)).encode())
        sha256.update(np.ascontiguousarray(array).data)
    return sha256.hexdigest()
