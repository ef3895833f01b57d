"""From bytes of text to scores in one compiled loop: tokens, their numbers, look-ups, shifted sums, a maximum.

numba compiles this for the processor that it runs on and keeps the result beside this file (or where
NUMBA_CACHE_DIR says), so one process on a machine compiles and the others read. Texts that hold only ASCII are split
here exactly as `jobs.datasets.tokenizer.tokenize` splits them; others come as the numbers of their tokens.

Filters stand in the order of their widths, the narrow first. `table` is flat: for each word `columns` values, for each
place of a window, from the first on, one for each filter that is wide enough to have it; `lengths` says how many that
are, `places` where they begin. `output` is flat too, (classes, filters). All values are float32.
"""

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

# Those of `jobs.datasets.tokenizer` and, in serving/web/fast_path.py, of `serving.web.protocol`: numba would not see
# a change in another file.
PADDING, UNKNOWN = 0, 1

NUMBA_OPTIONS = {"cache": True, "nogil": True, "error_model": "numpy"}

# What a byte is to the tokeniser: part of a word, white space (as Python's \s counts it), or punctuation.
_PUNCTUATION, _WORD, _SPACE = 0, 1, 2
_KIND = np.zeros(256, np.uint8)
for _letter in range(128):
    if chr(_letter).isalnum() or chr(_letter) == "_":
        _KIND[_letter] = _WORD
    elif chr(_letter).isspace():
        _KIND[_letter] = _SPACE
# Letters as they are looked up: themselves, or small.
_PLAIN = np.arange(256, dtype=np.uint8)
_SMALL = np.where((_PLAIN >= 65) & (_PLAIN <= 90), _PLAIN + 32, _PLAIN).astype(np.uint8)
_QUOTE = ord("'")
_LONGEST_PUNCTUATION = 3
_LINE = 16  # values that a processor fetches together
_FNV_START, _FNV_PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)  # FNV-1a, 64 bits


@njit(**NUMBA_OPTIONS)
def _ends(text, place, end):
    """Tell whether no word goes on at a place."""
    return place >= end or _KIND[text[place]] != _WORD


@njit(**NUMBA_OPTIONS)
def _small(text, place, end):
    """Return the letter at a place as a small one, 0 beyond the end."""
    return _SMALL[text[place]] if place < end else np.uint8(0)


@njit(**NUMBA_OPTIONS)
def _is_not(text, place, end):
    """Tell whether 't stands at a place, and no word goes on after it."""
    return place < end and text[place] == _QUOTE and _small(text, place + 1, end) == 116 and _ends(text, place + 2, end)


@njit(**NUMBA_OPTIONS)
def _mark_end(text, start, end):
    """Return where the token ends that starts with a punctuation mark, by the rules of `jobs.datasets.tokenizer`."""
    if text[start] == _QUOTE:
        one, two = _small(text, start + 1, end), _small(text, start + 2, end)
        if (one == 115 or one == 109 or one == 100) and _ends(text, start + 2, end):  # s m d
            return start + 2
        if (((one == 114 or one == 118) and two == 101) or (one == 108 and two == 108)) and _ends(text, start + 3, end):
            return start + 3  # re ve ll
    after = start + 1
    while after < end and text[after] == text[start]:
        after += 1
    return after


@njit(**NUMBA_OPTIONS)
def _hash(text, start, end, letters):
    key = _FNV_START
    for place in range(start, end):
        key = (key ^ np.uint64(letters[text[place]])) * _FNV_PRIME
    return key


@njit(**NUMBA_OPTIONS)
def _find(text, start, end, key, letters, words, starts, slots, hashes):
    """Return the number of the word at a place, whose hash is `key`."""
    mask = np.uint64(len(slots) - 1)
    slot = key & mask
    while slots[slot] >= 0:
        number = slots[slot]
        first = starts[number]
        if hashes[slot] == key and starts[number + 1] - first == end - start:
            place = 0
            while place < end - start and words[first + place] == letters[text[start + place]]:
                place += 1
            if place == end - start:
                return number + 2
        slot = (slot + np.uint64(1)) & mask
    return UNKNOWN


