"""Max-over-time convolution of texts, computed once for each distinct word of a batch.

A filter of width w applied to word vectors is a sum of w inner products, one for each position in the window. So each
distinct word of the batch is multiplied with all filters once (one matrix product), and each window is a sum of w
rows of the result. Only the window where a filter is maximal has a gradient: the backward pass is a sparse matrix
times the words' vectors, and its transpose times the filters. That takes a few percent of the forward pass's
multiplications.

There are four implementations: `jobs.model.kernels` trains on a CPU, `jobs.model.gpu` on a GPU with Triton,
`max_over_time_with_torch` without it, and `jobs.inference.scoring_kernel` serves, with its own order of the filters.
Tests compare them.

The values are those of `torch.nn.functional.conv1d` on texts padded with width - 1 zero vectors on both sides ("wide"
convolution, Kalchbrenner et al. 2014), and of a maximum over the windows that touch the text. They do not depend on
the other texts of the batch.

Layout of the rows of `filters`, which are the columns of `projected`: width after width, within a width position in
the window after position, within a position one row for each feature map. Features, the columns of the result, are
ordered width after width, map after map. Drawn in docs/assets/filter-layout.svg.
"""

from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from typing import Any

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
) -> Tensor:
    """Return each filter's maximum over each text's windows, `(texts, len(widths) * maps)`, of the filters' dtype.

    Args:
        fixed, trained: `(words, dimensions)` vectors of the batch's words, concatenated where there are both;
            `trained` may require a gradient, `fixed` never gets one.
        filters: `(sum(widths) * maps, columns)`, laid out as above; columns are those of `fixed` and `trained`.
        batch: the texts. The empty text has one empty window.
        bfloat16: round both factors of the matrix product, and the product, to bfloat16. Sums and gradients keep
            their dtype.
    """
    if filters.is_cuda:
        if supports_triton(filters.dtype):
            from jobs.model.gpu.convolution import max_over_time_with_triton

            return max_over_time_with_triton(fixed, trained, filters, batch, widths, bfloat16=bfloat16)
        return max_over_time_with_torch(fixed, trained, filters, batch, widths, bfloat16=bfloat16)
    return apply_function(_MaxOverTime, fixed, trained, filters, batch, widths, bfloat16)


def apply_function(function: type[torch.autograd.Function], *inputs: object) -> Tensor:
    """Return the result of a function with a gradient of its own."""
    result: Tensor = function.apply(*inputs)  # type: ignore[no-untyped-call]  # torch does not annotate it
    return result


class _MaxOverTime(torch.autograd.Function):
    """`max_over_time` on a CPU, with compiled kernels."""

    @staticmethod
    def forward(
        ctx: Any,
        fixed: Tensor | None,
        trained: Tensor | None,
        filters: Tensor,
        batch: Batch,
        widths: Sequence[int],
        bfloat16: bool,
    ) -> Tensor:
        from jobs.model import kernels  # a GPU machine needs no numba

        vectors = _concatenate_channels(fixed, trained)
        maps = len(filters) // sum(widths)
        shape = (len(batch), len(widths) * maps)
        maxima = filters.new_empty(shape)
        argmax = np.empty(shape, np.int32)
        texts = (batch.token_indices.numpy(), batch.offsets.numpy(), np.array(widths), maps)
        kernels.max_over_windows(project(vectors, filters, bfloat16).numpy(), *texts, maxima.numpy(), argmax)
        ctx.texts = texts
        ctx.save_for_backward(vectors, filters)
        ctx.argmax = argmax
        ctx.num_fixed_columns = 0 if fixed is None else fixed.shape[1]
        return maxima

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        from scipy.sparse import csr_array

        from jobs.model import kernels

        vectors, filters = ctx.saved_tensors
        indptr, indices, values = kernels.max_over_windows_backward(
            gradient.T.contiguous().numpy(), np.ascontiguousarray(ctx.argmax.T), *ctx.texts
        )
        sparse = csr_array((values, indices, indptr), shape=(len(filters), len(vectors)))
        trained_gradient = filters_gradient = None
        if ctx.needs_input_grad[1]:
            trained_gradient = torch.from_numpy(sparse.T @ filters[:, ctx.num_fixed_columns :].numpy())
        if ctx.needs_input_grad[2]:
            filters_gradient = torch.from_numpy(sparse @ vectors.numpy())
        return None, trained_gradient, filters_gradient, None, None, None


