"""Adding up tensors of workers on one machine through memory that they share.

Between processes of one machine torch's gloo takes one to two milliseconds for a few hundred numbers, most of it until
a sleeping thread runs again; a step takes some twenty. Here each worker writes what it has into a part of a file in
memory, counts, and looks at the others' counts until they have done so too; then each adds up all parts in the order
of the workers, so that all get the same bits.

A message lies in one of two places by turns: whoever writes the next but one has read all of the next, which nobody
posts before having read this one.
"""

import mmap
import os
import platform
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

SHARED_MEMORY_FOLDER = "/dev/shm"
# Bytes of a worker's message at most, and of all messages; longer ones do not go this way.
MAX_MESSAGE_BYTES = 8 << 20
MAX_TOTAL_BYTES = 56 << 20  # containers have 64 MiB unless told otherwise
# What follows a write is seen after it: x86 keeps the order of writes, others need more than Python can say.
TOTAL_STORE_ORDER_MACHINES = ("x86_64", "AMD64")
TIMEOUT_S = 1800.0

_LINE = 64  # bytes; a count has a cache line of its own
_SPINS = 2000  # looks before others may run on this core
_YIELDS = 20_000  # times that they may before it sleeps


class SharedMemoryAllReduce:
    """One worker's view of the memory.

    Args:
        path: of a file of `length(size)` bytes, the same for all workers; it may be removed once all have it.
        rank, size: which worker of how many.
    """

    def __init__(self, path: str, rank: int, size: int) -> None:
        self.rank, self.size, self.max_message_bytes = rank, size, max_message_bytes(size)
        with Path(path).open("r+b") as stream:
            self._memory = mmap.mmap(stream.fileno(), file_bytes(size))
        self._counts = memoryview(self._memory)[: size * _LINE].cast("q")
        self._posted = 0
        self._open = False

    @classmethod
    def create_file(cls, size: int) -> str | None:
        """Make the file and return its path; None where there is no such memory, or not enough."""
        if platform.machine() not in TOTAL_STORE_ORDER_MACHINES or not Path(SHARED_MEMORY_FOLDER).is_dir():
            return None
        path = None
        try:
            handle, path = tempfile.mkstemp(prefix="neighbours-", dir=SHARED_MEMORY_FOLDER)
            with os.fdopen(handle, "wb") as stream:
                # Or a full file system would end the process at some write.
                os.posix_fallocate(stream.fileno(), 0, file_bytes(size))
        except OSError:
            if path is not None:
                Path(path).unlink()
            return None
        return path

    @classmethod
    def open(cls, path: str, rank: int, size: int) -> Self | None:
        """Return the view, or None where the file is not: on another machine."""
        with suppress(OSError, ValueError):
            return cls(path, rank, size)
        return None

    def post(self, tensor: Tensor) -> None:
        """Hand in a message; all workers hand in the same number of elements, and `add_up` it before the next."""
        assert not self._open, "the message before was not added up"
        self._open = True
        self._posted += 1
        self._part(self.rank, tensor).copy_(tensor)
        self._counts[self.rank * (_LINE // 8)] = self._posted

    def reduce(self, tensor: Tensor) -> Tensor:
        """Wait for the others' messages, and replace one's own, which was posted, by the sum of all."""
        for rank in range(self.size):
            if rank != self.rank:
                self._wait(rank)
        first, second, *others = (self._part(rank, tensor) for rank in range(self.size))
        torch.add(first, second, out=tensor)
        for part in others:
            tensor.add_(part)
        self._open = False
        return tensor

    def _part(self, rank: int, like: Tensor) -> Tensor:
        """Return the place of a worker's message, as a tensor."""
        start = self.size * _LINE + (rank * 2 + self._posted % 2) * self.max_message_bytes
        return torch.frombuffer(self._memory, dtype=like.dtype, count=like.numel(), offset=start).view_as(like)

    def _wait(self, rank: int) -> None:
        counts, place, number = self._counts, rank * (_LINE // 8), self._posted
        for _ in range(_SPINS):
            if counts[place] >= number:
                return
        for _ in range(_YIELDS):
            os.sched_yield()
            if counts[place] >= number:
                return
        deadline = time.monotonic() + TIMEOUT_S
        while counts[place] < number:
            time.sleep(0.0005)
            if time.monotonic() > deadline:
                raise TimeoutError(f"worker {rank} was not heard of for {TIMEOUT_S:g} s")


def max_message_bytes(size: int) -> int:
    """Return the bytes that a message may have among so many workers."""
    return min(MAX_MESSAGE_BYTES, MAX_TOTAL_BYTES // (2 * size) // _LINE * _LINE)


def file_bytes(size: int) -> int:
    """Return the bytes that so many workers need."""
    return size * (_LINE + 2 * max_message_bytes(size))