@njit(**NUMBA_OPTIONS)
def build_hash_table(word_bytes, word_offsets, included, slots, hashes):
    """Fill a hash table of words: `slots` (all -1, a power of two) with their places, `hashes` with their hashes.

    words: the words' bytes one after the other; starts: where each begins; wanted: which to put in.
    """
    mask = np.uint64(len(slots) - 1)
    for number in range(len(word_offsets) - 1):
        if not included[number]:
            continue
        key = _hash(word_bytes, word_offsets[number], word_offsets[number + 1], _PLAIN)
        slot = key & mask
        while slots[slot] >= 0:
            slot = (slot + np.uint64(1)) & mask
        slots[slot] = number
        hashes[slot] = key


@njit(**NUMBA_OPTIONS)
def tokenize_ascii(text, start, end, lowercase, word_bytes, word_offsets, slots, hashes, ids):
    """Write the numbers of a text's words into `ids`, as many as fit; return how many."""
    letters = _SMALL if lowercase else _PLAIN
    count = 0
    place = start
    while place < end and count < len(ids):
        kind = _KIND[text[place]]
        if kind == _SPACE:
            place += 1
            continue
        if kind == _WORD:  # its hash is made on the way, and that without its last letter
            key = before = _FNV_START
            after = place
            while not _ends(text, after, end):
                before = key
                key = (key ^ np.uint64(letters[text[after]])) * _FNV_PRIME
                after += 1
            if _small(text, after - 1, end) == 110 and _is_not(text, after, end):  # n't: what is before it is a token
                if after - 1 > place:
                    after -= 1
                    key = before
                else:
                    after += 2
                    key = _hash(text, place, after, letters)
            last = after
        else:
            after = _mark_end(text, place, end)
            last = min(after, place + _LONGEST_PUNCTUATION)
            key = _hash(text, place, last, letters)
        ids[count] = _find(text, place, last, key, letters, word_bytes, word_offsets, slots, hashes)
        count += 1
        place = after
    return count


@intrinsic
def _touch(typing_context, array, place):
    """Ask the processor to fetch what is at a place of an array, which is used soon; this waits for nothing."""

    def generate(context, builder, signature, arguments):
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        number, byte = ir.IntType(32), ir.IntType(8).as_pointer()
        takes = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        fetch = cgutils.get_or_insert_function(builder.module, takes, "llvm.prefetch.p0")
        read, all_caches, data_not_code = number(0), number(3), number(1)
        builder.call(fetch, [builder.bitcast(builder.gep(data, [arguments[1]]), byte), read, all_caches, data_not_code])
        return context.get_dummy_value()

    return types.void(array, types.int64), generate


@njit(**NUMBA_OPTIONS)
def _fetch(table, word, columns):
    """Have a word's row of the table fetched: rows lie anywhere, so no processor foresees them."""
    for place in range(word * columns, (word + 1) * columns, _LINE):
        _touch(table, place)


@njit(**NUMBA_OPTIONS)
def _features(ids, count, table, columns, lengths, starts, biases, sums, features):
    """Write each filter's maximum over a text's windows; ids: the first `count`, at least one.

    All filters whose window starts at a word are summed side by side; those before the text's first word are only the
    wide ones, which stand last. A window that reaches beyond the text is shorter. Slices, and one loop for three
    rows, let the compiler use vector instructions.
    """
    total, longest = len(features), len(lengths)
    for each in range(total):
        features[each] = -np.inf
    for word in range(min(longest + 1, count)):
        _fetch(table, ids[word], columns)
    for word in range(1 - longest, count):
        if word > 0 and word + longest < count:  # which the next window ends with
            _fetch(table, ids[word + longest], columns)
        place = max(0, -word)
        last = min(longest, count - word)
        lanes = lengths[place]  # filters that are wide enough to start here and still hold a word
        start = ids[word + place] * columns + starts[place]
        first = table[start : start + lanes]
        found = sums[:lanes]
        if place + 2 < last and lengths[place + 2] == lanes:
            start = ids[word + place + 1] * columns + starts[place + 1]
            second = table[start : start + lanes]
            start = ids[word + place + 2] * columns + starts[place + 2]
            third = table[start : start + lanes]
            for each in range(lanes):
                found[each] = first[each] + second[each] + third[each]
            place += 3
        else:
            for each in range(lanes):
                found[each] = first[each]
            place += 1
        while place < last:
            wide = lengths[place]
            start = ids[word + place] * columns + starts[place]
            row = table[start : start + wide]
            part = sums[lanes - wide : lanes]
            for each in range(wide):
                part[each] += row[each]
            place += 1
        best = features[total - lanes :]
        for each in range(lanes):
            best[each] = found[each] if found[each] > best[each] else best[each]
    for each in range(total):
        value = features[each] + biases[each]
        features[each] = value if value > 0 else np.float32(0)


