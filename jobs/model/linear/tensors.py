"""Tensors of the linear classifier next to the network (`model.linear`), by their names in a checkpoint.

    linear.pairs    (pairs, 2) int32: ids of the two words of each pair, sorted
    linear.weight   (words + pairs, classes) float32: row i belongs to the word with id i, row words + i to pair i
    linear.squares  (words + pairs,) float32: squared inverse document frequency of the word or pair
    linear.bias     (classes,) float32
    linear.scale    (classes,) float32: weights of the scores that are added to the network's logits; earlier versions
                    wrote one for all classes, (1,)

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
NO_ROWS_SCORE = -1.0  # of a class without training rows


def compute_keys(pairs: np.ndarray) -> np.ndarray:
    """Return a number for each pair of word ids, `(pairs,)` int64, in the order of the pairs; pairs: `(pairs, 2)`."""
    keys: np.ndarray = pairs[:, 0].astype(np.int64) << 32 | pairs[:, 1]
    return keys


def renumber_words(weights: Mapping[str, np.ndarray], ids: np.ndarray, num_words: int) -> dict[str, np.ndarray]:
    """Return the linear classifier's tensors with other ids of the words.

    Args:
        ids: new ids, `(ids,)` int64, of the present ones, -1 of words to leave out; padding and the unknown word stay.
        num_words: rows of words in the result; those of other words are 0.
    """
    pairs, tensors = weights[PAIRS], dict(weights)
    old_num_words = len(weights[SQUARES]) - len(pairs)
    ids = ids[:old_num_words]
    tensors[PAIRS] = ids[pairs].astype(np.int32)
    order = np.flatnonzero((tensors[PAIRS] >= 0).all(axis=1))
    order = order[np.argsort(compute_keys(tensors[PAIRS][order]))]
    tensors[PAIRS] = tensors[PAIRS][order]
    for name in (WEIGHT, SQUARES):
        words = np.zeros((num_words, *weights[name].shape[1:]), weights[name].dtype)
        words[ids[ids >= 0]] = weights[name][:old_num_words][ids >= 0]
        tensors[name] = np.concatenate([words, weights[name][old_num_words + order]])
    return {name: tensors[name] for name in (PAIRS, WEIGHT, SQUARES, BIAS, SCALE)}


def select_words(weights: Mapping[str, np.ndarray], ids: np.ndarray) -> dict[str, np.ndarray]:
    """Return the linear classifier's tensors for a vocabulary that has only some of the words; none without one.

    Args:
        ids: of the words that remain, ascending, `(words,)` int64; padding and the unknown word are the first.
    """
    if WEIGHT not in weights:
        return {}
    old_num_words = len(weights[SQUARES]) - len(weights[PAIRS])
    remaining = ids[ids < old_num_words]
    new_ids = np.full(old_num_words, -1, np.int64)
    new_ids[remaining] = np.arange(len(remaining))
    return renumber_words(weights, new_ids, len(remaining))
