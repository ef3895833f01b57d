"""Triton kernels of the maximum over windows and of its gradient, with the layouts of `jobs.model.convolution`.

Forward, one program for each text and block of feature maps of one width: windows are summed in tiles, with float32
sums of float32 or bfloat16 products, and only the maximum and its window are written. Nothing has the size of (texts,
windows, maps).

Backward, one program for each slot and block of maps: it reads where the slot's word occurs, and adds the gradients of
the windows that won there. Each element is written once, in a fixed order, without atomics: results are bit-identical
from run to run. A word with more than `SLOT_TOKENS` tokens in the batch has further slots, so no program is much longer
than the others; `jobs.model.gpu.chunk` describes them.
"""

# Triton's kernels look like Python, but their arguments have no Python types; Triton itself has no annotations.
# mypy: disable-error-code="no-untyped-def, untyped-decorator, import-untyped, no-any-return"

from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from jobs.model.dropout import limit_words
from jobs.model.gpu.chunk import PLAN, PLAN_COLUMNS, SLOT_TOKENS, Chunk, StepShape, round_to_power

BLOCK_WINDOWS = 16
BLOCK_TOKENS = 4
MAX_BLOCK_MAPS = 128

SEED, EPOCH, NUMBER, FIRST_ROW, NUM_ROWS, FIRST_WORD, NUM_WORDS, FIRST_EXTRA, NUM_EXTRAS = (
    tl.constexpr(PLAN.index(name))
    for name in (
        "seed", "epoch", "number", "first_row", "num_rows", "first_word", "num_words", "first_extra", "num_extras",
    )
)  # fmt: skip
NUM_COLUMNS = tl.constexpr(PLAN_COLUMNS)
TOKENS_OF_SLOT = tl.constexpr(SLOT_TOKENS)


@triton.jit
def find_maxima(
    projected, token_words, start, length, width, column, maps, map_index, num_columns,
    MAX_WIDTH: tl.constexpr, BLOCK_WINDOWS: tl.constexpr, BLOCK_MAPS: tl.constexpr,
):  # fmt: skip
    """Return each map's maximum over the windows of a text, and the first window that has it; 0 for the empty text.

    Args:
        start, length: of the text's tokens in `token_words`. column: of the width's first product.
    """
    highest = tl.full([BLOCK_MAPS], float("-inf"), tl.float32)
    winner = tl.full([BLOCK_MAPS], 0, tl.int32)
    is_nan = tl.full([BLOCK_MAPS], 0, tl.int32)
    is_map = map_index < maps
    num_windows = tl.where(length > 0, length + width - 1, 0)
    for first in range(0, num_windows, BLOCK_WINDOWS):
        windows = first + tl.arange(0, BLOCK_WINDOWS)
        sums = tl.full([BLOCK_WINDOWS, BLOCK_MAPS], 0.0, tl.float32)
        for position in tl.static_range(MAX_WIDTH):
            token = windows - (width - 1) + position
            is_inside = (token >= 0) & (token < length) & (position < width)
            word = tl.load(token_words + start + token, mask=is_inside, other=0).to(tl.int64)
            products = projected + word[:, None] * num_columns + (column + position * maps + map_index)[None, :]
            term = tl.load(products, mask=is_inside[:, None] & is_map[None, :], other=0.0)
            sums += term.to(tl.float32)
        sums = tl.where((windows < num_windows)[:, None], sums, float("-inf"))
        value, index = tl.max(sums, axis=0, return_indices=True, return_indices_tie_break_left=True)
        is_higher = value > highest
        highest = tl.where(is_higher, value, highest)
        winner = tl.where(is_higher, first + index, winner)
        is_nan = tl.maximum(is_nan, tl.max((sums != sums).to(tl.int32), axis=0))
    highest = tl.where(length > 0, highest, 0.0)
    return tl.where(is_nan > 0, float("nan"), highest), winner


@triton.jit
def maxima_kernel(
    projected, token_words, offsets, layout, maxima, argmax, maps, num_features, num_columns, map_blocks,
    MAX_WIDTH: tl.constexpr, BLOCK_WINDOWS: tl.constexpr, BLOCK_MAPS: tl.constexpr,
):  # fmt: skip
    """Write the maxima and their windows, `(texts, features)` float32 and int32, of one text."""
    row = tl.program_id(0).to(tl.int64)
    index = tl.program_id(1) // map_blocks
    map_index = tl.program_id(1) % map_blocks * BLOCK_MAPS + tl.arange(0, BLOCK_MAPS)
    start = tl.load(offsets + row)
    length = (tl.load(offsets + row + 1) - start).to(tl.int32)
    width = tl.load(layout + 2 * index)
    column = tl.load(layout + 2 * index + 1)
    highest, winner = find_maxima(
        projected, token_words, start, length, width, column, maps, map_index, num_columns, MAX_WIDTH, BLOCK_WINDOWS,
        BLOCK_MAPS,
    )  # fmt: skip
    features = row * num_features + index * maps + map_index
    tl.store(maxima + features, highest, mask=map_index < maps)
    tl.store(argmax + features, winner, mask=map_index < maps)


