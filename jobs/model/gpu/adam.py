"""Triton kernels of Adam: of the dense parameters (AdamW), and lazily of the vectors of a step's words.

The factors of a step, `rates`, are computed on the host in float64 for all steps of a chunk, as torch's Adam computes
them from its count of steps (Kingma & Ba 2015, Loshchilov & Hutter 2019); `jobs.model.gpu.rates` has them.
"""

# Triton's kernels look like Python, but their arguments have no Python types; Triton itself has no annotations.
# mypy: disable-error-code="no-untyped-def, untyped-decorator, import-untyped, no-any-return"

from collections.abc import Mapping

import torch
import triton
import triton.language as tl
from torch import Tensor

from jobs.model.gpu.chunk import Chunk, StepShape, round_to_power
from jobs.model.gpu.rates import NUM_RATES
from jobs.model.gpu.windows import FIRST_EXTRA, FIRST_WORD, NUM_COLUMNS, NUM_WORDS, find_word
from jobs.model.lazy_adam import BETAS, EPS, LazyAdam

BETA1, BETA2, EPSILON = tl.constexpr(BETAS[0]), tl.constexpr(BETAS[1]), tl.constexpr(EPS)
RATES = tl.constexpr(NUM_RATES)
BLOCK_ELEMENTS = 1024
BLOCK_EXTRAS = 4


@triton.jit
def adam(value, exp_avg, exp_avg_sq, indices, mask, gradient, factor, correction):
    """Update the moments in memory, and return the values after a step of Adam."""
    mean = tl.load(exp_avg + indices, mask=mask, other=0.0)
    mean_square = tl.load(exp_avg_sq + indices, mask=mask, other=0.0)
    mean = BETA1 * mean + (1 - BETA1) * gradient
    mean_square = BETA2 * mean_square + (1 - BETA2) * gradient * gradient
    tl.store(exp_avg + indices, mean, mask=mask)
    tl.store(exp_avg_sq + indices, mean_square, mask=mask)
    return value - factor * mean / (tl.sqrt(mean_square) * correction + EPSILON)


@triton.jit
def dense_kernel(
    values, gradient, exp_avg, exp_avg_sq, rounded, rates, counter, size, HAS_ROUNDED: tl.constexpr, BLOCK: tl.constexpr
):
    """Take a step of AdamW on a block of a parameter, and write its copy in bfloat16, if there is one."""
    rates += tl.load(counter).to(tl.int64) * RATES
    factor, correction, decay = tl.load(rates), tl.load(rates + 1), tl.load(rates + 2)
    indices = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = indices < size
    value = tl.load(values + indices, mask=mask, other=0.0) * decay
    value = adam(
        value, exp_avg, exp_avg_sq, indices, mask, tl.load(gradient + indices, mask=mask, other=0.0), factor, correction
    )
    tl.store(values + indices, value, mask=mask)
    if HAS_ROUNDED:
        tl.store(rounded + indices, value.to(tl.bfloat16), mask=mask)


