"""Compiled scoring of texts, from bytes to logits: tokens, word ids, table look-ups, shifted sums, a maximum over time.

Texts in ASCII are tokenized here exactly as by `jobs.datasets.tokenizer.tokenize`; other texts arrive as word ids. The
convolution of training is in `jobs.model.convolution`, with its kernels in `jobs.model.kernels`.

Layout of the filters. They are sorted by width, narrow first, so those that have window position p are the last
filter_counts[p]. A row of the projection table belongs to a word: for each window position, its products with the
filters that have that position, from column column_offsets[p] on. So num_columns is the sum of the filters' widths.
Drawn in docs/assets/filter-layout.svg.

    table        (words * num_columns,) float32, row after row; may hold only the first words of the vocabulary
    filter_counts, column_offsets  (max width,) int64
    biases       (filters,) float32
    output       (classes * filters,) float32, class after class
    output_bias  (classes,) float32

Layout of the vocabulary. Word i has the id i + 2.

    word_bytes    (bytes,) uint8, all words, one after the other
    word_offsets  (words + 1,) int64, word i has the bytes from word_offsets[i] to word_offsets[i + 1]
    slots         (size,) int32, hash table with linear probing: the word in each slot, -1 if it is free; size is a
                  power of two
    hashes        (size,) uint64, FNV-1a hash of the word in each slot
"""

import numpy as np

from jobs.inference.prefetch import prefetch
from jobs.model.compilation import compiled

Array = np.ndarray

# Those of `jobs.datasets.tokenizer`; numba would not notice a change in another file.
PADDING, UNKNOWN = 0, 1
MAX_PUNCTUATION_RUN = 3

# Classes of bytes in the tokenizer; white space is what \s matches in Python.
_PUNCTUATION, _WORD, _SPACE = 0, 1, 2
_BYTE_CLASS = np.zeros(256, np.uint8)
for _byte in range(128):
    if chr(_byte).isalnum() or chr(_byte) == "_":
        _BYTE_CLASS[_byte] = _WORD
    elif chr(_byte).isspace():
        _BYTE_CLASS[_byte] = _SPACE
# What each byte is looked up as, with and without case.
_CASED = np.arange(256, dtype=np.uint8)
_LOWERCASED = np.where((_CASED >= 65) & (_CASED <= 90), _CASED + 32, _CASED).astype(np.uint8)
_QUOTE = ord("'")
_CACHE_LINE = 16  # float32 values that a processor fetches together
_FNV_START, _FNV_PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)  # FNV-1a, 64 bits


@compiled()
def _is_word_end(text: Array, index: int, end: int) -> bool:
    return index >= end or _BYTE_CLASS[text[index]] != _WORD


@compiled()
def _lowercase_byte(text: Array, index: int, end: int) -> np.uint8:
    """Return the byte at an index in lower case, 0 beyond the end."""
    return _LOWERCASED[text[index]] if index < end else np.uint8(0)


@compiled()
def _is_negation_rest(text: Array, index: int, end: int) -> bool:
    """Return whether 't, the rest of n't, is at an index, and the word ends after it."""
    return (
        index < end
        and text[index] == _QUOTE
        and _lowercase_byte(text, index + 1, end) == 116
        and _is_word_end(text, index + 2, end)
    )


@compiled()
def _find_punctuation_end(text: Array, start: int, end: int) -> int:
    """Return the end of the token that starts with a punctuation mark: a clitic, or a run of one mark."""
    if text[start] == _QUOTE:
        first, second = _lowercase_byte(text, start + 1, end), _lowercase_byte(text, start + 2, end)
        if (first == 115 or first == 109 or first == 100) and _is_word_end(text, start + 2, end):  # s m d
            return start + 2
        is_two_letter_clitic = ((first == 114 or first == 118) and second == 101) or (first == 108 and second == 108)
        if is_two_letter_clitic and _is_word_end(text, start + 3, end):  # re ve ll
            return start + 3
    token_end = start + 1
    while token_end < end and text[token_end] == text[start]:
        token_end += 1
    return token_end


@compiled()
def _hash(text: Array, start: int, end: int, case: Array) -> np.uint64:
    key = _FNV_START
    for index in range(start, end):
        key = (key ^ np.uint64(case[text[index]])) * _FNV_PRIME
    return key


@compiled()
def _look_up_word(
    text: Array, start: int, end: int, key: np.uint64, case: Array, word_bytes: Array, word_offsets: Array,
    slots: Array, hashes: Array,
) -> int:  # fmt: skip
    """Return the id of the word at an index of a text, whose hash is `key`."""
    mask = np.uint64(len(slots) - 1)
    slot = key & mask
    while slots[slot] >= 0:
        word: int = slots[slot]
        first = word_offsets[word]
        if hashes[slot] == key and word_offsets[word + 1] - first == end - start:
            index = 0
            while index < end - start and word_bytes[first + index] == case[text[start + index]]:
                index += 1
            if index == end - start:
                return word + 2
        slot = (slot + np.uint64(1)) & mask
    return UNKNOWN


