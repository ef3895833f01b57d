"""Batches of the training texts, block after block."""

from collections.abc import Iterator

import numpy as np
import torch

from jobs.datasets.tokenizer import Tokens
from jobs.model.batches import Collator, make_epoch_batches
from jobs.training.corpora.token_blocks import TokenBlocks


class BlockReader:
    """Reads the blocks of the training texts in the order of an epoch, which depends only on the seed and the epoch.

    Attributes:
        rows: numbers of the current texts, those of a block, at first of block 0, or all; `(texts,)` int64.
        collator: of these texts.
        num_batches: in an epoch.

    Args:
        num_words: size of the vocabulary.
        device: of the batches.
        all_at_once: keep all texts on the device, instead of one block; the batches are the same. By default on a GPU.
    """

    def __init__(
        self,
        blocks: TokenBlocks,
        num_words: int,
        batch_size: int,
        seed: int,
        device: torch.device | str = "cpu",
        *,
        all_at_once: bool | None = None,
    ) -> None:
        self._blocks, self._num_words, self._batch_size, self._seed = blocks, num_words, batch_size, seed
        self._device = torch.device(device)
        self._counts = [-(-size // batch_size) for size in blocks.sizes]  # batches of each block
        self.num_batches = sum(self._counts)
        self._block_rows: list[np.ndarray] | None = None
        self._current: int | None = None
        if self._device.type == "cuda" if all_at_once is None else all_at_once:
            self._block_rows = [block.rows.copy() for block in blocks]  # without the tokens of a stored block
            self._set_texts(np.arange(blocks.num_texts), blocks.select(slice(None)))
        else:
            self._enter(0)

    def iter_batches(self, epoch: int, done: int = 0) -> Iterator[tuple[int, list[np.ndarray]]]:
        """Yield the number of the first of consecutive batches of an epoch, and these batches, indices into `rows`.

        They are those of a block, which becomes the current one, or the complete epoch.

        Args:
            done: number of batches that are not needed: blocks with no others are not read.
        """
        order = np.random.default_rng([self._seed, epoch]).permutation(len(self._counts))
        if self._block_rows is not None:
            lengths, rows = self.collator.lengths, self._block_rows
            yield 0, [rows[block][own] for block in order for own in self._make(lengths[rows[block]], epoch, block)]
            return
        first = 0
        for block in order:
            if first + self._counts[block] > done:
                if block != self._current:
                    self._enter(block)
                yield first, self._make(self.collator.lengths, epoch, block)
            first += self._counts[block]

    def _make(self, lengths: np.ndarray, epoch: int, block: int) -> list[np.ndarray]:
        return make_epoch_batches(lengths, self._batch_size, self._seed, epoch, block)

    def _enter(self, block: int) -> None:
        read = self._blocks.read(block)
        self._set_texts(read.rows, read.tokens)
        self._current = block

    def _set_texts(self, rows: np.ndarray, tokens: Tokens) -> None:
        self.rows, self.collator = rows, Collator(tokens, self._num_words, self._device)
