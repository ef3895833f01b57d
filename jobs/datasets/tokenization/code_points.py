"""Normalized text in UTF-8, as `jobs.datasets.tokenizer.normalize` returns it, and the class of each of its bytes.

Compiled code reads a table with an entry for each code point of the first two planes, which is generated from Python's
Unicode data. Entries are uint32:

    bits 0-16   the code point to write: itself, or its lower-case form; REMOVED if there is none
    bits 17-20  class of that code point in the tokenizer, of characters.py
    bit 21      CASED, bit 22 IGNORABLE: what decides between the two lower-case forms of Σ
    bit 23      SLOW: a text with it is normalized in Python
    bit 24      COMPOSABLE: may be composed with a code point before it; `compositions` are the pairs
    bit 25      DECOMPOSABLE: what may be composed with it also decides between its parts
    bits 26-31  rank of the canonical combining class

A text is left to Python if its normalized form is not a sequence of such code points: if it is not in NFC, if its bytes
are not UTF-8, or if a code point is beyond the table. The classes decide what becomes a token.
"""

import unicodedata
from collections.abc import Iterable, Sequence
from functools import cache

import numpy as np

from jobs.compilation.decorator import compiled
from jobs.datasets.tokenization import characters
from jobs.datasets.tokenization.characters import FORMATS, UNICODE, WORD, WORDS

Array = np.ndarray

NUM_CODE_POINTS = 0x20000
_CLASS_SHIFT, _COMBINING_SHIFT, _MAX_RANK = 17, 26, 63
_CODE_POINT, _CLASS = 0x1FFFF, 15
_REMOVED = _CODE_POINT  # no character has this code point
_CASED, _IGNORABLE, _SLOW, _COMPOSABLE, _DECOMPOSABLE = (1 << bit for bit in range(21, 26))
_SIGMA, _FINAL_SIGMA, _APOSTROPHE, _DOTTED_I = 0x3A3, 0x3C2, 0x2019, 0x130
_SURROGATES = range(0xD800, 0xE000)
_HANGUL_VOWELS, _HANGUL_FINALS = range(0x1161, 0x1176), range(0x11A8, 0x11C3)  # composed by arithmetic


@cache
def make_tables(lowercase: bool, tokenizer: str = UNICODE) -> tuple[Array, Array]:
    """Return the entries, `(131072,)` uint32, and the sorted compositions, int64: first << 17 | second.

    tokenizer: the name of a built-in one.
    """
    letters = [chr(code) for code in range(NUM_CODE_POINTS)]
    compositions = _find_compositions(letters)
    composable = {second for _, second in compositions}
    if lowercase:  # i with a combining dot becomes i
        compositions.add(("i", "\u0307"))
    forms = list(map(str.lower, letters)) if lowercase else letters.copy()
    forms[_APOSTROPHE] = "'"
    written = [form[0] for form in forms]
    classes, combining = map(
        np.array,
        ([characters.classify(letter, tokenizer) for letter in written], list(map(unicodedata.combining, written))),
    )
    composed, decomposed = map(
        np.array, ([unicodedata.normalize(form, letter) == letter for letter in written] for form in ("NFC", "NFD"))
    )
    is_slow = ~composed | np.array([len(form) > 1 for form in forms])
    is_slow[_REMOVED] = True
    for codes in (_HANGUL_VOWELS, _HANGUL_FINALS, _SURROGATES):
        is_slow[codes.start : codes.stop] = True
    entries = np.array(list(map(ord, written))) | classes << _CLASS_SHIFT
    entries |= np.unique(combining, return_inverse=True)[1] << _COMBINING_SHIFT
    entries |= is_slow * _SLOW | ~decomposed * _DECOMPOSABLE
    entries |= np.array([letter in composable for letter in written]) * _COMPOSABLE
    if lowercase:
        entries |= _find_casing(letters)
        assert entries.max() >> _COMBINING_SHIFT < _MAX_RANK
        # No mark may follow İ, which would come between i and its dot: no combining class is as high.
        entries[_DOTTED_I] = ord("i") | WORD << _CLASS_SHIFT | _CASED | _MAX_RANK << _COMBINING_SHIFT
    if tokenizer != WORDS:
        removed = [code for code, letter in enumerate(letters) if FORMATS.match(letter)]
        entries[removed] = _REMOVED | _IGNORABLE | _DECOMPOSABLE
    pairs = np.array(sorted(ord(first) << 17 | ord(second) for first, second in compositions), np.int64)
    return entries.astype(np.uint32), pairs


def _find_compositions(letters: list[str]) -> set[tuple[str, str]]:
    """Return the pairs of code points that NFC composes, without Korean."""
    pairs = set()
    for letter in letters:
        parts = unicodedata.decomposition(letter).split()
        if len(parts) == 2 and parts[0][0] != "<" and unicodedata.is_normalized("NFC", letter):
            pairs.add((chr(int(parts[0], 16)), chr(int(parts[1], 16))))
    return pairs


def _find_casing(letters: list[str]) -> Array:
    """Return the bits CASED and IGNORABLE of each code point, as `str.lower` has them: unicodedata does not."""
    is_final = np.array([(letter + "Σ").lower()[-1] == "ς" for letter in letters])
    is_final_after_cased = np.array([("a" + letter + "Σ").lower()[-1] == "ς" for letter in letters])
    bits = np.where(is_final, _CASED, np.where(is_final_after_cased, _IGNORABLE, 0))
    return np.asarray(bits)


