"""Batches of several steps, collated at once on the device: what a step needs is there before it starts.

The batches of an epoch are known when it starts. So a chunk of them is collated by one stable sort of all its tokens by
(step, word), and its arrays lie one step after another. A table of plans says where each step has its part, and a
counter on the device which step is next. A step therefore needs nothing from the host: it is a CUDA graph without
arguments, with shapes that are the same for many steps. The host waits for the device twice per chunk: for the
numbers of distinct words, from which it chooses the shapes, and for the number of steps taken.

Slots are the rows of the matrix products: first the distinct words of the step, then further slots for words with many
tokens. Slot i of a word has its tokens from SLOT_TOKENS * i on. All slots of a word have its vector, so the sum of
their gradients is the word's.

    words 5 7 9 with 2, 70 and 1 tokens: slots 5 7 9 - - - - -  7 7 -     (padded to 8 and 3 slots)
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from jobs.model.batches import copy_to_device
from jobs.model.gpu.rates import NUM_RATES

SLOT_TOKENS = 32
CHUNK_TOKENS = 1 << 21  # about 100 bytes of memory each while they are sorted
# Columns of the plans.
PLAN = (
    "seed", "epoch", "number", "first_row", "num_rows", "first_word", "num_words", "first_extra", "num_extras",
    "first_token",
)  # fmt: skip
PLAN_COLUMNS = len(PLAN)


@dataclass(frozen=True)
class StepShape:
    """Padded sizes of a step: the same graph is used for all steps with the same ones.

    rows: of the batch. words, extras: slots. tokens, length: of the batch and of its longest text; only torch's
    operations need them.
    """

    rows: int
    words: int
    extras: int
    tokens: int = 0
    length: int = 0

    @property
    def slots(self) -> int:
        """Return the number of rows of the matrix products of the backward pass."""
        return self.words + self.extras


def round_to_power(value: int, least: int = 1) -> int:
    """Return the smallest power of two that is not less than a value and `least`."""
    return max(least, 1 << max(0, value - 1).bit_length())


def round_size(value: int) -> int:
    """Return a size that is at most a fifth larger, and divisible by 16: four sizes between powers of two."""
    if value <= 64:
        return max(16, -(-value // 16) * 16)
    step = round_to_power(value) // 8
    return -(-value // step) * step


@dataclass
class Chunk:
    """Arrays of a chunk on the device, in memory that is reused by the next chunks; N rows, T tokens, U words.

    offsets: `(N + 1,)` int64, of the rows' tokens. token_words: `(T,)` int32, for each token the slot of its word.
    word_ids: `(U,)` int64, words of one step after another. word_starts: `(U + 1,)` int32, each word's first occurrence
    in the next two arrays. occurrence_rows, occurrence_positions: `(T,)` int32, row in the batch and position in the
    text. word_extras: `(U + 1,)` int32, further slots before each word. extra_words: int32, each further slot's word.
    labels: `(N,)` int64, or `(N, labels)` float32. weights: `(N, 2)` float32, of the row's loss and of its gradient.
    plans: `(steps, PLAN_COLUMNS)` int64. rates: `(steps, NUM_RATES)` float32, of `jobs.model.gpu.rates`.
    counter: `(1,)` float32, the step of the chunk that is next.
    """

    offsets: Tensor
    token_words: Tensor
    word_ids: Tensor
    word_starts: Tensor
    occurrence_rows: Tensor
    occurrence_positions: Tensor
    word_extras: Tensor
    extra_words: Tensor
    labels: Tensor
    weights: Tensor
    plans: Tensor
    rates: Tensor
    counter: Tensor

    @classmethod
    def allocate(cls, steps: int, rows: int, tokens: int, label_shape: Sequence[int], device: torch.device) -> "Chunk":
        """Return a chunk with memory for so many steps, rows and tokens."""

        def zeros(*shape: int, dtype: torch.dtype = torch.int32) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        label_dtype = torch.float32 if label_shape else torch.int64
        # A step reads its padded part, which may end after the last row or token: indices are limited to the memory.
        return cls(
            offsets=zeros(rows + 1, dtype=torch.int64), token_words=zeros(tokens + 1),
            word_ids=zeros(tokens + 1, dtype=torch.int64), word_starts=zeros(tokens + 1),
            occurrence_rows=zeros(tokens + 1), occurrence_positions=zeros(tokens + 1), word_extras=zeros(tokens + 1),
            extra_words=zeros(tokens // SLOT_TOKENS + 1), labels=zeros(rows + 1, *label_shape, dtype=label_dtype),
            weights=zeros(rows + 1, 2, dtype=torch.float32), plans=zeros(steps, PLAN_COLUMNS, dtype=torch.int64),
            rates=zeros(steps, NUM_RATES, dtype=torch.float32), counter=zeros(1, dtype=torch.float32),
        )  # fmt: skip

    def write(self, name: str, values: Tensor) -> None:
        """Copy values to the beginning of an array."""
        getattr(self, name)[: len(values)] = values

    def addresses(self) -> tuple[int, ...]:
        """Return the addresses of the arrays, which a graph contains."""
        return tuple(getattr(self, field.name).data_ptr() for field in fields(self))


class ChunkCollator:
    """Collates the batches of several steps into a chunk.

    Args:
        ids, offsets: tokens of all texts, `(all tokens,)` and `(all texts + 1,)` int64, on the device.
        lengths: `(all texts,)` tokens of each text, on the host.
        num_words: size of the vocabulary.
    """

    def __init__(self, ids: Tensor, offsets: Tensor, lengths: np.ndarray, num_words: int) -> None:
        self._ids, self._offsets, self._lengths, self._num_words = ids, offsets, lengths, num_words

    def collate(self, batches: Sequence[np.ndarray], chunk: Chunk) -> list[tuple[int, int]]:
        """Write the arrays of batches into a chunk, without labels, weights, rates; waits for the device once.

        Args:
            batches: row numbers of each step, `(rows,)` int64.

        Returns:
            For each step the numbers of distinct words and of further slots.
        """
        device, steps = self._ids.device, len(batches)
        sizes = np.array([len(batch) for batch in batches])
        rows = np.concatenate(batches)
        lengths = self._lengths[rows].astype(np.int64)
        row_offsets = np.concatenate([[0], lengths.cumsum()])
        first_rows = np.concatenate([[0], sizes.cumsum()])
        num_tokens = int(row_offsets[-1])

        offsets = copy_to_device(row_offsets, device)
        step_of_row = copy_to_device(np.repeat(np.arange(steps), sizes), device)
        text = torch.repeat_interleave(
            torch.arange(len(rows), device=device), offsets.diff(), output_size=num_tokens
        )  # (tokens,) the row of each token
        position = torch.arange(num_tokens, device=device) - offsets[text]
        step = step_of_row[text]
        ids = self._ids[self._offsets[copy_to_device(rows, device)][text] + position]
        keys, order = (step * self._num_words + ids).sort(stable=True)  # words of a step after another
        number = torch.arange(num_tokens, device=device)
        is_first = torch.ones_like(keys, dtype=torch.bool)
        is_first[1:] = keys[1:] != keys[:-1]
        word = is_first.cumsum(0) - 1  # (tokens,) number of the word in the chunk
        # Scatters instead of selections: their sizes are known. Element `num_tokens` takes what is not selected.
        starts = torch.full((num_tokens + 1,), num_tokens, device=device)
        starts.scatter_(0, torch.where(is_first, word, num_tokens), torch.where(is_first, number, num_tokens))
        is_extra = ((number - starts[word]) % SLOT_TOKENS == 0) & ~is_first
        extra = is_extra.cumsum(0) - 1
        limit = num_tokens // SLOT_TOKENS
        extra_words = torch.zeros(limit + 1, dtype=torch.int64, device=device)
        extra_words.scatter_(0, torch.where(is_extra, extra, limit), torch.where(is_extra, word, 0))
        extras_before = torch.cat([torch.zeros_like(extra[:1]), extra + 1])  # (tokens + 1,) or (0,)
        word_ids = torch.zeros(num_tokens + 1, dtype=torch.int64, device=device).scatter_(0, word, keys)

        steps_of_words = step[order]
        counts = torch.zeros(2, steps, dtype=torch.int64, device=device)
        counts[0].scatter_add_(0, steps_of_words, is_first.long())
        counts[1].scatter_add_(0, steps_of_words, is_extra.long())
        firsts = counts.cumsum(1) - counts
        chunk.write("offsets", offsets)
        token_words = torch.empty_like(word).scatter_(0, order, word - firsts[0][steps_of_words])
        chunk.write("token_words", token_words)
        chunk.write("word_ids", word_ids % self._num_words)
        chunk.write("word_starts", starts)
        chunk.write("occurrence_rows", (text - copy_to_device(first_rows[:-1], device)[step])[order])
        chunk.write("occurrence_positions", position[order])
        chunk.write("word_extras", extras_before[starts] if num_tokens else starts * 0)
        chunk.write("extra_words", extra_words)
        plans = chunk.plans[:steps]
        plans[:, PLAN.index("first_row")] = copy_to_device(first_rows[:-1], device)
        plans[:, PLAN.index("num_rows")] = copy_to_device(sizes, device)
        plans[:, PLAN.index("first_token")] = copy_to_device(row_offsets[first_rows[:-1]], device)
        for index, name in enumerate(("word", "extra")):
            plans[:, PLAN.index(f"first_{name}")] = firsts[index]
            plans[:, PLAN.index(f"num_{name}s")] = counts[index]
        return [(words, extras) for words, extras in counts.T.tolist()]
