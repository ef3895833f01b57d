"""Messages with which workers sum their gradients: which worker sums which of them, and what a message contains.

Number i of the distinct words of all workers belongs to part i % parts; the dense gradients are divided into as many
contiguous parts. In round r, worker w sums part r * workers + w. There is one round, or several where messages would be
too long for the shared memory.

Message of a worker in a round, for each part of the round: its dense gradients `(span,)`, then the gradients of those
of its words that are in the part, `(words, columns)`. A worker's sums have the same layout, with all words of the part.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class ExchangePlan:
    """Plan of one step; the plans of all workers differ only in the rank.

    num_dense: dense gradients. columns: of the word vectors. distinct: `(words,)` int64, the distinct words of all
    workers. numbers: for each worker the numbers of its words among them, `(own words,)` int32.
    """

    num_dense: int
    columns: int
    distinct: np.ndarray
    numbers: Sequence[np.ndarray]
    rank: int
    rounds: int

    @property
    def num_parts(self) -> int:
        """Number of parts in all rounds."""
        return len(self.numbers) * self.rounds

    @cached_property
    def word_ids(self) -> np.ndarray:
        """The distinct words, part after part, `(words,)` int64."""
        return np.concatenate([self.distinct[part :: self.num_parts] for part in range(self.num_parts)])

    @cached_property
    def _parts(self) -> list[np.ndarray]:
        """For each worker the part of each of its words, `(own words,)` int32."""
        return [numbers % self.num_parts for numbers in self.numbers]

    @cached_property
    def _counts(self) -> np.ndarray:
        """The words of each worker in each part, `(workers, parts)` int64."""
        return np.array([np.bincount(parts, minlength=self.num_parts) for parts in self._parts])

    @cached_property
    def _own_rows(self) -> tuple[Tensor, ...]:
        """For each part, which of this worker's words are in it, int64."""
        order = torch.from_numpy(np.argsort(self._parts[self.rank], kind="stable"))
        return torch.split(order, self._counts[self.rank].tolist())

    def parts_of_round(self, number: int) -> range:
        """Return the parts of a round, in the order of the workers that sum them."""
        size = len(self.numbers)
        return range(number * size, (number + 1) * size)

    def dense_span(self, part: int) -> slice:
        """Return which dense gradients are in a part; the first part of a round has the most."""
        size = -(-self.num_dense // self.num_parts)
        return slice(min(part * size, self.num_dense), min((part + 1) * size, self.num_dense))

    def num_words(self, part: int) -> int:
        """Return the number of distinct words in a part; the first part of a round has the most."""
        return len(range(part, len(self.distinct), self.num_parts))

    def block_sizes(self, number: int) -> np.ndarray:
        """Return the numbers of elements from each worker to each worker in a round, `(workers, workers)` int64."""
        parts = self.parts_of_round(number)
        dense = np.array([span.stop - span.start for span in map(self.dense_span, parts)])
        return np.asarray(dense + self._counts[:, parts.start : parts.stop] * self.columns)

    def sum_size(self, number: int) -> int:
        """Return the number of elements of the longest sums in a round."""
        part = self.parts_of_round(number).start
        return len(range(self.num_dense)[self.dense_span(part)]) + self.num_words(part) * self.columns

    def longest_message(self) -> int:
        """Return the number of elements of the longest message of all workers and rounds."""
        return max(
            max(int(self.block_sizes(number).sum(axis=1).max()), self.sum_size(number)) for number in range(self.rounds)
        )

    def write_message(self, number: int, dense: Tensor, rows: Tensor, message: Tensor) -> None:
        """Write this worker's gradients in a round into a message: `dense` and `rows` as of `GradientExchange`."""
        start = 0
        for part in self.parts_of_round(number):
            span, own_rows = self.dense_span(part), self._own_rows[part]
            middle = start + span.stop - span.start
            end = middle + len(own_rows) * self.columns
            message[start:middle] = dense[span]
            if len(own_rows):
                block = message[middle:end].view(-1, self.columns)
                torch.index_select(rows, 0, own_rows.to(rows.device), out=block)
            start = end

    def add_blocks(self, number: int, blocks: Sequence[Tensor], sums: Tensor) -> None:
        """Write the sums of the blocks that the workers sent to this one in a round, by rank, added in this order."""
        part = self.parts_of_round(number)[self.rank]
        span = self.dense_span(part)
        num_dense = span.stop - span.start
        dense, rows = sums[:num_dense], sums[num_dense:][: self.num_words(part) * self.columns]
        torch.add(blocks[0][:num_dense], blocks[1][:num_dense], out=dense)
        for block in blocks[2:]:
            dense += block[:num_dense]
        if not rows.numel():
            return
        rows = rows.zero_().view(-1, self.columns)
        for block, numbers, parts in zip(blocks, self.numbers, self._parts, strict=True):
            add_rows(rows, numbers[parts == part] // self.num_parts, block[num_dense:].view(-1, self.columns))


def add_rows(target: Tensor, indices: np.ndarray, rows: Tensor) -> None:
    """Add rows `(rows, columns)` to those of a target with some indices, `(rows,)` int32, distinct."""
    if target.is_cuda:
        target.index_add_(0, torch.from_numpy(indices).to(target.device), rows)
        return
    from jobs.model import kernels  # a GPU machine needs no numba

    kernels.add_rows(target.numpy(), indices, rows.numpy())


def plan_exchange(
    num_dense: int,
    columns: int,
    word_ids: Sequence[np.ndarray],
    word_index: np.ndarray,
    rank: int,
    limit: int | None = None,
) -> ExchangePlan:
    """Return the plan of a step with the least number of rounds whose messages are within the limit.

    Args:
        num_dense, columns: as of `ExchangePlan`.
        word_ids: of each worker, `(words,)` int32, distinct.
        word_index: scratch, `(vocabulary,)` int32, all -1 before and after.
        limit: the most elements of a message, at least workers * (columns + 1); None for any number.
    """
    distinct, numbers = number_words(word_ids, word_index)
    # A message has at least its share of the dense gradients.
    least = 1 if limit is None else max(1, -(-num_dense // limit))
    for rounds in range(least, max(least, num_dense, len(distinct)) + 1):
        plan = ExchangePlan(num_dense, columns, distinct, numbers, rank, rounds)
        if limit is None or plan.longest_message() <= limit:
            return plan
    raise AssertionError(f"{limit:,} elements are not enough for a word of each worker")


def number_words(word_ids: Sequence[np.ndarray], word_index: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the distinct words of all workers and the numbers of each worker's words; as of `ExchangePlan`."""
    from jobs.model import kernels  # a GPU machine that trains alone needs no numba

    offsets = np.cumsum([0, *map(len, word_ids)])
    ids = np.concatenate(word_ids)
    distinct, numbers = np.empty(len(ids), np.int64), np.empty(len(ids), np.int32)
    workers = np.arange(len(word_ids))
    num_words = kernels.index_unique_words(ids, offsets, workers, word_index, distinct, numbers, np.empty_like(offsets))
    return distinct[:num_words], np.split(numbers, offsets[1:-1])
