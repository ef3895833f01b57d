"""The processes that train one network together, and what crosses between them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from torch import Tensor

from jobs.training.shared_memory import SharedMemoryAllReduce


@dataclass
class ProcessGroup:
    """This process's place among the workers. bytes: that it has handed in to be added up."""

    rank: int = 0
    world_size: int = 1
    device: torch.device | str = "cpu"
    bytes_sent: int = field(default=0, compare=False)
    _neighbours: SharedMemoryAllReduce | None = field(default=None, compare=False)

    def enable_shared_memory(self) -> bool:
        """Use memory for what is added up from now on, if all workers are on one machine; tell whether they are."""
        if self.world_size == 1 or torch.device(self.device).type != "cpu":
            return False
        path = self.broadcast(SharedMemoryAllReduce.create_file(self.world_size) if self.rank == 0 else None)
        if path is None:
            return False
        try:
            found = SharedMemoryAllReduce.open(path, self.rank, self.world_size)
            met = all(self.all_gather(found is not None))
        finally:
            if self.rank == 0:
                Path(path).unlink()
        self._neighbours = found if met else None
        return met

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """Replace a tensor by its sum over the workers, the same bits on each, and return it."""
        return self.all_reduce_async(tensor)()

    def all_reduce_async(self, tensor: Tensor) -> Callable[[], Tensor]:
        """As `add_up`, but go on meanwhile; what is returned waits for the sum and returns it."""
        if self.world_size == 1 or not tensor.numel():
            return lambda: tensor
        self.bytes_sent += tensor.nbytes
        if (near := self._neighbours) is not None and tensor.nbytes <= near.max_message_bytes:
            near.post(tensor)
            return lambda: near.reduce(tensor)
        work = torch.distributed.all_reduce(tensor, async_op=True)

        def end() -> Tensor:
            work.wait()
            return tensor

        return end

    def broadcast_bool(self, mine: bool) -> bool:
        """Return what the first worker finds."""
        return mine if self.world_size == 1 else self.any_worker(mine and self.rank == 0)

    def broadcast(self, value: Any) -> Any:
        """Return the first worker's value."""
        values = [value]
        if self.world_size > 1:
            torch.distributed.broadcast_object_list(values, device=torch.device(self.device))
        return values[0]

    def all_gather(self, value: Any) -> list[Any]:
        """Return the values of all workers."""
        values = [value] * self.world_size
        if self.world_size > 1:
            torch.distributed.all_gather_object(values, value)
        return values

    def any_worker(self, mine: bool) -> bool:
        """Tell whether any worker finds so."""
        if self.world_size == 1:
            return mine
        return self.all_reduce(torch.tensor([float(mine)], device=self.device)).item() > 0