@njit(fastmath={"reassoc", "contract", "nsz"}, **NUMBA_OPTIONS)
def _product(features, output, output_bias, scores):
    """Write `output @ features + output_bias`."""
    for label in range(len(scores)):
        row = output[label * len(features) : (label + 1) * len(features)]
        value = np.float32(0)
        for each in range(len(features)):
            value += row[each] * features[each]
        scores[label] = value + output_bias[label]


@njit(**NUMBA_OPTIONS)
def score_ascii_text(
    text, start, end, lowercase, word_bytes, word_offsets, slots, hashes,
    table, num_columns, filter_counts, column_offsets, biases, output, output_bias, ids, sums, features, scores,
):  # fmt: skip
    """Write the scores of one text in ASCII, `(classes,)`; return its tokens, and how many of them are unknown.

    Where a word is not in the table the tokens are -1 and nothing is written.

    Args:
        text: its bytes are those from start to end.
        ids: scratch, as long as the text may be in tokens; sums, features: scratch, `(filters,)` each.
    """
    count = tokenize_ascii(text, start, end, lowercase, word_bytes, word_offsets, slots, hashes, ids)
    found = count
    if count == 0:  # the empty text is one word of padding
        ids[0] = PADDING
        count = 1
    unknown = 0
    for place in range(count):
        if ids[place] * num_columns >= len(table):
            return -1, 0
        if ids[place] == UNKNOWN:
            unknown += 1
    _features(ids, count, table, num_columns, filter_counts, column_offsets, biases, sums, features)
    _product(features, output, output_bias, scores)
    return found, unknown


@njit(**NUMBA_OPTIONS)
def score_ascii_texts(
    text, offsets, lowercase, word_bytes, word_offsets, slots, hashes,
    table, num_columns, filter_counts, column_offsets, biases, output, output_bias, ids, scores,
):  # fmt: skip
    """Write the scores of texts in ASCII, `(texts, classes)`.

    Args:
        text: all texts' bytes one after the other; text number i reaches from offsets[i] to offsets[i + 1].
        ids: scratch, as long as the longest text may be in tokens.

    Returns:
        How many texts were done, and the tokens and unknown tokens in them. A text with a word that the table lacks
        ends the loop.
    """
    sums, features = np.empty(len(biases), np.float32), np.empty(len(biases), np.float32)
    tokens = unknown = 0
    for number in range(len(offsets) - 1):
        found, strange = score_ascii_text(
            text, offsets[number], offsets[number + 1], lowercase, word_bytes, word_offsets, slots, hashes,
            table, num_columns, filter_counts, column_offsets, biases, output, output_bias, ids, sums, features, scores[number],
        )  # fmt: skip
        if found < 0:
            return number, tokens, unknown
        tokens += found
        unknown += strange
    return len(offsets) - 1, tokens, unknown


@njit(**NUMBA_OPTIONS)
def score_token_ids(ids, table, num_columns, filter_counts, column_offsets, biases, output, output_bias, scores):
    """Write the scores of a text that comes as the places of its words in the table, at least one."""
    sums, features = np.empty(len(biases), np.float32), np.empty(len(biases), np.float32)
    _features(ids, len(ids), table, num_columns, filter_counts, column_offsets, biases, sums, features)
    _product(features, output, output_bias, scores)