def project(vectors: Tensor, filters: Tensor, bfloat16: bool) -> Tensor:
    """Return the word x filter products `projected`: of each word's vector and each row of `filters`.

    `(words, len(filters))`, laid out as above; the project calls this matrix product the projection.
    """
    if bfloat16:
        return (vectors.bfloat16() @ filters.T.bfloat16()).to(vectors.dtype)
    return vectors @ filters.T


def _concatenate_channels(fixed: Tensor | None, trained: Tensor | None) -> Tensor:
    channels = [channel for channel in (fixed, trained) if channel is not None]
    return channels[0] if len(channels) == 1 else torch.cat(channels, dim=1)


def max_over_time_with_torch(
    fixed: Tensor | None,
    trained: Tensor | None,
    filters: Tensor,
    batch: Batch,
    widths: Sequence[int],
    *,
    bfloat16: bool = False,
) -> Tensor:
    """As `max_over_time`, on any device, with torch's operations. All shapes are known on the CPU: no device sync."""
    projected = project_channels(fixed, trained, filters, bfloat16)
    maps = len(filters) // sum(widths)
    # A row of zeros before the first word is padding.
    projected = F.pad(projected, (0, 0, 1, 0))  # (1 + words, columns)
    positions = torch.arange(batch.max_length, device=filters.device)
    lengths = batch.offsets.diff()
    inside = positions < lengths[:, None]  # (texts, max_length)
    tokens = torch.where(inside, batch.offsets[:-1, None] + positions, 0)
    if len(batch.token_indices):
        tokens = torch.where(inside, batch.token_indices[tokens] + 1, 0)  # (texts, max_length) rows of `projected`
    else:
        tokens = torch.zeros_like(tokens)
    features = []
    start = 0
    for width in widths:
        end = start + width * maps
        features.append(apply_function(_MaxOverTimeOfWidth, projected[:, start:end], tokens, lengths, width))
        start = end
    return torch.cat(features, dim=1)


@cache
def supports_triton(dtype: torch.dtype) -> bool:
    """Return whether Triton's kernels can be used: it is installed, and they compute in float32."""
    return dtype == torch.float32 and find_spec("triton") is not None


def project_channels(fixed: Tensor | None, trained: Tensor | None, filters: Tensor, bfloat16: bool) -> Tensor:
    """Return `project` of the vectors of both channels, with its gradients."""
    return apply_function(_Projection, _concatenate_channels(fixed, trained), filters, bfloat16)


class _Projection(torch.autograd.Function):
    """`project`, with gradients that are not rounded."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, filters: Tensor, bfloat16: bool) -> Tensor:
        ctx.save_for_backward(vectors, filters)
        return project(vectors, filters, bfloat16)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        vectors, filters = ctx.saved_tensors
        needed = ctx.needs_input_grad
        return gradient @ filters if needed[0] else None, gradient.T @ vectors if needed[1] else None, None


class _MaxOverTimeOfWidth(torch.autograd.Function):
    """Maxima of the filters of one width, with torch's own operations."""

    @staticmethod
    def forward(ctx: Any, projected: Tensor, tokens: Tensor, lengths: Tensor, width: int) -> Tensor:
        maps = projected.shape[1] // width
        projected = projected.contiguous()
        positions = torch.arange(width, device=tokens.device)
        windows = F.pad(tokens, (width - 1, width - 1)).unfold(1, width, 1)  # (texts, windows, width)
        terms = windows * width + positions  # rows of `projected` seen as (words * width, maps)
        sums = F.embedding_bag(terms.reshape(-1, width), projected.view(len(projected) * width, maps), mode="sum")
        sums = sums.view(*windows.shape[:2], maps)  # (texts, windows, maps)
        # The empty text counts as one word of padding: all of its windows are zero.
        outside = torch.arange(sums.shape[1], device=tokens.device) >= lengths.clamp(min=1)[:, None] + width - 1
        sums.masked_fill_(outside[:, :, None], -torch.inf)
        maxima, argmax = sums.max(dim=1)  # (texts, maps) each
        ctx.save_for_backward(terms, argmax)
        ctx.projected_shape = projected.shape
        return maxima

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        terms, argmax = ctx.saved_tensors
        width = terms.shape[2]
        maps = gradient.shape[1]
        max_terms = terms.gather(1, argmax[:, :, None].expand(-1, -1, width))  # (texts, maps, width)
        indices = max_terms * maps + torch.arange(maps, device=max_terms.device)[None, :, None]
        projected_gradient = gradient.new_zeros(ctx.projected_shape)
        projected_gradient.view(-1).index_add_(
            0, indices.reshape(-1), gradient[:, :, None].expand(-1, -1, width).reshape(-1)
        )
        return projected_gradient, None, None, None
