"""Tokenizer and vocabulary: texts as tokens, and tokens as ids.

It has a compiled twin, code_points.py and tokenizer_kernel.py in `jobs.datasets.tokenization`: change both. The tokens
are found by patterns.py there.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from jobs.datasets.tokenization.characters import BUILT_IN, FORMATS, UNICODE, WORDS
from jobs.datasets.tokenization.installed import list_tokens, locate_tokens
from jobs.datasets.tokenization.patterns import find_tokens, list_ascii_tokens

if TYPE_CHECKING:
    from jobs.datasets.tokenization.nearest_words import NearestWords

PADDING, UNKNOWN = 0, 1


class TokenizerSettings(Protocol):
    """Tokenizer's part of the settings `text`. The training loop imports it without pydantic."""

    @property
    def tokenizer(self) -> str:
        """Name of the tokenizer."""

    @property
    def lowercase(self) -> bool:
        """True if texts are tokenized in lower case."""


class DefaultSettings(NamedTuple):
    """The defaults of the settings `text`."""

    tokenizer: str = UNICODE
    lowercase: bool = True


DEFAULT_SETTINGS: TokenizerSettings = DefaultSettings()

_DOTTED_I = re.compile("i\u0307+")  # İ in lower case


def normalize(text: str, lowercase: bool = True) -> str:
    """Return a text in the spelling in which it is tokenized: Unicode NFC, with straight apostrophes.

    In lower case, İ is i: Python's lower-case form, i with a combining dot, is in no vectors file.
    """
    text = text.replace("’", "'")
    if lowercase:
        text = text.lower()
    return text if text.isascii() else _compose(text, lowercase)


def fold_case(word: str) -> str:
    """Return a form that a word has in common with its spellings in other letter cases and in decomposed Unicode.

    The Turkish ı is i: both are I in upper case.
    """
    return word.lower() if word.isascii() else normalize(word).replace("ı", "i")


def tokenize(text: str, settings: TokenizerSettings = DEFAULT_SETTINGS) -> list[str]:
    """Return the tokens of a text, in Unicode NFC; none contains white space.

    Raises:
        TokenizerError: `text.tokenizer` names no tokenizer that is installed, or one that fails on the text.
    """
    normalized, name = _normalize(text, settings), settings.tokenizer
    if name in BUILT_IN:
        if normalized.isascii():
            return list_ascii_tokens(normalized)
        return [normalized[start:end] for start, end, _ in find_tokens(normalized, name)]
    return list_tokens(name, normalized)


def tokenize_with_offsets(text: str, settings: TokenizerSettings = DEFAULT_SETTINGS) -> list[tuple[str, int, int]]:
    """Return the tokens of a text, each with its start and end in the text, in characters."""
    origins: Sequence[int] = range(len(text))
    if settings.tokenizer != WORDS and FORMATS.search(text):
        origins = [index for index, letter in enumerate(text) if not FORMATS.match(letter)]
        text = FORMATS.sub("", text)
    normalized, name = normalize(text, settings.lowercase), settings.tokenizer
    if name in BUILT_IN:
        bounds = [(normalized[start:end], start, last) for start, end, last in find_tokens(normalized, name)]
    else:
        bounds = locate_tokens(list_tokens(name, normalized), normalized)
        if not normalized:  # a tokenizer may have a token for the end of a text
            return [(token, 0, 0) for token, _, _ in bounds]
    if text.isascii():
        spans = [(index, index + 1) for index in range(len(text))]
    else:
        spans = _trace_spans(text, settings.lowercase)
    return [(token, origins[spans[start][0]], origins[spans[end - 1][1] - 1] + 1) for token, start, end in bounds]


def count_separate_marks(words: Iterable[str]) -> int:
    """Return the number of words that begin with a combining mark, which `tokenize` leaves with the letter before it.

    Variation selectors are not counted: they follow symbols, which are tokens of their own.
    """
    non_ascii = (word for word in words if not word.isascii())
    return sum(
        unicodedata.category(word[0]) in ("Mn", "Mc") and not "\ufe00" <= word[0] <= "\ufe0f" for word in non_ascii
    )


def _compose(text: str, lowercase: bool) -> str:
    text = unicodedata.normalize("NFC", text)
    if lowercase and _DOTTED_I.search(text):
        text = unicodedata.normalize("NFC", _DOTTED_I.sub("i", text))
    return text


