"""Compiled tokenizer: from a normalized text to word ids, exactly as `jobs.datasets.tokenizer.tokenize`.

A text is UTF-8, with a class for each byte, that of its code point. `code_points.py` writes both.

Layout of the vocabulary. Word i has the id i + 2.

    word_bytes    (bytes,) uint8, all words, one after the other
    word_offsets  (words + 1,) int64, word i has the bytes from word_offsets[i] to word_offsets[i + 1]
    slots         (size,) int64, hash table with linear probing: for each slot the highest 31 bits of a word's FNV-1a
                  hash, then the word in 32 bits, or -1 if it is free; size is a power of two
    near_offsets, near_entries  the index of `nearest_words`; empty without `text.max_edit_distance`
"""

import numpy as np

from jobs.compilation.decorator import compiled
from jobs.compilation.intrinsics import CACHE_LINE, prefetch
from jobs.datasets.tokenization.nearest_words import find_nearest

Array = np.ndarray

# Those of `jobs.datasets.tokenizer`, patterns.py and characters.py; numba would not notice a change in another file.
FIRST_WORD, MAX_PUNCTUATION_RUN = 2, 3
PUNCTUATION, SPACE, JOINER, MIDDLE, SINGLE, PAIRED, WORD, MARK, LINKER = range(9)
_ASCII_CLASS = np.zeros(256, np.uint8)
for _byte in range(128):
    if chr(_byte).isalnum() or chr(_byte) == "_":
        _ASCII_CLASS[_byte] = WORD
    elif chr(_byte).isspace():
        _ASCII_CLASS[_byte] = SPACE
_LOWERCASED = np.array([byte + 32 if 65 <= byte <= 90 else byte for byte in range(256)], np.uint8)
_QUOTE, _DOUBLE_QUOTE, _N, _T, _L = (ord(letter) for letter in "'\"ntl")
_MIDDLE_DOT, _HEBREW = 0xC2, 0xD7  # first bytes in UTF-8
_TAG_SHIFT, _WORD_MASK = np.uint64(33), (1 << 32) - 1
_FNV_START, _FNV_PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)  # FNV-1a, 64 bits


@compiled()
def normalize_ascii(text: Array, start: int, end: int, lowercase: bool, normalized: Array, classes: Array) -> int:
    """Write a text in ASCII as `code_points.normalize_text`; return its length."""
    for index in range(start, end):
        byte = text[index]
        normalized[index - start] = _LOWERCASED[byte] if lowercase else byte
        classes[index - start] = _ASCII_CLASS[byte]
    return end - start


@compiled()
def _is_word_end(classes: Array, index: int, end: int) -> bool:
    return index >= end or classes[index] < WORD


@compiled()
def _lowercase_byte(text: Array, index: int, end: int) -> np.uint8:
    """Return the byte at an index in lower case, 0 beyond the end."""
    return _LOWERCASED[text[index]] if index < end else np.uint8(0)


@compiled()
def _is_negation_rest(text: Array, classes: Array, index: int, end: int) -> bool:
    """Return whether 't, the rest of n't, is at an index, and the word ends after it."""
    return (
        index < end
        and text[index] == _QUOTE
        and _lowercase_byte(text, index + 1, end) == _T
        and _is_word_end(classes, index + 2, end)
    )


@compiled()
def _skip_joiners(classes: Array, index: int, end: int) -> int:
    while index < end and classes[index] == JOINER:
        index += 1
    return index


@compiled()
def _character_size(byte: int) -> int:
    """Return the number of bytes of a character in UTF-8, given by its first byte."""
    return 1 if byte < 0x80 else 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4


@compiled()
def _skip_inside_word(text: Array, classes: Array, index: int, end: int) -> int:
    """Return the index after joiners or a mark at an index that the word around them contains, else the same index."""
    if classes[index] == JOINER:
        following = _skip_joiners(classes, index, end)
        return index if _is_word_end(classes, following, end) else following
    if classes[index] != MIDDLE:
        return index
    mark = text[index]
    following = index + _character_size(mark)
    if following >= end or classes[following] != WORD:
        return index
    previous = text[index - 1]
    if mark == _MIDDLE_DOT:
        is_inside = _LOWERCASED[previous] == _L and _lowercase_byte(text, following, end) == _L
    elif mark == _DOUBLE_QUOTE:
        is_hebrew = previous >= 0x80 and text[index - 2] == _HEBREW and text[following] == _HEBREW
        is_inside = is_hebrew and classes[index - 1] == WORD
    else:
        is_inside = previous >= 0x80 and text[following] >= 0x80
    return following if is_inside else index


