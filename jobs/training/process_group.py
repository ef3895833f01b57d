"""Process group of the workers that train one network: through shared memory on one machine, else torch.distributed."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
import torch.distributed
from torch import Tensor

from cluster import UsageError
from jobs.training.exchange.shared_memory import SharedMemory

ValueType = TypeVar("ValueType")


@dataclass
class ProcessGroup:
    """Rank of this process among the workers, and their collective operations; one worker needs no torch.distributed.

    bytes_sent: bytes of this worker's messages to the others; a message of `all_reduce` counts once.
    """

    rank: int = 0
    world_size: int = 1
    device: torch.device | str = "cpu"
    bytes_sent: int = field(default=0, compare=False)
    shared_memory: SharedMemory | None = field(default=None, compare=False)

    def enable_shared_memory(self) -> bool:
        """Use shared memory for later messages if all workers are on one machine; return whether they are."""
        if self.world_size == 1 or torch.device(self.device).type != "cpu":
            return False
        path = self.broadcast(SharedMemory.create_file(self.world_size) if self.rank == 0 else None)
        if path is None:
            return False
        try:
            shared_memory = SharedMemory.open(path, self.rank, self.world_size)
            enabled = all(self.all_gather(shared_memory is not None))
        finally:
            if self.rank == 0:
                Path(path).unlink()
        self.shared_memory = shared_memory if enabled else None
        return enabled

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """Replace a tensor by its sum over the workers, the same bits on each, and return it."""
        if self.world_size == 1 or not tensor.numel():
            return tensor
        self.bytes_sent += tensor.nbytes
        if (memory := self._memory_for(tensor.nbytes)) is None:
            torch.distributed.all_reduce(tensor)
            return tensor
        count = tensor.numel()
        memory.write(count, tensor.dtype).copy_(tensor.flatten())
        memory.post()
        first, second, *others = memory.receive([count] * self.world_size, [0] * self.world_size, tensor.dtype)
        torch.add(first.view_as(tensor), second.view_as(tensor), out=tensor)
        for part in others:
            tensor.add_(part.view_as(tensor))
        return tensor

    def broadcast_tensor(self, tensor: Tensor) -> Tensor:
        """Return the tensor of the first worker; those of the others, of its shape and type, are replaced by it."""
        if self.world_size == 1 or not tensor.numel():
            return tensor
        is_first = self.rank == 0
        self.bytes_sent += tensor.nbytes * is_first
        if (memory := self._memory_for(tensor.nbytes)) is None:
            torch.distributed.broadcast(tensor, 0)
            return tensor
        message = memory.write(tensor.numel() * is_first, tensor.dtype)
        message.copy_(tensor.flatten()[: len(message)])
        memory.post()
        first, *_ = memory.receive([tensor.numel()] + [0] * (self.world_size - 1), [0] * self.world_size, tensor.dtype)
        return tensor if is_first else tensor.copy_(first.view_as(tensor))

    def new_message(self, count: int, dtype: torch.dtype) -> Tensor:
        """Return memory for a message to the other workers, `(count,)`, to be filled and then sent at once."""
        memory = self._memory_for(count * dtype.itemsize)
        return torch.empty(count, dtype=dtype, device=self.device) if memory is None else memory.write(count, dtype)

    def all_gather_tensors(self, message: Tensor) -> Callable[[], list[Tensor]]:
        """Start to send a message of `new_message` to all workers; it has the same size on each.

        The returned function waits for the messages of all workers and returns them, by rank. They are valid until the
        next message. No other operation may start before it returns.
        """
        self.bytes_sent += message.nbytes * (self.world_size - 1)
        if (memory := self._memory_for(message.nbytes)) is not None:
            memory.post()
            size = self.world_size
            return lambda: memory.receive([len(message)] * size, [0] * size, message.dtype)
        received = [torch.empty_like(message) for _ in range(self.world_size)]
        work = torch.distributed.all_gather(received, message, async_op=True)
        assert work is not None, "only a process outside the group gets None"

        def wait() -> list[Tensor]:
            work.wait()
            return received

        return wait

    def all_to_all(self, message: Tensor, sizes: np.ndarray) -> list[Tensor]:
        """Send one block of a message of `new_message` to each worker, and return the blocks from all, by rank.

        They are valid until the next message.

        Args:
            sizes: `(workers, workers)`, the elements of each block: from the worker of a row to that of a column. No
                message may be longer than those of the shared memory.
        """
        to, own = sizes[self.rank], sizes[:, self.rank].tolist()
        self.bytes_sent += int(to.sum() - to[self.rank]) * message.dtype.itemsize
        if self.shared_memory is not None:
            self.shared_memory.post()
            return self.shared_memory.receive(own, sizes[:, : self.rank].sum(axis=1).tolist(), message.dtype)
        received = message.new_empty(sum(own))
        torch.distributed.all_to_all_single(received, message, own, to.tolist())
        return list(torch.split(received, own))

    def _memory_for(self, num_bytes: int) -> SharedMemory | None:
        """Return the shared memory if a message, of the same size on all workers, fits."""
        memory = self.shared_memory
        return memory if memory is not None and num_bytes <= memory.max_message_bytes else None

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


def call_with_error_sync(group: ProcessGroup, function: Callable[[], ValueType]) -> ValueType:
    """Return the function's value on this worker; if it fails on any worker, raise on all of them.

    Raises:
        UsageError: the error of the first worker that failed.
    """
    value: ValueType | None = None
    message = None
    try:
        value = function()
    except UsageError as error:
        message = str(error)
    for other in group.all_gather(message):
        if other is not None:
            raise UsageError(other)
    return value  # type: ignore[return-value]  # the function returned, so this is its value
