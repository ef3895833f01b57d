"""Tensors of the linear classifier next to the network (`model.linear`), by their names in a checkpoint.

    linear.pairs    (pairs, 2) int32: ids of the two words of each pair, sorted
    linear.weight   (words + pairs, classes) float32: row i belongs to the word with id i, row words + i to pair i
    linear.squares  (words + pairs,) float32: squared inverse document frequency of the word or pair
    linear.bias     (classes,) float32
    linear.scale    (1,) float32: factor of the scores that are added to the network's logits

A text has the words and pairs of adjacent words that have a row, repeated ones as often as it repeats them. Its scores
are `bias + sum(weight) / sqrt(sum(squares))`, of their rows: a linear function of its TF-IDF, since training multiplies
the weights by the inverse document frequencies. The rows of padding and of the unknown word are 0.
"""

from collections.abc import Mapping

import numpy as np

PREFIX = "linear."
PAIRS, WEIGHT, SQUARES, BIAS, SCALE = (PREFIX + name for name in ("pairs", "weight", "squares", "bias", "scale"))
CONSTANT_TENSORS = (PAIRS, WEIGHT, SQUARES, BIAS)  # training does not change them
FIRST_WORD = 2  # after padding and the unknown word


def compute_keys(pairs: np.ndarray) -> np.ndarray:
    """Return a number for each pair of word ids, `(pairs,)` int64, in the order of the pairs; pairs: `(pairs, 2)`."""
    keys: np.ndarray = pairs[:, 0].astype(np.int64) << 32 | pairs[:, 1]
    return keys


def select_words(weights: Mapping[str, np.ndarray], ids: np.ndarray) -> dict[str, np.ndarray]:
    """Return the linear classifier's tensors for a vocabulary that has only some of the words; none without one.

    Args:
        ids: of the words that remain, ascending, `(words,)` int64; padding and the unknown word are the first.
    """
    if WEIGHT not in weights:
        return {}
    pairs = weights[PAIRS]
    num_words = len(weights[SQUARES]) - len(pairs)
    remaining = ids[ids < num_words]
    new_ids = np.full(num_words, -1, np.int32)
    new_ids[remaining] = np.arange(len(remaining))
    new_pairs = new_ids[pairs]
    is_selected = (new_pairs >= 0).all(axis=1)
    rows = np.concatenate([remaining, num_words + np.flatnonzero(is_selected)])
    selected = {PAIRS: new_pairs[is_selected], WEIGHT: weights[WEIGHT][rows], SQUARES: weights[SQUARES][rows]}
    return selected | {name: weights[name] for name in (BIAS, SCALE)}