@compiled()
def _find_joined_word_end(text: Array, classes: Array, index: int, end: int) -> int:
    """Return the end of a word, or of what precedes its n't; index: what follows its first letters, not an n't."""
    while index < end:
        letters = _skip_inside_word(text, classes, index, end)
        if letters == index:
            break
        inside, index = index, letters
        while not _is_word_end(classes, index, end):
            index += 1
        if _lowercase_byte(text, index - 1, end) == _N and _is_negation_rest(text, classes, index, end):
            # Without n the word may end with joiners only after a mark.
            return index - 1 if index - 1 > letters or classes[inside - 1] >= MARK else index
    return _skip_joiners(classes, index, end) if classes[index - 1] >= MARK else index


@compiled()
def _find_cluster_end(text: Array, classes: Array, index: int, end: int) -> int:
    """Return the end of the cluster that starts at an index."""
    index += _character_size(text[index])
    while index < end:
        following = classes[index]
        if following >= MARK or following == JOINER:
            index += 1
        elif following in (SINGLE, PAIRED) and classes[index - 1] == LINKER:
            index += _character_size(text[index])
        else:
            break
    return min(index, end)


@compiled()
def _find_cluster_token(text: Array, classes: Array, start: int, end: int) -> tuple[int, int]:
    """Return the end of the cluster or pair that starts at an index, and that of its part that is looked up.

    Pairs overlap: the next one starts with the second cluster of this one, unless that is the last of them.
    """
    first_end = _find_cluster_end(text, classes, start, end)
    if first_end >= end or classes[start] != PAIRED or classes[first_end] != PAIRED:
        return first_end, first_end
    second_end = _find_cluster_end(text, classes, first_end, end)
    is_last = second_end >= end or classes[second_end] != PAIRED
    return second_end if is_last else first_end, second_end


@compiled()
def _find_clitic_end(text: Array, classes: Array, start: int, end: int) -> int:
    """Return the end of a clitic that starts with an apostrophe, the start if there is none."""
    first, second = _lowercase_byte(text, start + 1, end), _lowercase_byte(text, start + 2, end)
    if (first == 115 or first == 109 or first == 100) and _is_word_end(classes, start + 2, end):  # s m d
        return start + 2
    has_two_letters = ((first == 114 or first == 118) and second == 101) or (first == 108 and second == 108)
    return start + 3 if has_two_letters and _is_word_end(classes, start + 3, end) else start  # re ve ll


@compiled()
def _find_punctuation_end(text: Array, classes: Array, start: int, end: int) -> tuple[int, int]:
    """Return the end of the token that starts at an index, and that of its part that is looked up.

    The token is a clitic, a run of one punctuation mark, or of combining marks without a letter.
    """
    if text[start] == _QUOTE:
        clitic_end = _find_clitic_end(text, classes, start, end)
        if clitic_end > start:
            return clitic_end, clitic_end
    size = _character_size(text[start])
    token_end = key_end = start
    length = 0
    while token_end < end:
        if classes[start] >= MARK:
            if classes[token_end] < MARK:
                break
            size = _character_size(text[token_end])
        else:
            if token_end + size > end:
                break
            same = 0
            while same < size and text[token_end + same] == text[start + same]:
                same += 1
            if same < size:
                break
        token_end += size
        length += 1
        if length <= MAX_PUNCTUATION_RUN:
            key_end = token_end
    return token_end, key_end


@compiled()
def hash_bytes(text: Array, start: int, end: int) -> np.uint64:
    key = _FNV_START
    for index in range(start, end):
        key = (key ^ np.uint64(text[index])) * _FNV_PRIME
    return key


