"""Training texts in blocks: a process needs one of them at a time, however many texts there are.

The texts are divided at random into blocks of about `BLOCK_TOKENS` tokens. An epoch takes the blocks in random order
and shuffles the texts of each of them. Each block is an object of its own in Ray's object store: a node gets it when a
worker asks for it, and drops it when the memory is needed. Fewer texts are one block, so that all of them are shuffled
together.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from jobs.datasets.tokenizer import Tokens

BLOCK_TOKENS = 1 << 24  # 64 MB of token ids: 800,000 texts of twenty words


@dataclass(frozen=True)
class TokenBlock:
    """Some of the training texts. rows: their numbers, ascending, `(texts,)` int64; tokens: of these texts."""

    rows: np.ndarray
    tokens: Tokens


class TokenBlocks:
    """Tokens of the training texts, in blocks.

    Attributes:
        num_texts, num_tokens: of all blocks.
        sizes: number of texts in each block.

    Args:
        tokens: of all texts.
    """

    def __init__(self, tokens: Tokens) -> None:
        self.num_texts, self.num_tokens = len(tokens), len(tokens.ids)
        number = max(1, math.ceil(self.num_tokens / BLOCK_TOKENS))
        self._tokens = tokens
        self.sizes = [len(tokens)]
        if number > 1:
            # The block of each text, `(texts,)`.
            self._blocks = np.random.default_rng(0).integers(number, size=len(tokens), dtype=np.uint16)
            self.sizes = [int(size) for size in np.bincount(self._blocks, minlength=number)]

    def __iter__(self) -> Iterator[TokenBlock]:
        return map(self.read, range(len(self.sizes)))

    def read(self, number: int) -> TokenBlock:
        """Return a block; number: from 0."""
        if len(self.sizes) == 1:
            return TokenBlock(np.arange(self.num_texts), self._tokens)
        rows = np.flatnonzero(self._blocks == number)
        return TokenBlock(rows, self._tokens.select(rows))

    def select(self, rows: slice | np.ndarray) -> Tokens:
        """Return the tokens of some texts; rows: their numbers, ascending, or all."""
        return self._tokens.select(rows)

    def count_words(self, num_words: int) -> np.ndarray:
        """Return how often each id occurs, int64, for `num_words` ids or up to the largest one, if that is more."""
        ids = self._tokens.ids
        size = max(num_words, int(ids.max(initial=-1)) + 1)
        # In parts, since numpy copies them as int64.
        parts = (ids[start : start + BLOCK_TOKENS] for start in range(0, len(ids), BLOCK_TOKENS))
        return sum((np.bincount(part, minlength=size) for part in parts), start=np.zeros(size, np.int64))
