"""Messages between the workers of one machine, through shared memory.

Between processes of one machine torch's gloo takes one to two milliseconds for a few hundred numbers, most of it until
a sleeping thread runs again; a step takes about twenty. With shared memory each worker writes its message into its
part of a memory-mapped file, increments its counter, and polls the counters of the others. Then each worker reads what
it needs of the messages where they are.

File layout for n workers: n counters of one cache line each, then two message slots per worker. Messages use the two
slots alternately. Two slots suffice: a worker writes message k + 2 only after it has read message k + 1 of every
worker, and each worker writes message k + 1 only after it has read all messages k.
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
MAX_MESSAGE_BYTES = 8 << 20  # of one worker
MAX_TOTAL_BYTES = 56 << 20  # of the file; containers have 64 MiB of shared memory by default
MAX_WORKERS = 64  # on one machine; the messages of more workers would be too short for a row of each
# x86 makes writes visible in their order; other machines need memory barriers, which Python does not have.
TOTAL_STORE_ORDER_MACHINES = ("x86_64", "AMD64")
TIMEOUT_S = 600.0  # that a worker waits for the others before it fails; also where messages pass through torch

_CACHE_LINE = 64  # bytes
_SPINS = 2000  # polls before the worker yields its core
_YIELDS = 20_000  # polls with yielding before the worker sleeps between them


class SharedMemory:
    """View of one worker on the shared memory.

    For each message all workers call `write`, `post` and `receive`, in this order. What `receive` has returned is valid
    until the worker posts its next message.

    Args:
        path: a file of `file_bytes(size)` bytes, the same for all workers. It may be removed once all have opened it.
        rank: this worker, from 0.
        size: number of workers.
    """

    def __init__(self, path: str, rank: int, size: int) -> None:
        self.rank, self.size, self.max_message_bytes = rank, size, max_message_bytes(size)
        with Path(path).open("r+b") as stream:
            self._memory = mmap.mmap(stream.fileno(), file_bytes(size))
        self._counters = memoryview(self._memory)[: size * _CACHE_LINE].cast("q")
        self._posted = 0
        self._pending = False

    @classmethod
    def create_file(cls, size: int) -> str | None:
        """Create the file and return its path; None without shared memory, or with too little of it."""
        usable = platform.machine() in TOTAL_STORE_ORDER_MACHINES and Path(SHARED_MEMORY_FOLDER).is_dir()
        if not usable or size > MAX_WORKERS:
            return None
        path = None
        try:
            handle, path = tempfile.mkstemp(prefix="workers-", dir=SHARED_MEMORY_FOLDER)
            with os.fdopen(handle, "wb") as stream:
                # Reserve the space now: a write into a full file system would end the process.
                os.posix_fallocate(stream.fileno(), 0, file_bytes(size))
        except OSError:
            if path is not None:
                Path(path).unlink()
            return None
        return path

    @classmethod
    def open(cls, path: str, rank: int, size: int) -> Self | None:
        """Return the view, or None if the file does not exist here: this worker is on another machine."""
        with suppress(OSError, ValueError):
            return cls(path, rank, size)
        return None

    def write(self, count: int, dtype: torch.dtype) -> Tensor:
        """Return the memory of this worker's next message, `(count,)`, to be filled before `post`."""
        assert not self._pending, "the previous message was not received"
        return self._slot(self.rank, self._posted + 1, count, 0, dtype)

    def post(self) -> None:
        """Let the other workers read the message that was written; call `receive` before the next."""
        self._pending = True
        self._posted += 1
        self._counters[self.rank * (_CACHE_LINE // 8)] = self._posted

    def receive(self, counts: list[int], offsets: list[int], dtype: torch.dtype) -> list[Tensor]:
        """Wait for the messages of all workers; return a part of each, where it is.

        Args:
            counts, offsets: elements of each worker's part, and before it.

        Raises:
            TimeoutError: a worker has posted nothing for `TIMEOUT_S` seconds.
        """
        for rank in range(self.size):
            if rank != self.rank:
                self.wait_for_worker(rank)
        self._pending = False
        return [
            self._slot(rank, self._posted, count, offset, dtype)
            for rank, (count, offset) in enumerate(zip(counts, offsets, strict=True))
        ]

    def _slot(self, rank: int, number: int, count: int, offset: int, dtype: torch.dtype) -> Tensor:
        """Return elements of a worker's message as a tensor."""
        start = self.size * _CACHE_LINE + (rank * 2 + number % 2) * self.max_message_bytes + offset * dtype.itemsize
        if not count:
            return torch.empty(0, dtype=dtype)
        return torch.frombuffer(self._memory, dtype=dtype, count=count, offset=start)

    def wait_for_worker(self, rank: int) -> None:
        """Wait until a worker has posted the current message; TimeoutError if it does not."""
        counters, index, number = self._counters, rank * (_CACHE_LINE // 8), self._posted
        for _ in range(_SPINS):
            if counters[index] >= number:
                return
        for _ in range(_YIELDS):
            os.sched_yield()
            if counters[index] >= number:
                return
        deadline = time.monotonic() + TIMEOUT_S
        while counters[index] < number:
            time.sleep(0.0005)
            if time.monotonic() > deadline:
                raise TimeoutError(f"worker {rank} has sent nothing for {TIMEOUT_S:g} s")


def max_message_bytes(size: int) -> int:
    """Return the maximum bytes of a message among `size` workers."""
    return min(MAX_MESSAGE_BYTES, MAX_TOTAL_BYTES // (2 * size) // _CACHE_LINE * _CACHE_LINE)


def file_bytes(size: int) -> int:
    """Return the bytes of the shared file of `size` workers."""
    return size * (_CACHE_LINE + 2 * max_message_bytes(size))
