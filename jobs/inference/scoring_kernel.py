"""Compiled scoring of texts, from bytes to logits: tokens, word ids, table look-ups, shifted sums, a maximum over time.

A text arrives in UTF-8, normalized by `jobs.inference.code_points`, or as word ids. `jobs.model.convolution` trains,
with its kernels in `jobs.model.kernels`.

Layout of the filters. They are sorted by width, narrow first, so those that have window position p are the last
filter_counts[p]. A row of the projection table belongs to a word: for each window position, its products with the
filters that have that position, from column column_offsets[p] on. So num_columns is the sum of the filters' widths.
Drawn in docs/assets/filter-layout.svg.

    table        (words * num_columns,) float32, row after row; may hold only the first words of the vocabulary
    filter_counts, column_offsets  (max width,) int64
    biases       (filters,) float32
    output       (classes * filters,) float32, class after class
    output_bias  (classes,) float32

The layout of the vocabulary is in `jobs.inference.tokenizer_kernel`.
"""

import numpy as np

from jobs.inference import code_points, tokenizer_kernel
from jobs.inference import prefetch as prefetch_module
from jobs.inference.code_points import normalize_text
from jobs.inference.prefetch import prefetch
from jobs.inference.tokenizer_kernel import normalize_ascii, tokenize
from jobs.model.compilation import compiled

Array = np.ndarray

# Those of `jobs.datasets.tokenizer`; numba would not notice a change in another file.
PADDING, UNKNOWN = 0, 1

_CACHE_LINE = 16  # float32 values that a processor fetches together


@compiled(calls=[prefetch_module])
def _prefetch_row(table: Array, word: int, num_columns: int) -> None:
    """Prefetch a word's row of the table: rows are anywhere in memory, so no processor can predict them."""
    for index in range(word * num_columns, (word + 1) * num_columns, _CACHE_LINE):
        prefetch(table, index)  # type: ignore[call-arg]  # numba adds the typing context


@compiled(calls=[prefetch_module])
def _max_over_time(
    ids: Array, count: int, table: Array, num_columns: int, filter_counts: Array, column_offsets: Array,
    biases: Array, sums: Array, features: Array,
) -> None:  # fmt: skip
    """Write each filter's maximum over a text's windows after ReLU; ids: the first `count`, at least one.

    The windows of all filters that start at the same word are summed together. Those that start before the text's
    first word are only of the wide filters, which are last. A window that reaches beyond the text is shorter. Slices,
    and one loop for three rows, let the compiler use vector instructions.
    """
    num_filters, max_width = len(features), len(filter_counts)
    for index in range(num_filters):
        features[index] = -np.inf
    for word in range(min(max_width + 1, count)):
        _prefetch_row(table, ids[word], num_columns)
    for start in range(1 - max_width, count):
        if start > 0 and start + max_width < count:  # the last word of the next window
            _prefetch_row(table, ids[start + max_width], num_columns)
        # Window positions that are inside the text.
        position = max(0, -start)
        last = min(max_width, count - start)
        active = filter_counts[position]  # filters wide enough to start here and still contain a word
        offset = ids[start + position] * num_columns + column_offsets[position]
        first_row = table[offset : offset + active]
        window_sums = sums[:active]
        if position + 2 < last and filter_counts[position + 2] == active:
            offset = ids[start + position + 1] * num_columns + column_offsets[position + 1]
            second_row = table[offset : offset + active]
            offset = ids[start + position + 2] * num_columns + column_offsets[position + 2]
            third_row = table[offset : offset + active]
            for index in range(active):
                window_sums[index] = first_row[index] + second_row[index] + third_row[index]
            position += 3
        else:
            for index in range(active):
                window_sums[index] = first_row[index]
            position += 1
        while position < last:
            wide = filter_counts[position]
            offset = ids[start + position] * num_columns + column_offsets[position]
            row = table[offset : offset + wide]
            wide_sums = sums[active - wide : active]
            for index in range(wide):
                wide_sums[index] += row[index]
            position += 1
        maxima = features[num_filters - active :]
        for index in range(active):
            maxima[index] = window_sums[index] if window_sums[index] > maxima[index] else maxima[index]
    for index in range(num_filters):
        value = features[index] + biases[index]
        features[index] = value if value > 0 else np.float32(0)


@compiled(fastmath={"reassoc", "contract", "nsz"})
def _apply_output_layer(features: Array, output: Array, output_bias: Array, scores: Array) -> None:
    """Write `output @ features + output_bias`."""
    for label in range(len(scores)):
        row = output[label * len(features) : (label + 1) * len(features)]
        value = np.float32(0)
        for index in range(len(features)):
            value += row[index] * features[index]
        scores[label] = value + output_bias[label]


