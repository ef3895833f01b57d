"""Compiled search for the vocabulary's word that differs from another word by one typing error.

One error is an insertion, deletion or replacement of a character, or a swap of two adjacent ones: a
Damerau-Levenshtein distance of 1 (Damerau 1964). If several words differ by one error, the search returns the first of
them in the vocabulary, which begins with the most frequent words of the training texts.

Two words that differ by one error are the same after at most one character of each is deleted. So the index has each
word under itself and under all its forms without one character ("symmetric deletes", as in SymSpell), and a search
looks up these forms of its own word. Layout; the words are those of `tokenizer_kernel`:

    offsets  (buckets + 1,) int32, bucket i has the entries from offsets[i] to offsets[i + 1]; the number of buckets is
             a power of two
    entries  (entries,) int64, for each form in a bucket the highest 31 bits of its hash, and its word in the other 32
             bits; words are ascending
"""

from collections.abc import Sequence

import numpy as np

from jobs.compilation.decorator import compiled
from jobs.datasets.tokenization.code_points import encode_texts

Array = np.ndarray

UNKNOWN = 1  # that of `jobs.datasets.tokenizer`; numba would not notice a change in another file
# Characters of a word that is searched or found. Most shorter words are near to many others.
MIN_CHARACTERS = 4
_WORD_BITS = 32
MAX_BYTES = 64  # of a searched word, since its time is quadratic in them
_FNV_START, _FNV_PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)  # FNV-1a, 64 bits


class NearestWords:
    """Search in a vocabulary, for Python.

    encoded: the words, as of `encode_texts`. offsets, entries: its index; see the layout above.

    Args:
        words: of the vocabulary; the first one has id 2.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.encoded = encode_texts(words)
        self.offsets, self.entries = build_index(*self.encoded)

    def find(self, word: str) -> int:
        """Return the id of the first word that differs by one error from a word, or of the unknown word."""
        text = np.frombuffer(word.encode("utf-8", "surrogatepass"), np.uint8)
        return find_nearest(text, 0, len(text), *self.encoded, self.offsets, self.entries)


def build_index(word_bytes: np.ndarray, word_offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the index of a vocabulary, `offsets` and `entries`; see the layout above."""
    num_entries = _count_forms(word_bytes, word_offsets)
    num_buckets = 1 << int(num_entries).bit_length()
    buckets, entries = np.empty(num_entries, np.int32), np.empty(num_entries, np.int64)
    _list_forms(word_bytes, word_offsets, num_buckets, buckets, entries)
    offsets = np.zeros(num_buckets + 1, np.int32)
    np.cumsum(np.bincount(buckets, minlength=num_buckets), out=offsets[1:])
    return offsets, entries[np.argsort(buckets, kind="stable")]


@compiled()
def _find_next_character(text: Array, index: int, end: int) -> int:
    """Return the index after the character at an index of a text in UTF-8."""
    index += 1
    while index < end and text[index] & 0xC0 == 0x80:
        index += 1
    return index


@compiled()
def _count_characters(text: Array, start: int, end: int) -> int:
    count = 0
    while start < end:
        start = _find_next_character(text, start, end)
        count += 1
    return count


@compiled()
def _is_word(text: Array, start: int, end: int) -> bool:
    """Return whether a token has enough characters, and of the characters in ASCII only letters."""
    if end - start > MAX_BYTES:
        return False
    for index in range(start, end):
        if text[index] < 0x80 and not 97 <= (text[index] | 32) <= 122:
            return False
    return _count_characters(text, start, end) >= MIN_CHARACTERS


@compiled()
def _hash_form(text: Array, start: int, end: int, skipped: int) -> int:
    """Return a hash of a word without the character at the index `skipped`, or of all of it if that is its end.

    It has 63 bits: the lowest ones select the bucket, the highest ones are in the entry.
    """
    key = _FNV_START
    following = _find_next_character(text, skipped, end)
    for index in range(start, end):
        if index < skipped or index >= following:
            key = (key ^ np.uint64(text[index])) * _FNV_PRIME
    return np.int64(key >> np.uint64(1))  # type: ignore[return-value]