@triton.jit
def words_kernel(
    table, exp_avg, exp_avg_sq, initial, is_trained, gradient, word_ids, word_extras, plans, rates, counter, words,
    dimensions, pull, HAS_PULL: tl.constexpr, HAS_MASK: tl.constexpr, BLOCK_EXTRAS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Take a step of lazy Adam on the vector of one of the step's words; its slots' gradients are added in order."""
    slot = tl.program_id(0).to(tl.int64)
    plan = plans + tl.load(counter).to(tl.int64) * NUM_COLUMNS
    rates += tl.load(counter).to(tl.int64) * RATES
    if slot < tl.load(plan + NUM_WORDS):
        word = tl.load(plan + FIRST_WORD) + slot
        word_id = tl.load(word_ids + word)
        column = tl.arange(0, BLOCK)
        mask = column < dimensions
        total = tl.load(gradient + slot * dimensions + column, mask=mask, other=0.0)
        first_extra = tl.load(plan + FIRST_EXTRA)
        begin, end = tl.load(word_extras + word) - first_extra, tl.load(word_extras + word + 1) - first_extra
        for first in range(begin, end, BLOCK_EXTRAS):
            extra = first + tl.arange(0, BLOCK_EXTRAS)
            extra_slot = (words + extra).to(tl.int64)
            rows = gradient + extra_slot[:, None] * dimensions + column[None, :]
            total += tl.sum(tl.load(rows, mask=(extra < end)[:, None] & mask[None, :], other=0.0), axis=0)
        indices = word_id * dimensions + column
        value = tl.load(table + indices, mask=mask, other=0.0)
        if HAS_PULL:
            total += pull * (value - tl.load(initial + indices, mask=mask, other=0.0))
        if HAS_MASK:
            total = tl.where(tl.load(is_trained + word_id), total, 0.0)
        value = adam(value, exp_avg, exp_avg_sq, indices, mask, total, tl.load(rates + 3), tl.load(rates + 4))
        tl.store(table + indices, value, mask=mask)


@triton.jit
def gather_kernel(
    fixed, trained, word_ids, extra_words, plans, counter, vectors, words, dimensions,
    HAS_FIXED: tl.constexpr, HAS_TRAINED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write the vector of a slot's word, of one channel or of both; 0 for slots without a word."""
    slot = tl.program_id(0).to(tl.int64)
    plan = plans + tl.load(counter).to(tl.int64) * NUM_COLUMNS
    is_word, is_extra, _, word = find_word(plan, extra_words, slot, words)
    word_id = tl.load(word_ids + word)
    column = tl.arange(0, BLOCK)
    is_column = column < dimensions
    mask = is_column & (is_word | is_extra)
    row = vectors + slot * dimensions * (HAS_FIXED + HAS_TRAINED)
    if HAS_FIXED:
        value = tl.load(fixed + word_id * dimensions + column, mask=mask, other=0.0)
        tl.store(row + column, value.to(vectors.dtype.element_ty), mask=is_column)
        row += dimensions
    if HAS_TRAINED:
        value = tl.load(trained + word_id * dimensions + column, mask=mask, other=0.0)
        tl.store(row + column, value.to(vectors.dtype.element_ty), mask=is_column)


def step_dense(
    parameter: Tensor, gradient: Tensor, state: Mapping[str, Tensor], rounded: Tensor | None, chunk: Chunk
) -> None:
    """Take a step of AdamW on a parameter, in place; `rounded` becomes its copy in bfloat16."""
    dense_kernel[(-(-parameter.numel() // BLOCK_ELEMENTS),)](
        parameter, gradient, state["exp_avg"], state["exp_avg_sq"], parameter if rounded is None else rounded,
        chunk.rates, chunk.counter, parameter.numel(), HAS_ROUNDED=rounded is not None, BLOCK=BLOCK_ELEMENTS,
    )  # fmt: skip


def step_words(optimizer: LazyAdam, gradient: Tensor, chunk: Chunk, shape: StepShape) -> None:
    """Take a step of lazy Adam on the vectors of the step's words, in place.

    Args:
        gradient: of the slots' vectors, `(slots, dimensions)` float32.
    """
    table, moments, is_trained = optimizer.table, optimizer.moments, optimizer.trained
    words_kernel[(shape.words,)](
        table, moments["exp_avg"], moments["exp_avg_sq"], table if optimizer.initial is None else optimizer.initial,
        table if is_trained is None else is_trained,
        gradient, chunk.word_ids, chunk.word_extras, chunk.plans, chunk.rates, chunk.counter, shape.words,
        table.shape[1], optimizer.pull, HAS_PULL=optimizer.pull != 0, HAS_MASK=is_trained is not None,
        BLOCK_EXTRAS=BLOCK_EXTRAS, BLOCK=round_to_power(table.shape[1]),
    )  # fmt: skip


def gather_vectors(
    fixed: Tensor | None, trained: Tensor | None, chunk: Chunk, shape: StepShape, dtype: torch.dtype
) -> Tensor:
    """Return the vectors of the slots' words, `(slots, columns)`: the fixed channel, then the trained one."""
    channels = [channel for channel in (fixed, trained) if channel is not None]
    dimensions = channels[0].shape[1]
    vectors = channels[0].new_empty(shape.slots, len(channels) * dimensions, dtype=dtype)
    gather_kernel[(shape.slots,)](
        channels[0], channels[-1], chunk.word_ids, chunk.extra_words, chunk.plans, chunk.counter, vectors, shape.words,
        dimensions, HAS_FIXED=fixed is not None, HAS_TRAINED=trained is not None, BLOCK=round_to_power(dimensions),
    )  # fmt: skip
    return vectors