@compiled()
def build_hash_table(word_bytes: Array, word_offsets: Array, included: Array, slots: Array, hashes: Array) -> None:
    """Fill the hash table of a vocabulary; see the layout above.

    Args:
        included: `(words,)` bool, the words to put into the table.
        slots: all -1, at least twice as many as words.
    """
    mask = np.uint64(len(slots) - 1)
    for word in range(len(word_offsets) - 1):
        if not included[word]:
            continue
        key = _hash(word_bytes, word_offsets[word], word_offsets[word + 1], _CASED)
        slot = key & mask
        while slots[slot] >= 0:
            slot = (slot + np.uint64(1)) & mask
        slots[slot] = word
        hashes[slot] = key


@compiled()
def tokenize_ascii(
    text: Array, start: int, end: int, lowercase: bool, word_bytes: Array, word_offsets: Array, slots: Array,
    hashes: Array, ids: Array,
) -> int:  # fmt: skip
    """Write the word ids of a text's tokens into `ids`, as many as fit; return their number."""
    case = _LOWERCASED if lowercase else _CASED
    count = 0
    index = start
    while index < end and count < len(ids):
        byte_class = _BYTE_CLASS[text[index]]
        if byte_class == _SPACE:
            index += 1
            continue
        if byte_class == _WORD:  # hashed while its end is searched, also without its last letter
            key = previous_key = _FNV_START
            token_end = index
            while not _is_word_end(text, token_end, end):
                previous_key = key
                key = (key ^ np.uint64(case[text[token_end]])) * _FNV_PRIME
                token_end += 1
            # n't: what precedes it is a token of its own.
            if _lowercase_byte(text, token_end - 1, end) == 110 and _is_negation_rest(text, token_end, end):
                if token_end - 1 > index:
                    token_end -= 1
                    key = previous_key
                else:
                    token_end += 2
                    key = _hash(text, index, token_end, case)
            key_end = token_end
        else:
            token_end = _find_punctuation_end(text, index, end)
            key_end = min(token_end, index + MAX_PUNCTUATION_RUN)
            key = _hash(text, index, key_end, case)
        ids[count] = _look_up_word(text, index, key_end, key, case, word_bytes, word_offsets, slots, hashes)
        count += 1
        index = token_end
    return count


@compiled()
def _prefetch_row(table: Array, word: int, num_columns: int) -> None:
    """Prefetch a word's row of the table: rows are anywhere in memory, so no processor can predict them."""
    for index in range(word * num_columns, (word + 1) * num_columns, _CACHE_LINE):
        prefetch(table, index)  # type: ignore[call-arg]  # numba adds the typing context


@compiled()
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


@compiled()
def score_ascii_text(
    text: Array, start: int, end: int, lowercase: bool, word_bytes: Array, word_offsets: Array, slots: Array,
    hashes: Array, table: Array, num_columns: int, filter_counts: Array, column_offsets: Array, biases: Array,
    output: Array, output_bias: Array, ids: Array, sums: Array, features: Array, scores: Array,
) -> tuple[int, int]:  # fmt: skip
    """Write the logits of one text in ASCII, `(classes,)` float32; return its numbers of tokens and unknown tokens.

    If the table lacks a word, the number of tokens is -1 and nothing is written.

    Args:
        text: uint8; the text has the bytes from start to end.
        ids: scratch, int64, as long as the text may be in tokens; sums, features: scratch, `(filters,)` float32 each.
    """
    num_tokens = tokenize_ascii(text, start, end, lowercase, word_bytes, word_offsets, slots, hashes, ids)
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


@compiled()
def score_ascii_texts(
    text: Array, offsets: Array, lowercase: bool, word_bytes: Array, word_offsets: Array, slots: Array, hashes: Array,
    table: Array, num_columns: int, filter_counts: Array, column_offsets: Array, biases: Array, output: Array,
    output_bias: Array, ids: Array, scores: Array,
) -> tuple[int, int, int]:  # fmt: skip
    """Write the logits of texts in ASCII, `(texts, classes)` float32; stop at a text with a word not in the table.

    Args:
        text: uint8, all texts, one after the other; text i has the bytes from offsets[i] to offsets[i + 1].
        ids: scratch, int64, as long as the longest text may be in tokens.

    Returns:
        The number of texts that were scored, and their numbers of tokens and unknown tokens.
    """
    sums, features = np.empty(len(biases), np.float32), np.empty(len(biases), np.float32)
    num_tokens = num_unknown = 0
    for index in range(len(offsets) - 1):
        tokens, unknown = score_ascii_text(
            text, offsets[index], offsets[index + 1], lowercase, word_bytes, word_offsets, slots, hashes,
            table, num_columns, filter_counts, column_offsets, biases, output, output_bias,
            ids, sums, features, scores[index],
        )  # fmt: skip
        if tokens < 0:
            return index, num_tokens, num_unknown
        num_tokens += tokens
        num_unknown += unknown
    return len(offsets) - 1, num_tokens, num_unknown


@compiled()
def score_token_ids(
    ids: Array, table: Array, num_columns: int, filter_counts: Array, column_offsets: Array, biases: Array,
    output: Array, output_bias: Array, scores: Array,
) -> None:  # fmt: skip
    """Write the logits of a text, `(classes,)` float32; ids: `(tokens,)` int64, rows of the table, at least one."""
    sums, features = np.empty(len(biases), np.float32), np.empty(len(biases), np.float32)
    _max_over_time(ids, len(ids), table, num_columns, filter_counts, column_offsets, biases, sums, features)
    _apply_output_layer(features, output, output_bias, scores)
