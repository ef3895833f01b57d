"""The processes that train one network together, and what crosses between them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from torch import Tensor

from jobs.training.shared_memory import Neighbours


@dataclass
class Group:
    """This process's place among the workers. bytes: that it has handed in to be added up."""

    rank: int = 0
    size: int = 1
    device: torch.device | str = "cpu"
    bytes: int = field(default=0, compare=False)
    _neighbours: Neighbours | None = field(default=None, compare=False)

    def meet(self) -> bool:
        """Use memory for what is added up from now on, if all workers are on one machine; tell whether they are."""
        if self.size == 1 or torch.device(self.device).type != "cpu":
            return False
        path = self.share(Neighbours.create(self.size) if self.rank == 0 else None)
        if path is None:
            return False
        try:
            found = Neighbours.open(path, self.rank, self.size)
            met = all(self.gather(found is not None))
        finally:
            if self.rank == 0:
                Path(path).unlink()
        self._neighbours = found if met else None
        return met

    def add_up(self, tensor: Tensor) -> Tensor:
        """Replace a tensor by its sum over the workers, the same bits on each, and return it."""
        return self.begin(tensor)()

    def begin(self, tensor: Tensor) -> Callable[[], Tensor]:
        """As `add_up`, but go on meanwhile; what is returned waits for the sum and returns it."""
        if self.size == 1 or not tensor.numel():
            return lambda: tensor
        self.bytes += tensor.nbytes
        if (near := self._neighbours) is not None and tensor.nbytes <= near.room:
            near.post(tensor)
            return lambda: near.add_up(tensor)
        work = torch.distributed.all_reduce(tensor, async_op=True)

        def end() -> Tensor:
            work.wait()
            return tensor

        return end

    def agree(self, mine: bool) -> bool:
        """Return what the first worker finds."""
        return mine if self.size == 1 else self.any(mine and self.rank == 0)

    def share(self, value: Any) -> Any:
        """Return the first worker's value."""
        values = [value]
        if self.size > 1:
            torch.distributed.broadcast_object_list(values, device=torch.device(self.device))
        return values[0]

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all workers."""
        values = [value] * self.size
        if self.size > 1:
            torch.distributed.all_gather_object(values, value)
        return values

    def any(self, mine: bool) -> bool:
        """Tell whether any worker finds so."""
        if self.size == 1:
            return mine
        return self.add_up(torch.tensor([float(mine)], device=self.device)).item() > 0