@triton.jit
def draw_factors(feature, row, num_features, plan, scale, LIMIT: tl.constexpr):
    """Return the dropout factors of a row's features; the counters and keys are those of `jobs.model.dropout`."""
    num_blocks = (num_features + 3) // 4
    block = (feature % num_blocks).to(tl.uint32)
    zero = block * 0
    row_word = zero + row.to(tl.uint32)
    step_word = zero + tl.load(plan + NUMBER).to(tl.uint32)
    epoch_word = zero + tl.load(plan + EPOCH).to(tl.uint32)
    seed_word = zero + tl.load(plan + SEED).to(tl.uint32)
    first, second, third, fourth = tl.philox_impl(block, row_word, step_word, zero, seed_word, epoch_word)
    part = feature // num_blocks
    word = tl.where(part == 0, first, tl.where(part == 1, second, tl.where(part == 2, third, fourth)))
    return tl.where(word.to(tl.int64) < LIMIT, scale, 0.0)


@triton.jit
def hidden_kernel(
    projected, token_words, offsets, plans, counter, layout, biases, hidden, argmax, maps, num_features, num_columns,
    map_blocks, scale,
    LIMIT: tl.constexpr, MAX_WIDTH: tl.constexpr, BLOCK_WINDOWS: tl.constexpr, BLOCK_MAPS: tl.constexpr,
):  # fmt: skip
    """Write the features of a text after ReLU and dropout, `(rows, features)` float32, and the windows that won."""
    row = tl.program_id(0).to(tl.int64)
    index = tl.program_id(1) // map_blocks
    map_index = tl.program_id(1) % map_blocks * BLOCK_MAPS + tl.arange(0, BLOCK_MAPS)
    is_map = map_index < maps
    plan = plans + tl.load(counter).to(tl.int64) * NUM_COLUMNS
    is_row = row < tl.load(plan + NUM_ROWS)
    text = tl.load(plan + FIRST_ROW) + tl.where(is_row, row, 0)
    start = tl.load(offsets + text)
    length = tl.where(is_row, tl.load(offsets + text + 1) - start, 0).to(tl.int32)
    width = tl.load(layout + 2 * index)
    column = tl.load(layout + 2 * index + 1)
    highest, winner = find_maxima(
        projected, token_words, start, length, width, column, maps, map_index, num_columns, MAX_WIDTH, BLOCK_WINDOWS,
        BLOCK_MAPS,
    )  # fmt: skip
    feature = index * maps + map_index
    value = highest + tl.load(biases + feature, mask=is_map, other=0.0)
    value = tl.where(value < 0, 0.0, value)  # NaN stays
    if LIMIT:
        value *= draw_factors(feature, row, num_features, plan, scale, LIMIT)
    tl.store(hidden + row * num_features + feature, value, mask=is_map)
    tl.store(argmax + row * num_features + feature, winner, mask=is_map)


@triton.jit
def find_word(plan, extra_words, slot, words):
    """Return whether a slot is that of a word, or a further one; the number of the further slot; and the word.

    Args:
        words: slots of words; the further slots come after them.
    """
    is_word = slot < tl.load(plan + NUM_WORDS)
    is_extra = (slot >= words) & (slot - words < tl.load(plan + NUM_EXTRAS))
    extra = tl.load(plan + FIRST_EXTRA) + slot - words
    word = tl.load(plan + FIRST_WORD) + slot
    word = tl.where(is_extra, tl.load(extra_words + extra, mask=is_extra, other=0), tl.where(is_word, word, 0))
    return is_word, is_extra, extra, word


@triton.jit
def projected_gradient_kernel(
    gradient, argmax, occurrence_rows, occurrence_positions, word_starts, word_extras, extra_words, plans, counter,
    layout, result, words, maps, num_features, num_columns, map_blocks,
    POSITIONS: tl.constexpr, BLOCK_TOKENS: tl.constexpr, BLOCK_MAPS: tl.constexpr,
):  # fmt: skip
    """Write the gradient of the products of a slot's word with the filters of one width: 0 for slots without a word.

    Args:
        words: slots of words; the further slots come after them. POSITIONS: a power of two, at least every width.
    """
    slot = tl.program_id(0).to(tl.int64)
    index = tl.program_id(1) // map_blocks
    map_index = tl.program_id(1) % map_blocks * BLOCK_MAPS + tl.arange(0, BLOCK_MAPS)
    is_map = map_index < maps
    width = tl.load(layout + 2 * index)
    column = tl.load(layout + 2 * index + 1)
    plan = plans + tl.load(counter).to(tl.int64) * NUM_COLUMNS
    is_word, is_extra, extra, word = find_word(plan, extra_words, slot, words)
    part = tl.where(is_extra, extra - tl.load(word_extras + word) + 1, 0)
    begin = tl.load(word_starts + word) + part * TOKENS_OF_SLOT
    end = tl.minimum(begin + TOKENS_OF_SLOT, tl.load(word_starts + word + 1))
    end = tl.where(is_word | is_extra, end, begin)

    position = tl.arange(0, POSITIONS)
    sums = tl.full([POSITIONS, BLOCK_MAPS], 0.0, tl.float32)
    for first in range(begin, end, BLOCK_TOKENS):
        occurrence = first + tl.arange(0, BLOCK_TOKENS)
        is_inside = occurrence < end
        row = tl.load(occurrence_rows + occurrence, mask=is_inside, other=0).to(tl.int64)
        token = tl.load(occurrence_positions + occurrence, mask=is_inside, other=0)
        features = row[:, None] * num_features + (index * maps + map_index)[None, :]
        is_read = is_inside[:, None] & is_map[None, :]
        winner = tl.load(argmax + features, mask=is_read, other=-1)
        value = tl.load(gradient + features, mask=is_read, other=0.0)
        # The window in which the token has the position.
        window = (token + width - 1)[:, None] - position[None, :]
        has_won = (window[:, :, None] == winner[:, None, :]) & (position < width)[None, :, None]
        sums += tl.sum(tl.where(has_won, value[:, None, :], 0.0), axis=0)
    columns = slot * num_columns + column + position[:, None] * maps + map_index[None, :]
    tl.store(result + columns, sums.to(result.dtype.element_ty), mask=(position < width)[:, None] & is_map[None, :])


