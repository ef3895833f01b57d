"""Compiled scoring of texts, from bytes to logits: tokens, word ids, table look-ups, shifted sums, a maximum over time.

A text arrives in UTF-8, or as word ids. `jobs.model.convolution` trains, with its kernels in `jobs.model.kernels`.

Layout of the filters. They are ordered as in training: width after width, map after map. A row of the projection table
belongs to a word, with its products with the filters: width after width, position in the window after position, map
after map; zeros fill the maps of a position up to a multiple of BLOCK, and the row up to a cache line. Drawn without
them in docs/assets/filter-layout.svg.

    table        (words * num_columns,) int16 or float32, row after row; may hold only the first words of the vocabulary
    scales       (filters,) float32: a filter's products are its entries of the table times its scale
    widths       (number of widths,) int64
    biases       (filters,) float32
    output       (classes * filters,) float32, class after class
    output_bias  (classes,) float32

The arrays of the linear classifier are those of `jobs.inference.linear_kernel`; its scaled bias is in output_bias.
Entries in int16 are summed and compared in int32. The layout of the vocabulary is in
`jobs.datasets.tokenization.tokenizer_kernel`.
"""

import ctypes
from functools import cache

import numpy as np
from numba.np.numpy_support import carray

from jobs.compilation.decorator import compiled
from jobs.compilation.entry import Entry, compile_entry
from jobs.compilation.intrinsics import get_array, view_read_only, view_writable
from jobs.compilation.vectors import BLOCK, max_windows
from jobs.datasets.tokenization.code_points import normalize_text
from jobs.datasets.tokenization.tokenizer_kernel import normalize_ascii, tokenize
from jobs.inference.linear_kernel import add_linear_scores, find_pairs, prefetch_words

Array = np.ndarray

# Those of `jobs.datasets.tokenizer`; numba would not notice a change in another file.
PADDING, UNKNOWN = 0, 1

# The arrays of a classifier in the order of `intrinsics.pack_addresses`.
NUMBERS, WORD_BYTES, WORD_OFFSETS, SLOTS, NEAR_OFFSETS, NEAR_ENTRIES, ENTRIES, COMPOSITIONS = range(8)
TABLE, SCALES, WIDTHS, BIASES, OUTPUT, OUTPUT_BIAS = range(8, 14)
LINEAR_ROWS, LINEAR_PAIRS, LINEAR_FILTER, LINEAR_SCALES, NUM_ARRAYS = range(14, 19)
# int64: 1 to lower the case, most tokens of a text, columns of the table, maps of a position with the zeros that fill
# its last block, blocks of a call of `max_windows`, 1 if compiled code has the tokenizer, rows of words of the linear
# classifier, elements of each.
LOWERCASE, MAX_TOKENS, NUM_COLUMNS, NUM_MAXIMA, BLOCKS, IS_COMPILED, LINEAR_WORDS, LINEAR_STRIDE = range(8)


@compiled()
def _max_over_time(
    ids: Array, count: int, table: Array, num_columns: int, scales: Array, widths: Array, biases: Array, blocks: int,
    maxima: Array, features: Array,
) -> None:  # fmt: skip
    """Write each filter's maximum over a text's windows after ReLU.

    ids: the first `count`, at least one. blocks: of a call of `max_windows`. maxima: scratch, `(maps,)` float32, with
    the maps that fill the last block.

    A window that reaches beyond the text is shorter.
    """
    maps = len(features) // len(widths)
    part = BLOCK * blocks
    column = 0
    for number in range(len(widths)):
        for begin in range(0, len(maxima), part):
            first = min(begin, len(maxima) - part)  # the last two parts may have some maps in common
            max_windows(
                maxima[first:], table, ids, count, num_columns, column + first, len(maxima), widths[number], blocks
            )
        column += widths[number] * len(maxima)
        for index in range(maps):
            feature = number * maps + index
            value = maxima[index] * scales[feature] + biases[feature]
            features[feature] = value if value > 0 else np.float32(0)


@compiled(fastmath={"reassoc", "contract", "nsz"})
def _apply_output_layer(features: Array, output: Array, output_bias: Array, scores: Array) -> None:
    """Write `output @ features + output_bias`."""
    for label in range(len(scores)):
        row = output[label * len(features) : (label + 1) * len(features)]
        value = np.float32(0)
        for index in range(len(features)):
            value += row[index] * features[index]
        scores[label] = value + output_bias[label]


