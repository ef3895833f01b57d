"""Digests of texts, by which rows of a test part that were trained on are recognized.

A digest depends on the token ids of a text: two texts with the same words in the same order have the same digest,
whatever their white space, and their letter case if training lowers it. A checkpoint contains the digests of its
training texts. They do not contain the texts, but show whether a given text is among them.
"""

from collections.abc import Iterable

import numpy as np

from jobs.datasets.tokenizer import UNKNOWN, Tokens

MAX_STORED_DIGESTS = 1 << 20  # of 8 bytes; more would be most of a checkpoint


def digest_training_texts(blocks: Iterable[Tokens]) -> np.ndarray | None:
    """Return the different digests of texts, sorted, `(digests,)` uint64; None if there are too many to store."""
    digests = np.empty(0, np.uint64)
    for tokens in blocks:
        digests = np.union1d(digests, digest_texts(tokens))
        if len(digests) > MAX_STORED_DIGESTS:
            return None
    return digests


def find_seen_texts(tokens: Tokens, training_digests: np.ndarray) -> np.ndarray:
    """Return which texts are among the training texts, `(texts,)` bool.

    A text without words never is, nor one with an unknown word: all unknown words have the same id.

    Args:
        training_digests: `(digests,)` uint64.
    """
    unknown_words = np.concatenate([np.zeros(1, np.int64), np.cumsum(tokens.ids == UNKNOWN)])[tokens.offsets]
    is_known = (np.diff(unknown_words) == 0) & (tokens.lengths > 0)
    return np.asarray(np.isin(digest_texts(tokens), training_digests) & is_known)


def digest_texts(tokens: Tokens) -> np.ndarray:
    """Return a digest of the token ids of each text, `(texts,)` uint64."""
    lengths = tokens.lengths
    positions = np.arange(len(tokens.ids)) - np.repeat(tokens.offsets[:-1], lengths)
    words = mix(tokens.ids.astype(np.uint64) + (positions.astype(np.uint64) << np.uint64(32)))
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(words, dtype=np.uint64)])
    return mix(sums[tokens.offsets[1:]] - sums[tokens.offsets[:-1]] + lengths.astype(np.uint64))


def mix(values: np.ndarray) -> np.ndarray:
    """Return numbers that look random and differ if the arguments do (SplitMix64, Steele et al. 2014)."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(values ^ (values >> np.uint64(31)))