@cache  # a copy to the device waits for it
def make_layout(widths: tuple[int, ...], maps: int, device: torch.device) -> Tensor:
    """Return each width and the first column of its products, `(widths, 2)` int32."""
    columns = [sum(widths[:index]) * maps for index in range(len(widths))]
    return torch.tensor([widths, columns], dtype=torch.int32).T.contiguous().to(device)


def block_maps(maps: int) -> int:
    """Return the number of feature maps of a program."""
    return min(MAX_BLOCK_MAPS, round_to_power(maps, 16))


def maximize_windows(
    projected: Tensor, token_words: Tensor, offsets: Tensor, layout: Tensor, max_width: int, maps: int
) -> tuple[Tensor, Tensor]:
    """Return each filter's maximum over each text's windows, and its window, `(texts, features)` float32 and int32.

    Args:
        projected: `(words, columns)` float32 or bfloat16. token_words: `(tokens,)` int32. offsets: `(texts + 1,)`.
        layout: of `make_layout`.
    """
    num_texts, num_features, block = len(offsets) - 1, len(layout) * maps, block_maps(maps)
    maxima = projected.new_empty(num_texts, num_features, dtype=torch.float32)
    argmax = torch.empty_like(maxima, dtype=torch.int32)
    if num_texts:
        map_blocks = -(-maps // block)
        maxima_kernel[num_texts, len(layout) * map_blocks](
            projected, token_words, offsets, layout, maxima, argmax, maps, num_features, projected.shape[1], map_blocks,
            MAX_WIDTH=max_width, BLOCK_WINDOWS=BLOCK_WINDOWS, BLOCK_MAPS=block,
        )  # fmt: skip
    return maxima, argmax


def compute_hidden(
    projected: Tensor, chunk: Chunk, rows: int, layout: Tensor, max_width: int, biases: Tensor, dropout: float
) -> tuple[Tensor, Tensor]:
    """Return the features of a step's rows after ReLU and dropout, `(rows, features)` float32, and the windows."""
    maps = len(biases) // len(layout)
    block = block_maps(maps)
    hidden = projected.new_empty(rows, len(biases), dtype=torch.float32)
    argmax = torch.empty_like(hidden, dtype=torch.int32)
    map_blocks = -(-maps // block)
    hidden_kernel[rows, len(layout) * map_blocks](
        projected, chunk.token_words, chunk.offsets, chunk.plans, chunk.counter, layout, biases, hidden, argmax, maps,
        len(biases), projected.shape[1], map_blocks, 1 / (1 - dropout), LIMIT=limit_words(dropout) if dropout else 0,
        MAX_WIDTH=max_width, BLOCK_WINDOWS=BLOCK_WINDOWS, BLOCK_MAPS=block,
    )  # fmt: skip
    return hidden, argmax


def compute_projected_gradient(
    gradient: Tensor, argmax: Tensor, chunk: Chunk, shape: StepShape, layout: Tensor, widths: tuple[int, ...],
    dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    """Return the gradient of the products of each slot's word, `(slots, columns)`, from that of the maxima."""
    num_features = gradient.shape[1]
    maps = num_features // len(layout)
    block = block_maps(maps)
    columns = sum(widths) * maps
    result = gradient.new_empty(shape.slots, columns, dtype=dtype)
    map_blocks = -(-maps // block)
    projected_gradient_kernel[shape.slots, len(layout) * map_blocks](
        gradient, argmax, chunk.occurrence_rows, chunk.occurrence_positions, chunk.word_starts, chunk.word_extras,
        chunk.extra_words, chunk.plans, chunk.counter, layout, result, shape.words, maps, num_features, columns,
        map_blocks, POSITIONS=round_to_power(max(widths)), BLOCK_TOKENS=BLOCK_TOKENS, BLOCK_MAPS=block,
    )  # fmt: skip
    return result