@compiled()
def _count_forms(word_bytes: Array, word_offsets: Array) -> int:
    count = 0
    for word in range(len(word_offsets) - 1):
        if _is_word(word_bytes, word_offsets[word], word_offsets[word + 1]):
            count += 1 + _count_characters(word_bytes, word_offsets[word], word_offsets[word + 1])
    return count


@compiled()
def _list_forms(word_bytes: Array, word_offsets: Array, num_buckets: int, buckets: Array, entries: Array) -> None:
    """Write the bucket and the entry of each form of the words; both `(forms,)`."""
    count = 0
    for word in range(len(word_offsets) - 1):
        start, end = word_offsets[word], word_offsets[word + 1]
        if not _is_word(word_bytes, start, end):
            continue
        skipped = start
        while True:
            key = _hash_form(word_bytes, start, end, skipped)
            buckets[count], entries[count] = key & (num_buckets - 1), key >> _WORD_BITS << _WORD_BITS | word
            count += 1
            if skipped == end:
                break
            skipped = _find_next_character(word_bytes, skipped, end)


@compiled()
def _is_same(text: Array, start: int, end: int, other: Array, other_start: int, other_end: int) -> bool:
    if end - start != other_end - other_start:
        return False
    index = 0
    while index < end - start and text[start + index] == other[other_start + index]:
        index += 1
    return index == end - start


@compiled()
def _is_near(text: Array, start: int, end: int, other: Array, other_start: int, other_end: int) -> bool:
    """Return whether two words differ by one error."""
    while start < end and other_start < other_end:  # skip the characters that both begin with
        next_start = _find_next_character(text, start, end)
        other_next = _find_next_character(other, other_start, other_end)
        if not _is_same(text, start, next_start, other, other_start, other_next):
            break
        start, other_start = next_start, other_next
    if start == end or other_start == other_end:
        return _count_characters(text, start, end) + _count_characters(other, other_start, other_end) == 1
    if (
        _is_same(text, next_start, end, other, other_start, other_end)
        or _is_same(text, start, end, other, other_next, other_end)
        or _is_same(text, next_start, end, other, other_next, other_end)
    ):
        return True
    if next_start == end or other_next == other_end:
        return False
    last, other_last = _find_next_character(text, next_start, end), _find_next_character(other, other_next, other_end)
    return (
        _is_same(text, start, next_start, other, other_next, other_last)
        and _is_same(text, next_start, last, other, other_start, other_next)
        and _is_same(text, last, end, other, other_last, other_end)
    )


@compiled()
def find_nearest(
    text: Array, start: int, end: int, word_bytes: Array, word_offsets: Array, offsets: Array, entries: Array
) -> int:
    """Return the id of the vocabulary's first word that differs by one error from the one at an index of a text.

    It is that of the unknown word if there is none, or if the index is empty.
    """
    if len(entries) == 0 or not _is_word(text, start, end):
        return UNKNOWN
    nearest = len(word_offsets)
    skipped = start
    while True:
        key = _hash_form(text, start, end, skipped)
        bucket = key & (len(offsets) - 2)
        for index in range(offsets[bucket], offsets[bucket + 1]):
            entry: int = entries[index]
            word = entry & ((1 << _WORD_BITS) - 1)
            if word >= nearest:
                break
            is_candidate = entry >> _WORD_BITS == key >> _WORD_BITS
            if is_candidate and _is_near(text, start, end, word_bytes, word_offsets[word], word_offsets[word + 1]):
                nearest = word
        if skipped == end:
            break
        skipped = _find_next_character(text, skipped, end)
    return nearest + 2 if nearest < len(word_offsets) else UNKNOWN