@compiled()
def find_slot(
    text: Array, start: int, end: int, key: np.uint64, word_bytes: Array, word_offsets: Array, slots: Array
) -> np.uint64:
    """Return the slot of the word at an index of a text, whose hash is `key`, or the free one where it would be."""
    mask = np.uint64(len(slots) - 1)
    slot, tag = key & mask, np.int64(key >> _TAG_SHIFT)
    entry: int = slots[slot]
    while entry >= 0:
        if entry >> 32 == tag:
            word = np.uint64(entry & _WORD_MASK)
            first = word_offsets[word]
            if word_offsets[word + np.uint64(1)] - first == end - start:
                index = 0
                while index < end - start and word_bytes[first + index] == text[start + index]:
                    index += 1
                if index == end - start:
                    return slot
        slot = (slot + np.uint64(1)) & mask
        entry = slots[slot]
    return slot


@compiled()
def make_entry(word: int, key: np.uint64) -> int:
    """Return what is in the slot of a word."""
    return np.int64(key >> _TAG_SHIFT) << 32 | word  # type: ignore[return-value]


@compiled()
def get_word(entry: int) -> int:
    """Return the word of a slot that is not free."""
    return entry & _WORD_MASK


@compiled()
def build_hash_table(word_bytes: Array, word_offsets: Array, slots: Array) -> None:
    """Fill the hash table of a vocabulary; see the layout above. slots: all -1, at least twice as many as words."""
    for word in range(len(word_offsets) - 1):
        start, end = word_offsets[word], word_offsets[word + 1]
        key = hash_bytes(word_bytes, start, end)
        slots[find_slot(word_bytes, start, end, key, word_bytes, word_offsets, slots)] = make_entry(word, key)


@compiled()
def find_token(text: Array, classes: Array, index: int, end: int) -> tuple[int, int, np.uint64]:
    """Return the end of the token that starts at an index, that of its part that is looked up, and the part's hash."""
    if classes[index] != WORD:
        if SINGLE <= classes[index] < WORD:
            token_end, key_end = _find_cluster_token(text, classes, index, end)
        else:
            token_end, key_end = _find_punctuation_end(text, classes, index, end)
        return token_end, key_end, hash_bytes(text, index, key_end)
    key = previous_key = _FNV_START  # hashed while the end is searched, also without the last letter
    token_end = index
    while not _is_word_end(classes, token_end, end):
        previous_key = key
        key = (key ^ np.uint64(text[token_end])) * _FNV_PRIME
        token_end += 1
    if token_end < end and (
        classes[token_end] == JOINER
        or (classes[token_end] == MIDDLE and _skip_inside_word(text, classes, token_end, end) > token_end)
    ):
        token_end = _find_joined_word_end(text, classes, token_end, end)
        key = hash_bytes(text, index, token_end)
    # n't: what precedes it is a token of its own.
    elif _lowercase_byte(text, token_end - 1, end) == _N and _is_negation_rest(text, classes, token_end, end):
        if token_end - 1 > index:
            token_end -= 1
            key = previous_key
        else:
            token_end += 2
            key = hash_bytes(text, index, token_end)
    return token_end, token_end, key


@compiled()
def tokenize(
    text: Array, classes: Array, start: int, end: int, word_bytes: Array, word_offsets: Array, slots: Array,
    near_offsets: Array, near_entries: Array, ids: Array, table: Array, num_columns: int,
) -> int:  # fmt: skip
    """Write the word ids of a normalized text's tokens into `ids`, as many as fit; return their number.

    table: one dimension; of each word the row of as many columns is prefetched, while the next tokens are searched.
    Rows are anywhere in memory, so no processor can predict them.
    """
    count = 0
    index = start
    while index < end and count < len(ids):
        if classes[index] == SPACE:
            index += 1
            continue
        token_end, key_end, key = find_token(text, classes, index, end)
        entry = slots[find_slot(text, index, key_end, key, word_bytes, word_offsets, slots)]
        word = get_word(entry) + FIRST_WORD
        if entry < 0:
            word = find_nearest(text, index, key_end, word_bytes, word_offsets, near_offsets, near_entries)
        for column in range(word * num_columns, (word + 1) * num_columns, CACHE_LINE // table.itemsize):
            prefetch(table, column)  # type: ignore[call-arg]  # numba adds the typing context
        ids[count] = word
        count += 1
        index = token_end
    return count
