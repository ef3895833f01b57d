"""Max-over-time convolution of texts, computed once for each distinct word of a batch.

A filter of width w over word vectors is a sum of w inner products, one for each place in the
window. So every distinct word of the batch is multiplied with all filters once (one matrix
product), and each window is a sum of w rows of the result. Only the window where a filter is
maximal has a gradient: the backward pass is a sparse matrix times the words' vectors, and its
transpose times the filters, with a few percent of the forward pass's multiplications.

The values are those of `torch.nn.functional.conv1d` on texts padded with width - 1 zero vectors
on both sides ("wide" convolution, Kalchbrenner et al. 2014), and of a maximum over the windows
that touch the text: what else is in the batch changes nothing.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from jobs.model.batches import Batch


def max_over_time(
    fixed: Tensor | None,
    trained: Tensor | None,
    filters: Tensor,
    batch: Batch,
    widths: Sequence[int],
    *,
    bfloat16: bool = False,
    on_trained_gradient: Callable[[Tensor], None] | None = None,
) -> Tensor:
    """Return each filter's maximum over each text's windows, `(rows, len(widths) * maps)`.

    Args:
        fixed, trained: `(words, dimensions)` vectors of the batch's words, side by side where there are
            both; `trained` may have a gradient, `fixed` has none.
        filters: `(sum(widths) * maps, columns)`, width after width, place in the window after place; columns
            are those of `fixed` and `trained`.
        batch: which words each text has. The empty text has one empty window.
        bfloat16: round both sides of the matrix product, and the product, to bfloat16. Sums and gradients keep
            their type.
        ready: is given the gradient of `trained` once it is there, before that of `filters` is begun (on a CPU).
    """
    if filters.is_cuda:
        return _dense(fixed, trained, filters, batch, widths, bfloat16)
    return _Sparse.apply(fixed, trained, filters, batch, widths, bfloat16, on_trained_gradient)


class _Sparse(torch.autograd.Function):
    """On a CPU, with the loops of `jobs.model.kernels`."""

    @staticmethod
    def forward(ctx, fixed, trained, filters, batch: Batch, widths, bfloat16: bool, ready) -> Tensor:
        from jobs.model import kernels

        rows = _beside(fixed, trained)
        maps = len(filters) // sum(widths)
        shape = (len(batch), len(widths) * maps)
        best = filters.new_empty(shape)
        where = np.empty(shape, np.int32)
        ctx.text = (batch.token_indices.numpy(), batch.offsets.numpy(), np.array(widths), maps)
        kernels.max_over_windows(project(rows, filters, bfloat16).numpy(), *ctx.text, best.numpy(), where)
        ctx.save_for_backward(rows, filters)
        ctx.where, ctx.ready = where, ready
        ctx.trained_from = 0 if fixed is None else fixed.shape[1]
        return best

    @staticmethod
    def backward(ctx, gradient: Tensor):
        from jobs.model import kernels

        rows, filters = ctx.saved_tensors
        sparse = kernels.max_over_windows_backward(
            gradient.T.contiguous().numpy(), np.ascontiguousarray(ctx.where.T), *ctx.text
        )
        of_trained = of_filters = None
        if ctx.needs_input_grad[1]:
            of_trained = rows.new_empty(len(rows), rows.shape[1] - ctx.trained_from)
            seen = filters[:, ctx.trained_from :].numpy()
            kernels.multiply_csr(*kernels.transpose_csr(*sparse, len(rows)), seen, of_trained.numpy())
            if ctx.ready is not None:
                ctx.ready(of_trained)
        if ctx.needs_input_grad[2]:
            of_filters = torch.empty_like(filters)
            kernels.multiply_csr(*sparse, rows.numpy(), of_filters.numpy())
        return None, of_trained, of_filters, None, None, None, None


def project(rows: Tensor, filters: Tensor, bfloat16: bool) -> Tensor:
    """Return the product of words' vectors with the filters at each place, `(words, len(filters))`."""
    if bfloat16:
        return (rows.bfloat16() @ filters.T.bfloat16()).to(rows.dtype)
    return rows @ filters.T


