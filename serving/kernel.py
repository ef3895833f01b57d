"""From bytes of text to scores in one compiled loop: tokens, their numbers, look-ups, shifted sums, a maximum.

numba compiles this for the processor that it runs on and keeps the result beside this file (or where
NUMBA_CACHE_DIR says), so one process on a machine compiles and the others read. Texts that hold only ASCII are split
here exactly as `jobs.text.tokenize` splits them; others come as the numbers of their tokens.

Filters stand in the order of their widths, the narrow first. `table` is flat: for each word `columns` values, for each
place of a window, from the first on, one for each filter that is wide enough to have it; `lengths` says how many that
are, `places` where they begin. `output` is flat too, (classes, filters). All values are float32.
"""

import numpy as np
from numba import njit

from jobs.text import PADDING, UNKNOWN

_OPTIONS = {"cache": True, "nogil": True, "error_model": "numpy"}

# What a byte is to the tokeniser: part of a word, white space (as Python's \s counts it), or punctuation.
_PUNCTUATION, _WORD, _SPACE = 0, 1, 2
_KIND = np.zeros(128, np.uint8)
for _letter in range(128):
    if chr(_letter).isalnum() or chr(_letter) == "_":
        _KIND[_letter] = _WORD
    elif chr(_letter).isspace():
        _KIND[_letter] = _SPACE
_QUOTE = ord("'")
_LONGEST_PUNCTUATION = 3
_FNV_START, _FNV_PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)  # FNV-1a, 64 bits


@njit(**_OPTIONS)
def _lowered(letter):
    return letter + 32 if 65 <= letter <= 90 else letter


@njit(**_OPTIONS)
def _ends(text, place, end):
    """Tell whether no word goes on at a place."""
    return place >= end or _KIND[text[place]] != _WORD


@njit(**_OPTIONS)
def _is(text, place, end, letter):
    """Tell whether a small letter stands at a place, in either case."""
    return place < end and _lowered(text[place]) == letter


@njit(**_OPTIONS)
def _token_end(text, start, end):
    """Return where the token that starts at a place ends; the rules are those of `jobs.text`."""
    letter = text[start]
    if _KIND[letter] == _WORD:
        after = start + 1
        while not _ends(text, after, end):
            after += 1
        if (
            _lowered(text[after - 1]) == 110  # n
            and after < end
            and text[after] == _QUOTE
            and _is(text, after + 1, end, 116)  # t
            and _ends(text, after + 2, end)
        ):
            return after - 1 if after - 1 > start else after + 2
        return after
    if letter == _QUOTE:
        one = _lowered(text[start + 1]) if start + 1 < end else 0
        if (one == 115 or one == 109 or one == 100) and _ends(text, start + 2, end):  # s m d
            return start + 2
        two = _lowered(text[start + 2]) if start + 2 < end else 0
        if (((one == 114 or one == 118) and two == 101) or (one == 108 and two == 108)) and _ends(text, start + 3, end):
            return start + 3  # re ve ll
    after = start + 1
    while after < end and text[after] == letter:
        after += 1
    return after


@njit(**_OPTIONS)
def _find(text, start, end, lowercase, words, starts, slots, hashes):
    """Return the number of the word at a place."""
    key = _FNV_START
    for place in range(start, end):
        letter = _lowered(text[place]) if lowercase else text[place]
        key = (key ^ np.uint64(letter)) * _FNV_PRIME
    mask = np.uint64(len(slots) - 1)
    slot = key & mask
    while slots[slot] >= 0:
        if hashes[slot] == key:
            number = slots[slot]
            first = starts[number]
            if starts[number + 1] - first == end - start:
                same = True
                for place in range(end - start):
                    letter = text[start + place]
                    if words[first + place] != (_lowered(letter) if lowercase else letter):
                        same = False
                        break
                if same:
                    return number + 2
        slot = (slot + np.uint64(1)) & mask
    return UNKNOWN


@njit(**_OPTIONS)
def index(words, starts, wanted, slots, hashes):
    """Fill a hash table of words: `slots` (all -1, a power of two) with their places, `hashes` with their hashes.

    words: the words' bytes one after the other; starts: where each begins; wanted: which to put in.
    """
    mask = np.uint64(len(slots) - 1)
    for number in range(len(starts) - 1):
        if not wanted[number]:
            continue
        key = _FNV_START
        for place in range(starts[number], starts[number + 1]):
            key = (key ^ np.uint64(words[place])) * _FNV_PRIME
        slot = key & mask
        while slots[slot] >= 0:
            slot = (slot + np.uint64(1)) & mask
        slots[slot] = number
        hashes[slot] = key


