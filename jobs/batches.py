"""Which rows a step sees, and each worker's share of them as tensors.

Every worker computes the same order from the seed and the epoch, so that nothing but gradients
crosses the network and the global batch is the same for any number of workers.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from jobs.corpus import Encoded

# Texts of similar length go together: rows are sorted within windows of this many batches.
WINDOW = 40


@dataclass(frozen=True)
class Batch:
    """One worker's share of a global batch; see `Network.forward` for words, tokens and lengths.

    labels: `(rows,)` int64. size: rows of the global batch. all_words: `(W,)` int64 distinct words of the
    global batch, sorted. places: `(U,)` int64, where `words` stand in `all_words`.
    """

    words: Tensor
    tokens: Tensor
    lengths: Tensor
    labels: Tensor
    size: int
    all_words: Tensor
    places: Tensor

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on a device."""
        moved = {
            key: value.to(device, non_blocking=True) for key, value in vars(self).items() if isinstance(value, Tensor)
        }
        return Batch(size=self.size, **moved)


def order(lengths: np.ndarray, batch_size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """Return an epoch's batches, each an array of row numbers; every row comes once.

    Rows are shuffled, sorted by length within windows of `WINDOW` batches, cut into batches, and the
    batches are shuffled.
    """
    generator = np.random.default_rng([seed, epoch])
    rows = generator.permutation(len(lengths))
    window = WINDOW * batch_size
    batches = []
    for start in range(0, len(rows), window):
        part = rows[start : start + window]
        part = part[np.argsort(lengths[part], kind="stable")]
        batches += [part[first : first + batch_size] for first in range(0, len(part), batch_size)]
    return [batches[number] for number in generator.permutation(len(batches))]


def distinct(tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct words of `(rows, length)` tokens, padding first, and each token's place among them."""
    words, places = np.unique(np.append(tokens.ravel(), 0), return_inverse=True)
    return words, places[:-1].reshape(tokens.shape)


def collate(part: Encoded, rows: np.ndarray, rank: int = 0, num_workers: int = 1) -> Batch:
    """Return a worker's share of a global batch: every `num_workers`-th row from `rank` on."""
    own = rows[rank::num_workers]
    words, tokens = distinct(part.tokens.padded(own))
    all_words = words
    if num_workers > 1:
        all_words, _ = distinct(part.tokens.padded(rows))
    return Batch(
        words=torch.from_numpy(words),
        tokens=torch.from_numpy(tokens),
        lengths=torch.from_numpy(part.tokens.lengths[own]),
        labels=torch.from_numpy(part.labels[own]),
        size=len(rows),
        all_words=torch.from_numpy(all_words),
        places=torch.from_numpy(np.searchsorted(all_words, words)),
    )