def _beside(fixed: Tensor | None, trained: Tensor | None) -> Tensor:
    channels = [channel for channel in (fixed, trained) if channel is not None]
    return channels[0] if len(channels) == 1 else torch.cat(channels, dim=1)


def _dense(
    fixed: Tensor | None, trained: Tensor | None, filters: Tensor, batch: Batch, widths: Sequence[int], bfloat16: bool
) -> Tensor:
    """As `max_over_time`, on any device, with torch's own operations; shapes follow from the texts' lengths alone."""
    projected = _Projected.apply(_beside(fixed, trained), filters, bfloat16)
    maps = len(filters) // sum(widths)
    if not maps:  # a share without filters
        return projected.sum() * projected.new_zeros(len(batch), 0)
    # The word before the first stands for padding.
    projected = F.pad(projected, (0, 0, 1, 0))  # (1 + words, columns)
    columns = torch.arange(batch.max_length, device=filters.device)
    lengths = batch.offsets.diff()
    inside = columns < lengths[:, None]  # (rows, longest)
    at = torch.where(inside, batch.offsets[:-1, None] + columns, 0)
    tokens = torch.where(inside, batch.token_indices[at] + 1, 0) if len(batch.token_indices) else torch.zeros_like(at)
    found = []
    start = 0
    for width in widths:
        end = start + width * maps
        found.append(_MaxOverTime.apply(projected[:, start:end], tokens, lengths, width))
        start = end
    return torch.cat(found, dim=1)


class _Projected(torch.autograd.Function):
    """`project`, with gradients that are not rounded."""

    @staticmethod
    def forward(ctx, rows: Tensor, filters: Tensor, bfloat16: bool) -> Tensor:
        ctx.save_for_backward(rows, filters)
        return project(rows, filters, bfloat16)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        rows, filters = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        return gradient @ filters if wanted[0] else None, gradient.T @ rows if wanted[1] else None, None


class _MaxOverTime(torch.autograd.Function):
    @staticmethod
    def forward(ctx, projected: Tensor, tokens: Tensor, lengths: Tensor, width: int) -> Tensor:
        maps = projected.shape[1] // width
        projected = projected.contiguous()
        places = torch.arange(width, device=tokens.device)
        windows = F.pad(tokens, (width - 1, width - 1)).unfold(1, width, 1)  # (rows, windows, width)
        picked = windows * width + places  # of projected seen as (words * width, maps)
        sums = F.embedding_bag(picked.reshape(-1, width), projected.view(len(projected) * width, maps), mode="sum")
        sums = sums.view(*windows.shape[:2], maps)  # (rows, windows, maps)
        # The empty text counts as one word of padding: all of its windows are zero.
        beyond = torch.arange(sums.shape[1], device=tokens.device) >= lengths.clamp(min=1)[:, None] + width - 1
        sums.masked_fill_(beyond[:, :, None], -torch.inf)
        best, where = sums.max(dim=1)  # (rows, maps) each
        ctx.save_for_backward(picked, where)
        ctx.projected_shape = projected.shape
        return best

    @staticmethod
    def backward(ctx, gradient: Tensor):
        picked, where = ctx.saved_tensors
        width = picked.shape[2]
        maps = gradient.shape[1]
        chosen = picked.gather(1, where[:, :, None].expand(-1, -1, width))  # (rows, maps, width)
        flat = chosen * maps + torch.arange(maps, device=chosen.device)[None, :, None]
        out = gradient.new_zeros(ctx.projected_shape)
        out.view(-1).index_add_(0, flat.reshape(-1), gradient[:, :, None].expand(-1, -1, width).reshape(-1))
        return out, None, None, None
