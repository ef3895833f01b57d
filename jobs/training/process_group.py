"""Process group of the workers that train one network, with an all-reduce through shared memory on one machine.

Between processes of one machine torch's gloo takes one to two milliseconds for a few hundred numbers, most of it until
a sleeping thread runs again; a step takes about twenty. With shared memory each worker writes its message into its
part of a memory-mapped file, increments its counter, and polls the counters of the others. Then each worker adds all
parts in the order of the ranks, so that all get the same bits.

File layout for n workers: n counters of one cache line each, then two message slots per worker. Messages use the two
slots alternately. Two slots suffice: a worker writes message k + 2 only after it has read message k + 1 of every
worker, and each worker writes message k + 1 only after it has read all messages k.
"""

import mmap
import os
import platform
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self, TypeVar

import torch
import torch.distributed
from torch import Tensor

SHARED_MEMORY_FOLDER = "/dev/shm"
MAX_MESSAGE_BYTES = 8 << 20  # of one worker; gloo sends longer ones
MAX_TOTAL_BYTES = 56 << 20  # of the file; containers have 64 MiB of shared memory by default
# x86 makes writes visible in their order; other machines need memory barriers, which Python does not have.
TOTAL_STORE_ORDER_MACHINES = ("x86_64", "AMD64")
TIMEOUT_S = 1800.0

_CACHE_LINE = 64  # bytes
_SPINS = 2000  # polls before the worker yields its core
_YIELDS = 20_000  # polls with yielding before the worker sleeps between them

ValueType = TypeVar("ValueType")


@dataclass
class ProcessGroup:
    """Rank of this process among the workers, and their collective operations; one worker needs no torch.distributed.

    bytes_sent: bytes of this worker's all-reduce messages.
    """

    rank: int = 0
    world_size: int = 1
    device: torch.device | str = "cpu"
    bytes_sent: int = field(default=0, compare=False)
    _shared_memory: "SharedMemoryAllReduce | None" = field(default=None, compare=False)

    def enable_shared_memory(self) -> bool:
        """Use shared memory for later all-reduces if all workers are on one machine; return whether they are."""
        if self.world_size == 1 or torch.device(self.device).type != "cpu":
            return False
        path = self.broadcast(SharedMemoryAllReduce.create_file(self.world_size) if self.rank == 0 else None)
        if path is None:
            return False
        try:
            shared_memory = SharedMemoryAllReduce.open(path, self.rank, self.world_size)
            enabled = all(self.all_gather(shared_memory is not None))
        finally:
            if self.rank == 0:
                Path(path).unlink()
        self._shared_memory = shared_memory if enabled else None
        return enabled

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """Replace a tensor by its sum over the workers, the same bits on each, and return it."""
        return self.all_reduce_async(tensor)()

    def all_reduce_async(self, tensor: Tensor) -> Callable[[], Tensor]:
        """Start an `all_reduce`; the returned function waits for the sum and returns it."""
        if self.world_size == 1 or not tensor.numel():
            return lambda: tensor
        self.bytes_sent += tensor.nbytes
        if (memory := self._shared_memory) is not None and tensor.nbytes <= memory.max_message_bytes:
            memory.post(tensor)
            return lambda: memory.reduce(tensor)
        work = torch.distributed.all_reduce(tensor, async_op=True)
        assert work is not None, "only a process outside the group gets None"

        def wait() -> Tensor:
            work.wait()
            return tensor

        return wait

    def broadcast_bool(self, value: bool) -> bool:
        """Return the value of the first worker."""
        return value if self.world_size == 1 else self.any_worker(value and self.rank == 0)

    def broadcast(self, value: ValueType) -> ValueType:
        """Return the value of the first worker."""
        values = [value]
        if self.world_size > 1:
            torch.distributed.broadcast_object_list(values, device=torch.device(self.device))
        return values[0]

    def all_gather(self, value: ValueType) -> list[ValueType]:
        """Return the values of all workers, by rank."""
        values = [value] * self.world_size
        if self.world_size > 1:
            torch.distributed.all_gather_object(values, value)
        return values

    def any_worker(self, value: bool) -> bool:
        """Return whether the value is true on any worker."""
        if self.world_size == 1:
            return value
        return self.all_reduce(torch.tensor([float(value)], device=self.device)).item() > 0


class SharedMemoryAllReduce:
    """View of one worker on the shared memory.

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
        if platform.machine() not in TOTAL_STORE_ORDER_MACHINES or not Path(SHARED_MEMORY_FOLDER).is_dir():
            return None
        path = None
        try:
            handle, path = tempfile.mkstemp(prefix="all-reduce-", dir=SHARED_MEMORY_FOLDER)
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

    def post(self, tensor: Tensor) -> None:
        """Write this worker's message, of as many elements as those of the others; call `reduce` before the next."""
        assert not self._pending, "the previous message was not reduced"
        self._pending = True
        self._posted += 1
        self._slot(self.rank, tensor).copy_(tensor)
        self._counters[self.rank * (_CACHE_LINE // 8)] = self._posted

    def reduce(self, tensor: Tensor) -> Tensor:
        """Wait for the messages of the others, replace the posted tensor by the sum of all, and return it.

        Raises:
            TimeoutError: a worker has posted nothing for `TIMEOUT_S` seconds.
        """
        for rank in range(self.size):
            if rank != self.rank:
                self._wait(rank)
        first, second, *others = (self._slot(rank, tensor) for rank in range(self.size))
        torch.add(first, second, out=tensor)
        for part in others:
            tensor.add_(part)
        self._pending = False
        return tensor

    def _slot(self, rank: int, like: Tensor) -> Tensor:
        """Return the memory of a worker's current message as a tensor with the shape of `like`."""
        offset = self.size * _CACHE_LINE + (rank * 2 + self._posted % 2) * self.max_message_bytes
        return torch.frombuffer(self._memory, dtype=like.dtype, count=like.numel(), offset=offset).view_as(like)

    def _wait(self, rank: int) -> None:
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