@compiled()
def _prefetch_linear_words(
    ids: Array, count: int, addresses: Array, no_rows: Array, offsets: Array, keys: Array
) -> int:
    """Call `prefetch_words` with a classifier's arrays."""
    numbers = get_array(addresses, NUMBERS, np.int64)
    return prefetch_words(
        ids, count, numbers[LINEAR_WORDS], numbers[LINEAR_STRIDE], get_array(addresses, LINEAR_ROWS, no_rows.dtype),
        get_array(addresses, LINEAR_PAIRS, np.int64), get_array(addresses, LINEAR_FILTER, np.uint8), offsets, keys,
    )  # fmt: skip


@compiled()
def _find_linear_pairs(keys: Array, num_keys: int, addresses: Array, no_rows: Array, offsets: Array) -> int:
    """Call `find_pairs` with a classifier's arrays."""
    stride = get_array(addresses, NUMBERS, np.int64)[LINEAR_STRIDE]
    rows, pairs = get_array(addresses, LINEAR_ROWS, no_rows.dtype), get_array(addresses, LINEAR_PAIRS, np.int64)
    return find_pairs(keys, num_keys, stride, rows, pairs, offsets)


@compiled()
def _add_linear_scores(
    addresses: Array, no_rows: Array, offsets: Array, number: int, sums: Array, scores: Array
) -> None:
    """Call `add_linear_scores` with a classifier's arrays."""
    rows, scales = get_array(addresses, LINEAR_ROWS, no_rows.dtype), get_array(addresses, LINEAR_SCALES, np.float32)
    add_linear_scores(rows, rows.view(np.float32), scales, offsets, number, sums, scores)


@compiled()
def score_texts(
    content: Array, offsets: Array, is_ascii: bool, addresses: Array, no_rows: Array, logits: Array, token_counts: Array
) -> tuple[int, int, int]:  # fmt: skip
    """Write the logits of texts, `(texts, classes)` float32; stop at one that is left to Python.

    That is a text with a word that is not in the table, or that `code_points.normalize_text` leaves, or any text if the
    tokenizer is that of an installed package.

    Args:
        content: uint8, read-only, all texts in UTF-8, one after the other; text i has the bytes from offsets[i] to
            offsets[i + 1], or to the end.
        is_ascii: whether all texts are; otherwise the tables of `code_points` must be among the arrays.
        addresses: of the classifier's arrays.
        no_rows: a table, for its type.
        token_counts: receives the tokens and unknown tokens of each text, `(2 * texts,)` int64, or is empty.

    Returns:
        The number of texts that were scored, and their numbers of tokens and unknown tokens.
    """
    numbers, content = get_array(addresses, NUMBERS, np.int64), view_writable(content)  # as other kernels have it
    if numbers[IS_COMPILED] == 0:
        return 0, 0, 0
    num_columns = numbers[NUM_COLUMNS]
    word_bytes, word_offsets = get_array(addresses, WORD_BYTES, np.uint8), get_array(addresses, WORD_OFFSETS, np.int64)
    slots, near_offsets = get_array(addresses, SLOTS, np.int64), get_array(addresses, NEAR_OFFSETS, np.int32)
    near_entries = get_array(addresses, NEAR_ENTRIES, np.int64)
    entries, compositions = get_array(addresses, ENTRIES, np.uint32), get_array(addresses, COMPOSITIONS, np.int64)
    table, scales = get_array(addresses, TABLE, no_rows.dtype), get_array(addresses, SCALES, np.float32)
    widths, biases = get_array(addresses, WIDTHS, np.int64), get_array(addresses, BIASES, np.float32)
    output, output_bias = get_array(addresses, OUTPUT, np.float32), get_array(addresses, OUTPUT_BIAS, np.float32)
    max_bytes = 0
    for number in range(len(offsets) - 1):
        max_bytes = max(max_bytes, min(offsets[number + 1], len(content)) - offsets[number])
    normalized, classes = np.empty(2 * max_bytes, np.uint8), np.empty(2 * max_bytes, np.uint8)
    max_count, num_maxima, stride = min(numbers[MAX_TOKENS], max_bytes + 1), numbers[NUM_MAXIMA], numbers[LINEAR_STRIDE]
    # One array for several purposes: to allocate another one takes a percent of the time of a single text.
    scratch = np.empty(max_count * (4 if stride else 1), np.int64)
    ids, pair_keys, row_offsets = scratch[:max_count], scratch[max_count : 2 * max_count], scratch[2 * max_count :]
    values = np.empty(num_maxima + stride + len(biases), np.float32)
    maxima, sums, features = (
        values[:num_maxima], values[num_maxima : num_maxima + stride], values[num_maxima + stride :]
    )  # fmt: skip
    num_tokens = num_unknown = 0
    for number in range(len(offsets) - 1):
        start, end = offsets[number], min(offsets[number + 1], len(content))
        if is_ascii:
            length = normalize_ascii(content, start, end, numbers[LOWERCASE] != 0, normalized, classes)
        else:
            length = normalize_text(content, start, end, entries, compositions, normalized, classes, 0)
            if length < 0:
                return number, num_tokens, num_unknown
        tokens = count = tokenize(
            normalized, classes, 0, length, word_bytes, word_offsets, slots, near_offsets, near_entries, ids, table,
            num_columns,
        )  # fmt: skip
        if count == 0:  # the empty text is one word of padding
            ids[0] = PADDING
            count = 1
        unknown = 0
        for index in range(count):
            if ids[index] * num_columns >= len(table):
                return number, num_tokens, num_unknown
            if ids[index] == UNKNOWN:
                unknown += 1
        num_tokens += tokens
        num_unknown += unknown
        if len(token_counts):
            token_counts[2 * number], token_counts[2 * number + 1] = tokens, unknown
        num_keys = 0
        if len(sums):
            num_keys = _prefetch_linear_words(ids, count, addresses, no_rows, row_offsets, pair_keys)
        _max_over_time(ids, count, table, num_columns, scales, widths, biases, numbers[BLOCKS], maxima, features)
        num_pairs = _find_linear_pairs(pair_keys, num_keys, addresses, no_rows, row_offsets[count:])
        _apply_output_layer(features, output, output_bias, logits[number])
        if len(sums):
            _add_linear_scores(addresses, no_rows, row_offsets, count + num_pairs, sums, logits[number])
    return len(offsets) - 1, num_tokens, num_unknown


