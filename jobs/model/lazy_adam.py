"""Adam for a table of which a step touches a few rows.

It is the lazy variant, as torch's SparseAdam: a step changes the vectors and the moments of the words that it
touched, and of no other; the bias correction counts all steps. What it does to a touched row is what
torch.optim.Adam does to it (Kingma & Ba 2015). A step costs what its rows cost, however long the table is.
"""

import numpy as np
import torch
from torch import Tensor
from torch.optim.adam import adam

BETAS = (0.9, 0.999)
EPS = 1e-8


class LazyAdam:
    """Steps on rows of a table.

    Args:
        table: `(words, dimensions)`, changed in place.
        rate: the learning rate; may be set anew at any time.
    """

    def __init__(self, table: Tensor, learning_rate: float) -> None:
        self.table = table
        self.learning_rate = learning_rate
        self.steps = 0
        self.moments = {name: _zeros_like(table) for name in ("exp_avg", "exp_avg_sq")}

    @torch.no_grad()
    def step(self, word_ids: Tensor, gradient: Tensor) -> None:
        """Take a step on some rows.

        Args:
            words: `(rows,)` int64, distinct, but that row 0 may come again with a gradient of zero.
            gradient: `(rows, dimensions)`.
        """
        self.steps += 1
        if not self.table.is_cuda:
            from jobs.model import kernels

            arrays = (each.numpy() for each in (self.table, *self.moments.values(), word_ids, gradient))
            kernels.lazy_adam_step(*arrays, self.learning_rate, *BETAS, EPS, self.steps)
            return
        self.step_with_torch(word_ids, gradient)

    def step_with_torch(self, word_ids: Tensor, gradient: Tensor) -> None:
        """Take the step with torch's own Adam, on copies of the rows, which then go back; `step` counts it."""
        rows = [each[word_ids] for each in (self.table, *self.moments.values())]
        count = torch.full((), float(self.steps - 1), device=word_ids.device)
        adam(
            [rows[0]], [gradient], [rows[1]], [rows[2]], [], [count],
            fused=True, capturable=False, amsgrad=False, beta1=BETAS[0], beta2=BETAS[1], lr=self.learning_rate,
            weight_decay=0.0, eps=EPS, maximize=False,
        )  # fmt: skip
        for each, changed in zip((self.table, *self.moments.values()), rows, strict=True):
            each[word_ids] = changed


def _zeros_like(table: Tensor) -> Tensor:
    """Return zeros; on a CPU, rows that are never touched take no memory, as numpy's zeros do not."""
    if table.is_cuda:
        return torch.zeros_like(table)
    return torch.from_numpy(np.zeros(table.shape, table.numpy().dtype))
