"""`max_over_time` of batches whose shapes differ, with Triton's kernel: validation, and training with several workers.

The gradient is added with torch's `index_add_`, whose order is not fixed on a GPU; steps of static shapes have a kernel
without atomics.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from jobs.model.batches import Batch
from jobs.model.convolution import apply_function, project_channels
from jobs.model.gpu.windows import make_layout, maximize_windows


def max_over_time_with_triton(
    fixed: Tensor | None,
    trained: Tensor | None,
    filters: Tensor,
    batch: Batch,
    widths: Sequence[int],
    *,
    bfloat16: bool = False,
) -> Tensor:
    """As `max_over_time`, in float32; nothing has the size of (texts, windows, maps), and there is no device sync."""
    projected = project_channels(fixed, trained, filters, bfloat16)
    return apply_function(_MaxOverWindows, projected, batch, tuple(widths))


class _MaxOverWindows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, projected: Tensor, batch: Batch, widths: tuple[int, ...]) -> Tensor:
        maps = projected.shape[1] // sum(widths)
        layout = make_layout(widths, maps, projected.device)
        maxima, argmax = maximize_windows(
            projected.contiguous(), batch.token_indices, batch.offsets, layout, max(widths), maps
        )
        ctx.save_for_backward(argmax)
        ctx.batch, ctx.widths, ctx.shape = batch, widths, projected.shape
        return maxima

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        [argmax] = ctx.saved_tensors
        batch, widths = ctx.batch, ctx.widths
        num_columns = ctx.shape[1]
        maps = num_columns // sum(widths)
        result = gradient.new_zeros(ctx.shape)
        if not len(batch.token_indices):
            return result, None, None
        starts, lengths = batch.offsets[:-1, None], batch.offsets.diff()[:, None]
        map_index = torch.arange(maps, device=gradient.device)
        column = 0
        for index, width in enumerate(widths):
            features = slice(index * maps, (index + 1) * maps)
            for position in range(width):
                token = argmax[:, features] - (width - 1) + position  # (texts, maps)
                is_inside = (token >= 0) & (token < lengths)
                word = batch.token_indices[torch.where(is_inside, starts + token, 0)]
                elements = word.long() * num_columns + column + position * maps + map_index
                values = torch.where(is_inside, gradient[:, features], 0)
                result.view(-1).index_add_(0, elements.reshape(-1), values.reshape(-1))
            column += width * maps
        return result, None, None