@compiled(calls=[prefetch_module, tokenizer_kernel])
def score_text(
    text: Array, classes: Array, start: int, end: int, word_bytes: Array, word_offsets: Array, slots: Array,
    hashes: Array, table: Array, num_columns: int, filter_counts: Array, column_offsets: Array, biases: Array,
    output: Array, output_bias: Array, ids: Array, sums: Array, features: Array, scores: Array,
) -> tuple[int, int]:  # fmt: skip
    """Write the logits of one normalized text, `(classes,)` float32; return its numbers of tokens and unknown tokens.

    If the table lacks a word, the number of tokens is -1 and nothing is written.

    Args:
        text, classes: uint8, as `code_points.normalize_text` writes them; the text has the bytes from start to end.
        ids: scratch, int64, as long as the text may be in tokens; sums, features: scratch, `(filters,)` float32 each.
    """
    num_tokens = tokenize(text, classes, start, end, word_bytes, word_offsets, slots, hashes, ids)
    count = num_tokens
    if count == 0:  # the empty text is one word of padding
        ids[0] = PADDING
        count = 1
    num_unknown = 0
    for index in range(count):
        if ids[index] * num_columns >= len(table):
            return -1, 0
        if ids[index] == UNKNOWN:
            num_unknown += 1
    _max_over_time(ids, count, table, num_columns, filter_counts, column_offsets, biases, sums, features)
    _apply_output_layer(features, output, output_bias, scores)
    return num_tokens, num_unknown


@compiled(calls=[prefetch_module, tokenizer_kernel])
def score_ascii_text(
    text: Array, start: int, end: int, lowercase: bool, word_bytes: Array, word_offsets: Array, slots: Array,
    hashes: Array, table: Array, num_columns: int, filter_counts: Array, column_offsets: Array, biases: Array,
    output: Array, output_bias: Array, ids: Array, sums: Array, features: Array, scores: Array,
) -> tuple[int, int]:  # fmt: skip
    """As `score_text`, of a text in ASCII that is not normalized."""
    normalized, classes = np.empty(end - start, np.uint8), np.empty(end - start, np.uint8)
    length = normalize_ascii(text, start, end, lowercase, normalized, classes)
    return score_text(
        normalized, classes, 0, length, word_bytes, word_offsets, slots, hashes, table, num_columns, filter_counts,
        column_offsets, biases, output, output_bias, ids, sums, features, scores,
    )  # fmt: skip


@compiled(calls=[code_points, prefetch_module, tokenizer_kernel])
def score_utf8_text(
    text: Array, start: int, end: int, entries: Array, compositions: Array, word_bytes: Array, word_offsets: Array,
    slots: Array, hashes: Array, table: Array, num_columns: int, filter_counts: Array, column_offsets: Array,
    biases: Array, output: Array, output_bias: Array, ids: Array, sums: Array, features: Array, scores: Array,
) -> tuple[int, int]:  # fmt: skip
    """As `score_text`, of a text that is not normalized; the number of tokens is also -1 if Python must normalize it.

    entries, compositions: see `code_points.normalize_text`.
    """
    normalized, classes = np.empty(2 * (end - start), np.uint8), np.empty(2 * (end - start), np.uint8)
    length = normalize_text(text, start, end, entries, compositions, normalized, classes, 0)
    if length < 0:
        return -1, 0
    return score_text(
        normalized, classes, 0, length, word_bytes, word_offsets, slots, hashes, table, num_columns, filter_counts,
        column_offsets, biases, output, output_bias, ids, sums, features, scores,
    )  # fmt: skip


@compiled(calls=[prefetch_module, tokenizer_kernel])
def score_texts(
    text: Array, classes: Array, offsets: Array, is_left: Array, word_bytes: Array, word_offsets: Array, slots: Array,
    hashes: Array, table: Array, num_columns: int, filter_counts: Array, column_offsets: Array, biases: Array,
    output: Array, output_bias: Array, ids: Array, scores: Array,
) -> tuple[int, int, int]:  # fmt: skip
    """Write the logits of normalized texts, `(texts, classes)` float32; stop at one that is left to Python.

    That is a text with a word that is not in the table, or for which `is_left` is true.

    Args:
        text, classes: all texts, one after the other; text i has the bytes from offsets[i] to offsets[i + 1].
        ids: scratch, int64, as long as the longest text may be in tokens.

    Returns:
        The number of texts that were scored, and their numbers of tokens and unknown tokens.
    """
    sums, features = np.empty(len(biases), np.float32), np.empty(len(biases), np.float32)
    num_tokens = num_unknown = 0
    for index in range(len(offsets) - 1):
        if is_left[index]:
            return index, num_tokens, num_unknown
        tokens, unknown = score_text(
            text, classes, offsets[index], offsets[index + 1], word_bytes, word_offsets, slots, hashes,
            table, num_columns, filter_counts, column_offsets, biases, output, output_bias,
            ids, sums, features, scores[index],
        )  # fmt: skip
        if tokens < 0:
            return index, num_tokens, num_unknown
        num_tokens += tokens
        num_unknown += unknown
    return len(offsets) - 1, num_tokens, num_unknown


@compiled(calls=[prefetch_module])
def score_token_ids(
    ids: Array, table: Array, num_columns: int, filter_counts: Array, column_offsets: Array, biases: Array,
    output: Array, output_bias: Array, scores: Array,
) -> None:  # fmt: skip
    """Write the logits of a text, `(classes,)` float32; ids: `(tokens,)` int64, rows of the table, at least one."""
    sums, features = np.empty(len(biases), np.float32), np.empty(len(biases), np.float32)
    _max_over_time(ids, len(ids), table, num_columns, filter_counts, column_offsets, biases, sums, features)
    _apply_output_layer(features, output, output_bias, scores)
