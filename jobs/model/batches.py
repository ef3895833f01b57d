"""Batches of texts as tensors, and the order of the texts in an epoch.

The order follows from the seed, the epoch and the block alone. Every worker computes it, so nothing about it is sent
over the network. On a GPU all texts are on the device from the start, and a step sends only row numbers.

A batch contains each of its words once. Layout of a batch of two texts, "a b a" and "c b", where a, b and c have the
ids 5, 7 and 9:

    word_ids       5 7 9          (words,)      distinct words
    token_indices  0 1 0 2 1      (tokens,)     for each token its index in word_ids, text after text
    offsets        0 3 5          (texts + 1,)  text i has the tokens from offsets[i] to offsets[i + 1]
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from jobs.datasets.tokenizer import Tokens

# Texts of similar length share a batch: rows are sorted within windows of this many batches.
SORT_WINDOW_BATCHES = 40


@dataclass(frozen=True)
class Batch:
    """A batch of texts; see the layout above.

    word_ids: `(words,)` int64, distinct. On a GPU their number is not known without waiting, so there are as many as
    tokens, and the rest is padding (0). token_indices: `(tokens,)` int32. offsets: `(texts + 1,)` int64.
    max_length: tokens of the longest text, at least 1.
    """

    word_ids: Tensor
    token_indices: Tensor
    offsets: Tensor
    max_length: int

    def __len__(self) -> int:
        return len(self.offsets) - 1


def make_epoch_batches(lengths: np.ndarray, batch_size: int, seed: int, epoch: int, block: int = 0) -> list[np.ndarray]:
    """Return an epoch's batches, each an int64 array of row numbers; every row is in exactly one batch.

    Rows are shuffled, sorted by length within windows of `SORT_WINDOW_BATCHES` batches and split into batches; then
    the batches are shuffled.

    Args:
        lengths: `(rows,)` tokens of each text.
        block: number of the block of texts, if there are several.
    """
    generator = np.random.default_rng([seed, epoch, block])
    rows = generator.permutation(len(lengths))
    window_size = SORT_WINDOW_BATCHES * batch_size
    batches = []
    for start in range(0, len(rows), window_size):
        window = rows[start : start + window_size]
        window = window[np.argsort(lengths[window], kind="stable")]
        batches += [window[first : first + batch_size] for first in range(0, len(window), batch_size)]
    return [batches[index] for index in generator.permutation(len(batches))]


def iter_batches_by_length(lengths: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
    """Yield row numbers in batches of texts of similar length, every row once; for inference."""
    rows = np.argsort(lengths, kind="stable")
    for start in range(0, len(rows), batch_size):
        yield rows[start : start + batch_size]


class Collator:
    """Collates texts into batches.

    Args:
        tokens: the texts.
        num_words: size of the vocabulary.
        device: device of the batches; on a GPU all texts are copied to it.
    """

    def __init__(self, tokens: Tokens, num_words: int, device: torch.device | str = "cpu") -> None:
        self._tokens = tokens
        self.lengths = tokens.lengths
        self.device = torch.device(device)
        self._word_index = np.full(num_words, -1, np.int32)

    def collate(self, rows: np.ndarray) -> Batch:
        """Return the batch of the texts with some row numbers, `(texts,)` int64."""
        return self._collate_on_cpu(rows) if self.device.type == "cpu" else self._collate_on_device(rows)

    @cached_property
    def device_texts(self) -> tuple[Tensor, Tensor]:
        """Ids and offsets of all texts on the device, `(all tokens,)` and `(all texts + 1,)` int64."""
        ids, offsets = self._tokens.ids.astype(np.int64), self._tokens.offsets.astype(np.int64)
        return torch.as_tensor(ids).to(self.device), torch.as_tensor(offsets).to(self.device)

    def count_tokens(self, rows: np.ndarray) -> int:
        """Return the number of tokens of some texts: a batch of them has at most as many words."""
        return int(self.lengths[rows].sum())

    def _collate_on_cpu(self, rows: np.ndarray) -> Batch:
        from jobs.model import kernels  # a GPU machine needs no numba

        lengths = self.lengths[rows]
        num_tokens = int(lengths.sum())
        word_ids = np.empty(num_tokens, np.int64)
        token_indices = np.empty(num_tokens, np.int32)
        offsets = np.empty(len(rows) + 1, np.int64)
        num_words = kernels.index_unique_words(
            self._tokens.ids, self._tokens.offsets, rows, self._word_index, word_ids, token_indices, offsets
        )
        return Batch(
            torch.from_numpy(word_ids[:num_words]),
            torch.from_numpy(token_indices),
            torch.from_numpy(offsets),
            int(max(1, lengths.max(initial=0))),
        )

    def _collate_on_device(self, rows: np.ndarray) -> Batch:
        """As `_collate_on_cpu`. All shapes are known on the CPU, so there is no device sync."""
        lengths = self.lengths[rows]
        num_tokens = int(lengths.sum())
        device_rows = copy_to_device(rows, self.device)
        offsets = copy_to_device(np.concatenate([[0], lengths.cumsum()]), self.device)
        text_index = torch.repeat_interleave(
            torch.arange(len(rows), device=self.device), offsets.diff(), output_size=num_tokens
        )  # (tokens,) the text of each token
        positions = torch.arange(num_tokens, device=self.device) - offsets[text_index]  # (tokens,) in their texts
        all_ids, all_offsets = self.device_texts
        ids = all_ids[all_offsets[device_rows][text_index] + positions]  # (tokens,)
        sorted_ids, order = ids.sort(stable=True)
        # (tokens,) index of each token's word; subtract the first value so that indices start at 0.
        word_index = (sorted_ids != sorted_ids.roll(1)).cumsum(0)
        word_index = (word_index - word_index[:1]) if num_tokens else word_index
        word_ids = torch.zeros_like(sorted_ids).scatter_(0, word_index, sorted_ids)
        token_indices = torch.empty_like(word_index).scatter_(0, order, word_index)
        return Batch(word_ids, token_indices.int(), offsets, int(max(1, lengths.max(initial=0))))


def copy_to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """Return a copy of an array on a device, without waiting for it to arrive."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
