"""Compiled scores of the linear classifier next to the network (`model.linear`), from word ids.

`jobs.model.linear.tensors` has the formula. Layout, without a linear classifier all empty:

    rows    (rows * (classes + 1),) float32, row after row, those of words, then those of pairs: the weights of the
            classes, then the squared inverse document frequency
    pairs   (2 * size,) int64, hash table with linear probing: for each slot the key of a pair, -1 if it is free, and
            its row; size is a power of two, at least twice the number of pairs
    filter  (bytes,) uint8, a power of two: bit i is set if the hash of a pair ends with the bits of i. Most pairs of a
            text have no row, and the filter is small enough for the processor's cache
    scale   (1,) float32
"""

import numpy as np

from jobs.compilation import intrinsics
from jobs.compilation.decorator import compiled
from jobs.compilation.intrinsics import CACHE_LINE, prefetch

Array = np.ndarray

FREE = -1
PADDING = 0  # that of `jobs.datasets.tokenizer`; numba would not notice a change in another file
FILTER_BITS = 16  # for each pair, at least
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # of multiplicative hashing: 2^64 divided by the golden ratio (Knuth 1998)
_HIGH = np.uint64(32)


def build_pair_table(keys: np.ndarray, first_row: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the hash table of pairs and the filter; keys: `(pairs,)` int64, different ones; first_row: of the first
    pair."""
    table = np.full(2 << (2 * len(keys)).bit_length(), FREE, np.int64)
    bits = np.zeros(1 << max(3, (FILTER_BITS * len(keys)).bit_length()), bool)
    hashes = (keys.astype(np.uint64) * _MULTIPLIER) >> _HIGH
    bits[(hashes & np.uint64(len(bits) - 1)).astype(np.int64)] = True
    _insert_pairs(keys, first_row, table)
    return table, np.packbits(bits, bitorder="little")


@compiled()
def _hash(key: int) -> int:
    # The highest bits of the product are the best mixed.
    return np.int64((np.uint64(key) * _MULTIPLIER) >> _HIGH)  # type: ignore[return-value]


@compiled()
def _find_slot(table: Array, key: int, hashed: int) -> int:
    """Return the index of the slot of a key, or of the free one where it would be."""
    mask = len(table) // 2 - 1
    slot = hashed & mask
    while table[2 * slot] != key and table[2 * slot] != FREE:
        slot = (slot + 1) & mask
    return 2 * slot


@compiled()
def _insert_pairs(keys: Array, first_row: int, table: Array) -> None:
    for index in range(len(keys)):
        slot = _find_slot(table, keys[index], _hash(keys[index]))
        table[slot], table[slot + 1] = keys[index], first_row + index


@compiled()
def _may_have_row(hashed: int, pair_filter: Array) -> bool:
    bit = hashed & (8 * len(pair_filter) - 1)
    return bool((pair_filter[bit >> 3] >> (bit & 7)) & 1)


@compiled()
def find_pair_row(first: int, second: int, pairs: Array, pair_filter: Array) -> int:
    """Return the row of the pair of two words, -1 if it has none."""
    key = first << 32 | second
    hashed = _hash(key)
    if not _may_have_row(hashed, pair_filter):
        return FREE
    slot = _find_slot(pairs, key, hashed)
    return FREE if pairs[slot] == FREE else pairs[slot + 1]


@compiled(calls=[intrinsics])
def prefetch_rows(
    ids: Array, count: int, num_words: int, num_columns: int, rows: Array, pairs: Array, pair_filter: Array
) -> None:
    """Fetch what `add_linear_scores` reads first into the processor's cache, while other code runs."""
    line = CACHE_LINE // rows.itemsize
    previous = num_words
    for index in range(count):
        word = ids[index]
        if word < num_words:
            for column in range(0, num_columns, line):
                prefetch(rows, word * num_columns + column)  # type: ignore[call-arg]
            if previous < num_words:
                hashed = _hash(previous << 32 | word)
                if _may_have_row(hashed, pair_filter):
                    prefetch(pairs, 2 * (hashed & (len(pairs) // 2 - 1)))  # type: ignore[call-arg]
        previous = word


@compiled(fastmath={"reassoc", "contract", "nsz"})
def add_linear_scores(
    ids: Array, count: int, num_words: int, rows: Array, pairs: Array, pair_filter: Array, scale: float, scores: Array
) -> None:
    """Add the linear classifier's scores, multiplied by the scale and without the bias, to those of a text.

    Args:
        ids: word ids, the first `count`. num_words: rows of words.
    """
    num_columns = len(scores) + 1
    sums = np.zeros(num_columns, np.float32)
    previous = num_words
    for index in range(count):
        word = ids[index]
        if PADDING < word < num_words:
            row = rows[word * num_columns : (word + 1) * num_columns]
            for column in range(num_columns):
                sums[column] += row[column]
            if previous < num_words:
                pair = find_pair_row(previous, word, pairs, pair_filter)
                if pair != FREE:
                    row = rows[pair * num_columns : (pair + 1) * num_columns]
                    for column in range(num_columns):
                        sums[column] += row[column]
        previous = word
    if sums[num_columns - 1] > 0:
        factor = np.float32(scale / np.sqrt(sums[num_columns - 1]))
        for label in range(len(scores)):
            scores[label] += factor * sums[label]