@njit(**_OPTIONS)
def split(text, start, end, lowercase, words, starts, slots, hashes, ids):
    """Write the numbers of a text's words into `ids`, as many as fit; return how many."""
    count = 0
    place = start
    while place < end and count < len(ids):
        if _KIND[text[place]] == _SPACE:
            place += 1
            continue
        after = _token_end(text, place, end)
        last = after
        if _KIND[text[place]] == _PUNCTUATION:
            last = min(after, place + _LONGEST_PUNCTUATION)
        ids[count] = _find(text, place, last, lowercase, words, starts, slots, hashes)
        count += 1
        place = after
    return count


@njit(**_OPTIONS)
def _features(ids, count, table, columns, lengths, starts, biases, sums, features):
    """Write each filter's maximum over a text's windows; ids: the first `count`, at least one.

    All filters whose window starts at a word are summed side by side; those before the text's first word are only the
    wide ones, which stand last. A window that reaches beyond the text is shorter. Slices, and one loop for three
    rows, let the compiler use vector instructions.
    """
    total, longest = len(features), len(lengths)
    for each in range(total):
        features[each] = -np.inf
    for word in range(1 - longest, count):
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


@njit(fastmath={"reassoc", "contract", "nsz"}, **_OPTIONS)
def _product(features, output, output_bias, scores):
    """Write `output @ features + output_bias`."""
    for label in range(len(scores)):
        row = output[label * len(features) : (label + 1) * len(features)]
        value = np.float32(0)
        for each in range(len(features)):
            value += row[each] * features[each]
        scores[label] = value + output_bias[label]


@njit(**_OPTIONS)
def classify(
    text, offsets, lowercase, words, starts, slots, hashes,
    table, columns, lengths, places, biases, output, output_bias, ids, scores,
):  # fmt: skip
    """Write the scores of ASCII texts, `(texts, classes)`.

    Args:
        text: all texts' bytes one after the other; text number i reaches from offsets[i] to offsets[i + 1].
        ids: scratch, as long as the longest text may be in tokens.

    Returns:
        How many texts were done, and the tokens and unknown tokens in them. A text with a word that the table lacks
        ends the loop.
    """
    rows = len(table) // columns
    sums, features = np.empty(len(biases), np.float32), np.empty(len(biases), np.float32)
    tokens = unknown = 0
    for number in range(len(offsets) - 1):
        count = split(text, offsets[number], offsets[number + 1], lowercase, words, starts, slots, hashes, ids)
        found = count
        if count == 0:  # the empty text is one word of padding
            ids[0] = PADDING
            count = 1
        strange = 0
        for place in range(count):
            if ids[place] >= rows:
                return number, tokens, unknown
            if ids[place] == UNKNOWN:
                strange += 1
        tokens += found
        unknown += strange
        _features(ids, count, table, columns, lengths, places, biases, sums, features)
        _product(features, output, output_bias, scores[number])
    return len(offsets) - 1, tokens, unknown


@njit(**_OPTIONS)
def classify_one(
    text, lowercase, words, starts, slots, hashes,
    table, columns, lengths, places, biases, output, output_bias, max_tokens, scores,
):  # fmt: skip
    """Write the scores of one text in ASCII, `(classes,)`; return its tokens, and how many of them are unknown.

    Where a word is not in the table the tokens are -1 and nothing is written.
    """
    ids = np.empty(min(max_tokens, len(text) + 1), np.int64)
    count = split(text, 0, len(text), lowercase, words, starts, slots, hashes, ids)
    found = count
    if count == 0:
        ids[0] = PADDING
        count = 1
    unknown = 0
    for place in range(count):
        if ids[place] * columns >= len(table):
            return -1, 0
        if ids[place] == UNKNOWN:
            unknown += 1
    sums, features = np.empty(len(biases), np.float32), np.empty(len(biases), np.float32)
    _features(ids, count, table, columns, lengths, places, biases, sums, features)
    _product(features, output, output_bias, scores)
    return found, unknown


@njit(**_OPTIONS)
def score(ids, table, columns, lengths, places, biases, output, output_bias, scores):
    """Write the scores of a text that comes as the places of its words in the table, at least one."""
    sums, features = np.empty(len(biases), np.float32), np.empty(len(biases), np.float32)
    _features(ids, len(ids), table, columns, lengths, places, biases, sums, features)
    _product(features, output, output_bias, scores)
