"""Lazy Adam: Adam for a table of which a step touches only a few rows.

As in torch's SparseAdam, a step changes the vectors and moments of the touched rows alone, and the bias correction
counts all steps. A touched row is updated as by torch.optim.Adam (Kingma & Ba 2015). The cost of a step depends on the
number of touched rows, not on the length of the table.
"""

import numpy as np
import torch
from torch import Tensor
from torch.optim.adam import adam

BETAS = (0.9, 0.999)
EPS = 1e-8


class LazyAdam:
    """Optimizer of the rows of a table.

    Args:
        table: `(words, dimensions)` float, changed in place.
        learning_rate: may be set anew at any time.
        initial: at least the table's rows, before training; the distance from them times `pull` is added to gradients.
        trained: by row, whether it may change, at least `(words,)` bool; None for all.
    """

    def __init__(
        self,
        table: Tensor,
        learning_rate: float,
        initial: Tensor | None = None,
        pull: float = 0.0,
        trained: Tensor | None = None,
    ) -> None:
        self.table = table
        self.learning_rate = learning_rate
        self.initial, self.pull, self.trained = initial, pull, trained
        self.steps = 0
        self.moments = {name: _zeros_like(table) for name in ("exp_avg", "exp_avg_sq")}

    @torch.no_grad()
    def step(self, word_ids: Tensor, gradient: Tensor) -> None:
        """Take a step on some rows.

        Args:
            word_ids: `(rows,)` int64, distinct; only row 0 may be repeated, with a gradient of zero.
            gradient: `(rows, dimensions)`, of the table's dtype.
        """
        self.steps += 1
        if self.table.is_cuda:
            self.step_with_torch(word_ids, gradient)
            return
        gradient = self.pull_gradient(word_ids, gradient)
        if self.trained is not None:
            is_trained = self.trained[word_ids]
            word_ids, gradient = word_ids[is_trained], gradient[is_trained]
        from jobs.model import kernels  # a GPU machine needs no numba

        kernels.lazy_adam_step(
            self.table.numpy(),
            self.moments["exp_avg"].numpy(),
            self.moments["exp_avg_sq"].numpy(),
            word_ids.numpy(),
            gradient.numpy(),
            self.learning_rate,
            *BETAS,
            EPS,
            self.steps,
        )

    def pull_gradient(self, word_ids: Tensor, gradient: Tensor) -> Tensor:
        """Return the gradient of some rows with the pull to their initial values."""
        if not self.pull:
            return gradient
        assert self.initial is not None
        return gradient + self.pull * (self.table[word_ids] - self.initial[word_ids])

    def step_with_torch(self, word_ids: Tensor, gradient: Tensor) -> None:
        """Take the step that `step` has counted with torch's own Adam, on copies of the rows."""
        gradient = self.pull_gradient(word_ids, gradient)
        if self.trained is not None:  # a selection would wait for its size; a gradient of 0 leaves a row unchanged
            gradient = gradient * self.trained[word_ids][:, None]
        tables = (self.table, *self.moments.values())
        rows = [table[word_ids] for table in tables]
        count = torch.full((), float(self.steps - 1), device=word_ids.device)
        adam(
            [rows[0]], [gradient], [rows[1]], [rows[2]], [], [count],
            fused=True, capturable=False, amsgrad=False, beta1=BETAS[0], beta2=BETAS[1], lr=self.learning_rate,
            weight_decay=0.0, eps=EPS, maximize=False,
        )  # fmt: skip
        for table, updated in zip(tables, rows, strict=True):
            table[word_ids] = updated


def _zeros_like(table: Tensor) -> Tensor:
    """Return zeros; on a CPU, rows that are never touched take no memory, as with numpy's zeros."""
    if table.is_cuda:
        return torch.zeros_like(table)
    return torch.from_numpy(np.zeros(table.shape, table.numpy().dtype))
