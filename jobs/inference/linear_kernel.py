"""Compiled scores of the linear classifier next to the network (`model.linear`), from word ids.

`jobs.model.linear.tensors` has the formula. Layout, without a linear classifier all empty:

    rows    (rows * stride,) int16 or float32, row after row, those of words, then those of pairs: the squared inverse
            document frequency, in float32, then the weights of the classes; zeros fill the stride, a multiple of BLOCK
    squares (rows * stride / 2 or rows * stride,) float32: the memory of the rows
    pairs   (2 * size,) int64, hash table with linear probing: for each slot the key of a pair, -1 if it is free, and
            its row; size is a power of two, at least twice the number of pairs
    filter  (bytes,) uint8, a power of two: bit i is set if the hash of a pair ends with the bits of i. Most pairs of a
            text have no row, and the filter is small enough for the processor's cache
    scales  (classes,) float32: the score of a class is the sum of its weights, times its scale, divided by the root of
            the sum of the squares

Weights in int16 are summed in int32: LinearWeights limits them so that no text's sums overflow.
"""

import numpy as np

from jobs.compilation.decorator import compiled
from jobs.compilation.intrinsics import CACHE_LINE, prefetch
from jobs.compilation.vectors import sum_rows

Array = np.ndarray

FREE = -1
PADDING = 0  # that of `jobs.datasets.tokenizer`; numba would not notice a change in another file
FILTER_BITS = 16  # for each pair, at least
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # of multiplicative hashing: 2^64 divided by the golden ratio (Knuth 1998)
_HIGH = np.uint64(32)


def count_slots(num_pairs: int) -> int:
    """Return the number of slots of the hash table of that many pairs."""
    return 1 << (2 * num_pairs).bit_length()


def count_filter_bytes(num_pairs: int) -> int:
    """Return the size of the filter of that many pairs."""
    return 1 << max(0, (FILTER_BITS * num_pairs).bit_length() - 3)


def build_pair_table(keys: np.ndarray, first_row: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the hash table of pairs and the filter; keys: `(pairs,)` int64, different ones; first_row: of the first
    pair."""
    table = np.full(2 * count_slots(len(keys)), FREE, np.int64)
    bits = np.zeros(8 * count_filter_bytes(len(keys)), bool)
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
def _may_have_row(hashed: int, pair_filter: Array) -> int:
    bit = hashed & (8 * len(pair_filter) - 1)
    return int((pair_filter[bit >> 3] >> (bit & 7)) & 1)


@compiled()
def _find_row(key: int, pairs: Array) -> int:
    slot = _find_slot(pairs, key, _hash(key))
    return FREE if pairs[slot] == FREE else pairs[slot + 1]


@compiled()
def find_pair_row(first: int, second: int, pairs: Array, pair_filter: Array) -> int:
    """Return the row of the pair of two words, -1 if it has none."""
    key = first << 32 | second
    return _find_row(key, pairs) if _may_have_row(_hash(key), pair_filter) else FREE


@compiled()
def _prefetch_row(rows: Array, offset: int, stride: int) -> None:
    """Fetch a row, given by its first element; rows are not aligned to cache lines, so also the line of its last."""
    for column in range(0, stride, CACHE_LINE // rows.itemsize):
        prefetch(rows, offset + column)  # type: ignore[call-arg]
    prefetch(rows, offset + stride - 1)  # type: ignore[call-arg]


@compiled()
def prefetch_words(
    ids: Array, count: int, num_words: int, stride: int, rows: Array, pairs: Array, pair_filter: Array, offsets: Array,
    keys: Array,
) -> int:  # fmt: skip
    """Fetch the rows of a text's words, and where to search for its pairs, while other code runs.

    Args:
        ids: word ids, the first `count`. num_words: rows of words. offsets: receives those of the rows of the words,
            `(count,)` int64 at least; words without a row have that of padding. keys: receives those of pairs that may
            have a row, `(count,)` int64 at least.

    Returns:
        The number of such pairs.
    """
    num_keys, previous = 0, PADDING
    for index in range(count):
        word = ids[index]
        offset = word * stride if word < num_words else 0
        offsets[index] = offset
        _prefetch_row(rows, offset, stride)
        keys[num_keys] = previous << 32 | word
        num_keys += _may_have_row(_hash(keys[num_keys]), pair_filter)  # a branch could not be predicted
        previous = word
    for index in range(num_keys):
        prefetch(pairs, 2 * (_hash(keys[index]) & (len(pairs) // 2 - 1)))  # type: ignore[call-arg]
    return num_keys


@compiled()
def find_pairs(keys: Array, num_keys: int, stride: int, rows: Array, pairs: Array, offsets: Array) -> int:
    """Return how many of some pairs have a row, and fetch these rows.

    Args:
        keys: of the pairs, the first `num_keys`. offsets: receives those of the rows, `(num_keys,)` int64 at least.
    """
    number = 0
    for index in range(num_keys):
        row = _find_row(keys[index], pairs)
        if row != FREE:
            offsets[number] = row * stride
            _prefetch_row(rows, offsets[number], stride)
            number += 1
    return number


@compiled(fastmath={"reassoc", "contract", "nsz"})
def add_linear_scores(
    rows: Array, squares: Array, scales: Array, offsets: Array, number: int, sums: Array, scores: Array
) -> None:
    """Add the linear classifier's scores, without the bias, to those of a text.

    Args:
        offsets: of the text's rows, the first `number`. sums: scratch, `(stride,)` float32.
    """
    per_square, total = 4 // rows.itemsize, np.float32(0)
    for index in range(number):
        total += squares[offsets[index] // per_square]
    if total > 0:
        sum_rows(sums, rows, offsets, number)
        factor = np.float32(1 / np.sqrt(total))
        for label in range(len(scores)):
            scores[label] += factor * scales[label] * sums[per_square + label]
