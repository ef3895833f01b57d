"""The processes that train one network together, and what crosses between them."""

from dataclasses import dataclass, field

import torch
import torch.distributed
from torch import Tensor


@dataclass
class Group:
    """This process's place among the workers. bytes: that it has handed in to be added up."""

    rank: int = 0
    size: int = 1
    device: torch.device | str = "cpu"
    bytes: int = field(default=0, compare=False)

    def add_up(self, tensor: Tensor) -> Tensor:
        """Replace a tensor by its sum over the workers, the same bits on each, and return it."""
        if self.size > 1:
            self.bytes += tensor.nbytes
            torch.distributed.all_reduce(tensor)
        return tensor

    def agree(self, mine: bool) -> bool:
        """Return what the first worker finds."""
        return mine if self.size == 1 else self.any(mine and self.rank == 0)

    def any(self, mine: bool) -> bool:
        """Tell whether any worker finds so."""
        if self.size == 1:
            return mine
        return self.add_up(torch.tensor([float(mine)], device=self.device)).item() > 0
