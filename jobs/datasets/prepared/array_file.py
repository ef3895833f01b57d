"""File of named arrays that is mapped into memory, with a checksum of each: a damaged file is not used.

arrays    each starts at a multiple of 64 bytes
contents  JSON: metadata, and of each array its dtype, shape, position in bytes, and CRC-32
end       32 bytes: length and CRC-32 of the contents, size of the file, uint64, and MAGIC
"""

import json
import mmap
import os
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from cluster.durable_files import make_folder, publish_file, temporary_path

MAGIC = b"ARRAYS01"
ALIGNMENT = 64
CHUNK_BYTES = 1 << 20
_END = struct.Struct("<QQQ8s")


@dataclass(frozen=True)
class ArrayFile:
    """Arrays by name, read-only, and metadata that JSON can represent.

    path: None: the file has no name, and is deleted when its arrays are. is_shared: other processes that use the
    arrays can open the path, now and later.
    """

    arrays: Mapping[str, np.ndarray]
    metadata: Mapping[str, Any]
    path: Path | None = None
    is_shared: bool = True

    def __reduce__(self) -> tuple[Callable[..., "ArrayFile"], tuple[Any, ...]]:
        """Pickle the path of a shared file, so that another process of this machine maps the same memory."""
        if self.path is not None and self.is_shared:
            return _open_again, (self.path,)
        return ArrayFile, ({name: np.array(array) for name, array in self.arrays.items()}, self.metadata)


class ArrayWriter:
    """Writes arrays one after the other."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._position = stream, 0
        self._arrays: dict[str, dict[str, Any]] = {}

    def append(self, name: str, array: np.ndarray) -> None:
        """Write an array, or, with the name of the previous call, further rows of the same array."""
        array = np.ascontiguousarray(array)
        entry = self._arrays.get(name)
        if entry is None:
            self._write(bytes(-self._position % ALIGNMENT))
            entry = {"dtype": array.dtype.str, "shape": [0, *array.shape[1:]], "start": self._position, "crc": 0}
            self._arrays[name] = entry
        assert name == list(self._arrays)[-1]
        content = array.reshape(-1).view(np.uint8).data
        entry["crc"] = zlib.crc32(content, entry["crc"])
        entry["shape"][0] += len(array)
        self._write(content)

    def finish(self, metadata: Mapping[str, Any]) -> None:
        """Write the contents; without them a file is not used."""
        content = json.dumps({"arrays": self._arrays, "metadata": metadata}).encode()
        size = self._position + len(content) + _END.size
        self._write(content)
        self._write(_END.pack(len(content), zlib.crc32(content), size, MAGIC))

    def _write(self, content: bytes | memoryview) -> None:
        self._stream.write(content)
        self._position += len(content)


@contextmanager
def create_array_file(path: Path | None) -> Iterator[tuple[ArrayWriter, list[ArrayFile]]]:
    """Yield a writer, and a list to which the finished file is added when the body succeeds.

    Args:
        path: where the file is named once it is complete and on the disk; None: it gets no name.

    Raises:
        OSError: the file cannot be written.
    """
    finished: list[ArrayFile] = []
    if path is None:
        with tempfile.TemporaryFile() as stream:
            yield ArrayWriter(stream), finished
            stream.flush()
            contents = _read_contents(stream)
            assert contents is not None
            finished.append(_map(stream, contents, None))
        return
    make_folder(path.parent)
    part = temporary_path(path)
    try:
        with part.open("wb") as stream:
            yield ArrayWriter(stream), finished
        publish_file(part, path)
    finally:
        part.unlink(missing_ok=True)
    finished.append(_open_again(path))


def open_array_file(path: Path) -> ArrayFile | None:
    """Return the file at a path, None if there is none or if it is damaged: all of its bytes are read."""
    try:
        with path.open("rb") as stream:
            contents = _read_contents(stream)
            if contents is None:
                return None
            with ThreadPoolExecutor() as pool:
                checks = [pool.submit(_has_checksum, path, entry) for entry in contents["arrays"].values()]
            if not all(check.result() for check in checks):
                return None
            return _map(stream, contents, path)
    except OSError:
        return None


def _open_again(path: Path) -> ArrayFile:
    with path.open("rb") as stream:
        contents = _read_contents(stream)
        if contents is None:
            raise OSError(f"{path}: is damaged; delete it")
        return _map(stream, contents, path)


def _read_contents(stream: BinaryIO) -> dict[str, Any] | None:
    size = os.fstat(stream.fileno()).st_size
    if size < _END.size:
        return None
    length, checksum, expected_size, magic = _END.unpack(os.pread(stream.fileno(), _END.size, size - _END.size))
    if magic != MAGIC or expected_size != size or length > size - _END.size:
        return None
    content = os.pread(stream.fileno(), length, size - _END.size - length)
    if zlib.crc32(content) != checksum:
        return None
    contents: dict[str, Any] = json.loads(content)
    return contents


def _has_checksum(path: Path, entry: Mapping[str, Any]) -> bool:
    remaining, checksum = _num_bytes(entry), 0
    with path.open("rb", buffering=0) as stream:
        stream.seek(entry["start"])
        while remaining:
            block = stream.read(min(remaining, CHUNK_BYTES))
            if not block:
                return False
            remaining -= len(block)
            checksum = zlib.crc32(block, checksum)
    return bool(checksum == entry["crc"])


def _num_bytes(entry: Mapping[str, Any]) -> int:
    num_bytes: int = np.dtype(entry["dtype"]).itemsize
    for size in entry["shape"]:
        num_bytes *= size
    return num_bytes


def _map(stream: BinaryIO, contents: Mapping[str, Any], path: Path | None) -> ArrayFile:
    mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    arrays = {}
    for name, entry in contents["arrays"].items():
        dtype, count = np.dtype(entry["dtype"]), _num_bytes(entry) // np.dtype(entry["dtype"]).itemsize
        arrays[name] = np.frombuffer(mapped, dtype, count, entry["start"]).reshape(entry["shape"])
    return ArrayFile(arrays, contents["metadata"], path)


def release(array: np.ndarray) -> None:
    """Let the system take back the memory of a mapped array's pages; they are read again when they are needed.

    So the memory of a command does not grow with the files that it reads once.
    """
    start = array.ctypes.data & -mmap.PAGESIZE
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    source = base.obj if isinstance(base, memoryview) else base
    if isinstance(source, mmap.mmap):
        first = np.frombuffer(source, np.uint8, 1).ctypes.data
        source.madvise(mmap.MADV_DONTNEED, start - first, array.ctypes.data + array.nbytes - start)
