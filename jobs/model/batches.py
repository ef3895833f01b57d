"""Which rows a step sees, as tensors: each distinct word of the batch once, and each token's place among them.

The order follows from the seed and the epoch alone, so that every worker knows it and nothing about it
crosses the network. The texts lie on the device from the start; a step sends it row numbers.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from jobs.datasets.tokenizer import Tokens

# Texts of similar length go together: rows are sorted within windows of this many batches.
SORT_WINDOW_BATCHES = 40


@dataclass(frozen=True)
class Batch:
    """Some texts.

    words: `(words,)` int64, distinct; on a GPU, where their number is not known without waiting, as many as
    there are tokens, the rest of them padding (0). places: `(tokens,)` int32, all texts one after the other:
    where each token stands in `words`. starts: `(rows + 1,)` int64: where each text begins in `places`.
    longest: tokens of the longest text, at least 1.
    """

    word_ids: Tensor
    token_indices: Tensor
    offsets: Tensor
    max_length: int

    def __len__(self) -> int:
        return len(self.offsets) - 1


def make_epoch_batches(lengths: np.ndarray, batch_size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """Return an epoch's batches, each an array of row numbers; every row comes once.

    Rows are shuffled, sorted by length within windows of `WINDOW` batches, cut into batches, and the
    batches are shuffled.
    """
    generator = np.random.default_rng([seed, epoch])
    rows = generator.permutation(len(lengths))
    window = SORT_WINDOW_BATCHES * batch_size
    batches = []
    for start in range(0, len(rows), window):
        part = rows[start : start + window]
        part = part[np.argsort(lengths[part], kind="stable")]
        batches += [part[first : first + batch_size] for first in range(0, len(part), batch_size)]
    return [batches[number] for number in generator.permutation(len(batches))]


def iter_batches_by_length(lengths: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
    """Yield row numbers in batches of texts of similar length, every row once, for when nothing is learned."""
    rows = np.argsort(lengths, kind="stable")
    for start in range(0, len(rows), batch_size):
        yield rows[start : start + batch_size]


class Collator:
    """Makes batches of a part's texts.

    Args:
        tokens: the texts.
        num_words: in the vocabulary.
        device: where batches are wanted; a GPU keeps all texts.
    """

    def __init__(self, tokens: Tokens, num_words: int, device: torch.device | str = "cpu") -> None:
        self._tokens = tokens
        self._lengths = tokens.lengths
        self.device = torch.device(device)
        self._mark = np.full(num_words, -1, np.int32)
        if self.device.type != "cpu":
            self._ids = torch.as_tensor(tokens.ids.astype(np.int64)).to(self.device)
            self._offsets = torch.as_tensor(tokens.offsets.astype(np.int64)).to(self.device)

    def collate(self, rows: np.ndarray) -> Batch:
        """Return some texts by their row numbers."""
        return self._compact(rows) if self.device.type == "cpu" else self._resident(rows)

    def _compact(self, rows: np.ndarray) -> Batch:
        from jobs.model import kernels

        lengths = self._lengths[rows]
        num_tokens = int(lengths.sum())
        words = np.empty(num_tokens, np.int64)
        places = np.empty(num_tokens, np.int32)
        starts = np.empty(len(rows) + 1, np.int64)
        num_words = kernels.index_unique_words(
            self._tokens.ids, self._tokens.offsets, rows, self._mark, words, places, starts
        )
        words, places, starts = (torch.from_numpy(array) for array in (words[:num_words], places, starts))
        return Batch(words, places, starts, int(max(1, lengths.max(initial=0))))

    def _resident(self, rows: np.ndarray) -> Batch:
        """As `_compact`, with operations whose shapes are known beforehand, so that nothing waits for the device."""
        lengths = self._lengths[rows]
        num_tokens = int(lengths.sum())
        chosen = copy_to_device(rows, self.device)
        starts = copy_to_device(np.concatenate([[0], lengths.cumsum()]), self.device)
        row = torch.repeat_interleave(
            torch.arange(len(rows), device=self.device), starts.diff(), output_size=num_tokens
        )  # (tokens,) the text that each token is of
        at = self._offsets[chosen][row] + torch.arange(num_tokens, device=self.device) - starts[row]
        ascending, by_word = self._ids[at].sort(stable=True)
        number = (ascending != ascending.roll(1)).cumsum(0)  # (tokens,) from 1 on, but from 0 where all are one word
        number = (number - number[:1]) if num_tokens else number
        words = torch.zeros_like(ascending).scatter_(0, number, ascending)
        places = torch.empty_like(number).scatter_(0, by_word, number)
        return Batch(words, places.int(), starts, int(max(1, lengths.max(initial=0))))


def copy_to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """Return an array on a device, without waiting for it to arrive."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