@compiled()
def _decode(text: Array, index: int, end: int) -> tuple[int, int]:
    """Return the code point at an index, and the index after it; -1 if it is not UTF-8 or beyond the table."""
    first: int = np.int64(text[index])  # type: ignore[assignment]  # numba's int() of uint8 is unsigned
    if first < 0x80:
        return first, index + 1
    size = 2 if first < 0xE0 else 3 if first < 0xF0 else 4
    if first < 0xC2 or first > 0xF4 or index + size > end:
        return -1, end
    code = first & (0x7F >> size)
    for offset in range(1, size):
        byte: int = text[index + offset]
        if byte & 0xC0 != 0x80:
            return -1, end
        code = code << 6 | byte & 0x3F
    if code >= NUM_CODE_POINTS or (size == 3 and code < 0x800) or (size == 4 and code < 0x10000):
        return -1, end
    return code, index + size


@compiled()
def _is_followed_by_cased(text: Array, index: int, end: int, entries: Array) -> bool:
    while index < end:
        code, index = _decode(text, index, end)
        if code < 0:
            return False
        if not entries[code] & _IGNORABLE:
            return bool(entries[code] & _CASED)
    return False


@compiled()
def _is_composition(first: int, second: int, compositions: Array) -> bool:
    key = first << 17 | second
    index = np.searchsorted(compositions, key)
    return bool(index < len(compositions) and compositions[index] == key)


@compiled()
def normalize_text(
    text: Array, start: int, end: int, entries: Array, compositions: Array, normalized: Array, classes: Array, out: int
) -> int:
    """Write a text's normalized form from index `out` on; return the index after it, -1 if Python must do it.

    Args:
        text: uint8; the text has the bytes from start to end.
        entries, compositions: `make_tables`.
        normalized, classes: uint8, with room for twice as many bytes: UTF-8, and for each byte the class of its code
            point.
    """
    index = start
    combining = starter = 0  # combining class of the last code point, and the last one of class 0
    is_after_cased = is_decomposable = False  # the latter of the starter
    while index < end:
        code, index = _decode(text, index, end)
        if code < 0:
            return -1
        entry: int = np.int64(entries[code])  # type: ignore[assignment]  # not unsigned
        written = entry & _CODE_POINT
        if entry >= _SLOW:  # any of the bits from there on
            if entry & _SLOW:
                return -1
            if written == _REMOVED:
                continue
            if entry & _COMPOSABLE and (is_decomposable or _is_composition(starter, written, compositions)):
                return -1
            previous, combining = combining, entry >> _COMBINING_SHIFT
            if combining and combining < previous:
                return -1
        else:
            combining = 0
        if code == _SIGMA and is_after_cased and not _is_followed_by_cased(text, index, end, entries):
            written = _FINAL_SIGMA
        if not entry & _IGNORABLE:
            is_after_cased = entry & _CASED != 0
        if combining == 0 or combining == _MAX_RANK:
            starter, is_decomposable = written, entry & _DECOMPOSABLE != 0
        first = out
        if written < 0x80:
            normalized[out] = written
            out += 1
        else:
            size = 2 if written < 0x800 else 3 if written < 0x10000 else 4
            for offset in range(size - 1, 0, -1):
                normalized[out + offset] = 0x80 | written & 0x3F
                written >>= 6
            normalized[out] = (0xF00 >> size) & 0xFF | written
            out += size
        for position in range(first, out):
            classes[position] = entry >> _CLASS_SHIFT & _CLASS
    return out


@compiled()
def normalize_texts(
    text: Array, offsets: Array, entries: Array, compositions: Array, normalized: Array, classes: Array, ends: Array,
    is_left: Array,
) -> None:  # fmt: skip
    """Write the normalized forms of texts, one after the other.

    Args:
        text: uint8, all texts; text i has the bytes from offsets[i] to offsets[i + 1].
        ends: int64, `(texts + 1,)`: 0, then the end of each normalized text.
        is_left: bool, `(texts,)`: whether Python must normalize the text, which is empty here.
    """
    ends[0] = 0
    for index in range(len(offsets) - 1):
        end = normalize_text(
            text, offsets[index], offsets[index + 1], entries, compositions, normalized, classes, ends[index]
        )
        is_left[index] = end < 0
        ends[index + 1] = max(end, ends[index])


def list_texts(texts: Iterable[str]) -> list[str]:
    """Return texts as a list; ValueError if it is a single text."""
    if isinstance(texts, str | bytes):
        raise ValueError(f"expected a sequence of texts, got a single one: {texts[:50]!r}; put it in a list")
    return [*texts]


def join_texts(texts: Sequence[str]) -> tuple[bytes, list[int]]:
    """Return texts in UTF-8, one after the other, and the size of each; ValueError if one is not a text."""
    try:
        if all(map(str.isascii, texts)):
            return "".join(texts).encode(), [*map(len, texts)]
        encoded = [str.encode(text, "utf-8", "surrogatepass") for text in texts]
    except TypeError:
        index = next(index for index, text in enumerate(texts) if not isinstance(text, str))
        raise ValueError(f"texts[{index}] is {texts[index]!r}, not a text") from None
    return b"".join(encoded), [*map(len, encoded)]


def encode_texts(texts: Sequence[str]) -> tuple[Array, Array]:
    """Return texts in UTF-8, one after the other, uint8, and their offsets, `(texts + 1,)` int64."""
    content, sizes = join_texts(texts)
    offsets = np.zeros(len(texts) + 1, np.int64)
    np.cumsum(sizes, out=offsets[1:])
    return np.frombuffer(content, np.uint8), offsets