def _trace_spans(text: str, lowercase: bool) -> list[tuple[int, int]]:
    """Return the start and end in a text of each character of its normalized form."""
    letters, origins = text, list(range(len(text)))
    if lowercase:
        letters = text.lower()
        if len(letters) != len(text):  # some letters become two
            origins = [index for index, letter in enumerate(text) for _ in letter.lower()]
    spans = []
    start = 0
    for end in range(1, len(letters) + 1):
        if end == len(letters) or not _is_composed_with(letters[start:end], letters[end]):
            length = len(_compose(letters[start:end], lowercase))
            spans += [(origins[start], origins[end - 1] + 1)] * length
            start = end
    return spans


def _is_composed_with(letters: str, following: str) -> bool:
    """Return whether Unicode normalization changes a character together with those before it."""
    if letters.isascii() and following.isascii():
        return False
    if unicodedata.combining(following):
        return True
    apart = unicodedata.normalize("NFC", letters) + unicodedata.normalize("NFC", following)
    return unicodedata.normalize("NFC", letters + following) != apart


def _normalize(text: str, settings: TokenizerSettings) -> str:
    if settings.tokenizer != WORDS and not text.isascii():
        text = FORMATS.sub("", text)
    return normalize(text, settings.lowercase)


class Vocabulary:
    """Words and their ids: 0 is padding, 1 the unknown word, the words follow in the order of `words`.

    Args:
        max_edit_distance: that of the settings `text`; with 1 another word has the id of the nearest one, if any.
    """

    def __init__(self, words: Sequence[str], max_edit_distance: int = 0) -> None:
        self.words = list(words)
        self.max_edit_distance = max_edit_distance
        self._ids = {word: number for number, word in enumerate(self.words, start=2)}
        if len(self._ids) != len(self.words):
            raise ValueError("a vocabulary contains each word once")

    def __len__(self) -> int:
        return len(self.words) + 2

    def encode(self, tokens: Iterable[str]) -> list[int]:
        """Return the ids of the tokens."""
        get = self._ids.get
        if self.max_edit_distance:
            return [get(token) or self.nearest_words.find(token) for token in tokens]
        return [get(token, UNKNOWN) for token in tokens]

    @cached_property
    def nearest_words(self) -> "NearestWords":
        """Search for the words that differ by one typing error."""
        from jobs.datasets.tokenization.nearest_words import NearestWords  # a GPU machine needs no numba

        return NearestWords(self.words)


SELECT_ROWS = 1 << 16  # texts that are copied at once, which bounds the memory


@dataclass(frozen=True)
class Tokens:
    """Token ids of many texts as flat arrays, which Ray's object store maps without a copy.

    ids: `(tokens,)` int32, all texts one after the other; offsets: `(texts + 1,)` int64.
    """

    ids: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Number of tokens of each text, `(texts,)` int64."""
        return np.diff(self.offsets)

    def select(self, rows: slice | np.ndarray) -> "Tokens":
        """Return the tokens of some texts, in their order; rows: numbers of texts, or a slice of them without a step,
        which needs no copy of the ids."""
        if isinstance(rows, slice):
            first, last, _ = rows.indices(len(self))
            offsets = self.offsets[first : max(first, last) + 1]
            return Tokens(self.ids[offsets[0] : offsets[-1]], offsets - offsets[0])
        starts, lengths = self.offsets[rows], self.lengths[rows]
        offsets = np.zeros(len(rows) + 1, np.int64)
        lengths.cumsum(out=offsets[1:])
        ids = np.empty(offsets[-1], np.int32)
        for first in range(0, len(rows), SELECT_ROWS):
            own = slice(first, first + SELECT_ROWS)
            start, end = offsets[first], offsets[own.indices(len(rows))[1]]
            ids[start:end] = self.ids[np.repeat(starts[own] - offsets[:-1][own], lengths[own]) + np.arange(start, end)]
        return Tokens(ids, offsets)


def encode(texts: Iterable[Sequence[str]], vocabulary: Vocabulary, max_tokens: int) -> Tokens:
    """Return tokenized texts as flat arrays, each text truncated to `max_tokens`."""
    ids: list[int] = []
    offsets = [0]
    for tokens in texts:
        ids += vocabulary.encode(tokens[:max_tokens])
        offsets.append(len(ids))
    return Tokens(np.array(ids, np.int32), np.array(offsets, np.int64))


def count_words(texts: Iterable[Sequence[str]], max_words: int) -> list[tuple[str, int]]:
    """Return words with their counts, the most frequent first, ties in alphabetical order."""
    counts = Counter(token for tokens in texts for token in tokens)
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:max_words]