@compiled()
def score_token_ids(ids: Array, rows: Array, addresses: Array, no_rows: Array, logits: Array) -> None:
    """Write the logits of a text, `(classes,)` float32, with a table that has a row for each token.

    ids: of the words, `(tokens,)` int64, at least one; rows: the table, `(tokens * num_columns,)` float32; no_rows: as
    of `score_texts`.
    """
    numbers = get_array(addresses, NUMBERS, np.int64)
    biases, widths = get_array(addresses, BIASES, np.float32), get_array(addresses, WIDTHS, np.int64)
    maxima, features = np.empty(numbers[NUM_MAXIMA], np.float32), np.empty_like(biases)
    count, num_columns, scales = len(ids), numbers[NUM_COLUMNS], np.ones_like(biases)
    _max_over_time(
        np.arange(count), count, rows, num_columns, scales, widths, biases, numbers[BLOCKS], maxima, features
    )
    output, output_bias = get_array(addresses, OUTPUT, np.float32), get_array(addresses, OUTPUT_BIAS, np.float32)
    _apply_output_layer(features, output, output_bias, logits)
    sums = np.empty(numbers[LINEAR_STRIDE], np.float32)
    if len(sums):
        keys, row_offsets = np.empty_like(ids), np.empty(2 * count, np.int64)
        num_keys = _prefetch_linear_words(ids, count, addresses, no_rows, row_offsets, keys)
        num_pairs = _find_linear_pairs(keys, num_keys, addresses, no_rows, row_offsets[count:])
        _add_linear_scores(addresses, no_rows, row_offsets, count + num_pairs, sums, logits)


class BestClassEntry:
    """Finds the class of a single text in one call.

    Args:
        addresses: of a classifier's arrays, which stay alive as long as it.
    """

    def __init__(self, addresses: np.ndarray, table_dtype: np.dtype) -> None:
        self.addresses, self._address = addresses, addresses.ctypes.data
        self._call = compile_best_class(table_dtype).call

    def find(self, content: bytes, is_ascii: bool) -> int:
        """Return the most likely class of a text in UTF-8, or -1 if it is left to Python."""
        return self._call(content, len(content), is_ascii, self._address) - 1


@cache
def compile_best_class(table_dtype: np.dtype) -> Entry:
    """Return the entry; its number is 1 if the text is ASCII, and its address that of a classifier's addresses."""

    def find_best_class(text: ctypes.c_void_p, size: int, is_ascii: int, address: ctypes.c_void_p) -> int:
        """Return the class with the highest logit plus 1, or 0 if the text is left to Python."""
        addresses = carray(address, (2 * NUM_ARRAYS,), np.int64)
        logits = np.empty((1, len(get_array(addresses, OUTPUT_BIAS, np.float32))), np.float32)
        scored, _, _ = score_texts(
            view_read_only(carray(text, (size,), np.uint8)), np.array([0, size]), is_ascii != 0, addresses,
            get_array(addresses, TABLE, table_dtype), logits, np.empty(0, np.int64),
        )  # fmt: skip
        return np.int64(logits[0].argmax() + 1) if scored else 0  # type: ignore[return-value]

    return compile_entry(find_best_class)
