"""Tokenizer and vocabulary: texts as tokens, and tokens as ids.

It has a compiled twin, code_points.py and tokenizer_kernel.py in `jobs.datasets.tokenization`: change both.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

PADDING, UNKNOWN = 0, 1
MAX_PUNCTUATION_RUN = 3  # characters of a token of punctuation marks

_DOTTED_I = re.compile("i\u0307+")  # İ in lower case
_MARK_RANGES = range(0x300, 0x20000), range(0xE0100, 0xE01F0)  # of Unicode, that contain all combining marks


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


def tokenize(text: str, lowercase: bool = True) -> list[str]:
    """Return the tokens of a text, in Unicode NFC; none contains white space."""
    text = normalize(text, lowercase)
    return [_match_token(match, text) for match in _find_tokens(text)]


def tokenize_with_offsets(text: str, lowercase: bool = True) -> list[tuple[str, int, int]]:
    """Return the tokens of a text, each with its start and end in the text, in characters."""
    normalized = normalize(text, lowercase)
    spans = [(index, index + 1) for index in range(len(text))] if text.isascii() else _trace_spans(text, lowercase)
    return [
        (_match_token(match, normalized), spans[match.start()][0], spans[match.end() - 1][1])
        for match in _find_tokens(normalized)
    ]


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


def _find_tokens(text: str) -> Iterator[re.Match[str]]:
    """Return the matches of the tokens of a normalized text, in a copy of it in which all combining marks are one."""
    # A character class of all marks would be slow.
    marked = text if text.isascii() else text.translate(_mark_table())
    has_marks = marked is not text and _MARK_OR_JOINER.search(marked)
    return (_PATTERN_WITH_MARKS if has_marks else _PATTERN).finditer(marked)


def _match_token(match: re.Match[str], text: str) -> str:
    start, end = match.span()
    return text[start:end] if match.group(1) is None else text[start : min(end, start + MAX_PUNCTUATION_RUN)]


def _compile_pattern(letter: str, word: str) -> re.Pattern[str]:
    end = f"(?!{letter})"
    clitics = rf"[nN]'[tT]{end}|'(?:[sSmMdD]|[rR][eE]|[vV][eE]|[lL][lL]){end}"
    return re.compile(rf"{word}(?=[nN]'[tT]{end})|{clitics}|{word}|([^\w\s])\1*")


# English clitics are separate tokens, as in the Penn Treebank and in Kim's preprocessing (do n't, it 's). A run of
# the same punctuation mark is one token.
_PATTERN = _compile_pattern(r"\w", r"\w+")

_MARK, _JOINER = "\u0300", "[\u200c\u200d]"  # any combining mark; ZWNJ and ZWJ
_MARK_OR_JOINER = re.compile(f"{_MARK}|{_JOINER}")
# Combining marks (accents, vowel signs) belong to the letter before them. Joiners belong to the word that they are in,
# or to the mark at its end that they follow.
_PATTERN_WITH_MARKS = _compile_pattern(
    rf"[\w{_MARK}]", rf"\w[\w{_MARK}]*(?:{_JOINER}+[\w{_MARK}]+)*(?:(?<={_MARK}){_JOINER}+)?"
)


@cache
def _mark_table() -> dict[int, str]:
    """Return the translation of each combining mark of Unicode to the same one."""
    return {code: _MARK for codes in _MARK_RANGES for code in codes if unicodedata.category(chr(code))[0] == "M"}


class Vocabulary:
    """Words and their ids: 0 is padding, 1 the unknown word, the words follow in the order of `words`."""

    def __init__(self, words: Sequence[str]) -> None:
        self.words = list(words)
        self._ids = {word: number for number, word in enumerate(self.words, start=2)}
        if len(self._ids) != len(self.words):
            raise ValueError("a vocabulary contains each word once")

    def __len__(self) -> int:
        return len(self.words) + 2

    def encode(self, tokens: Iterable[str]) -> list[int]:
        """Return the ids of the tokens."""
        get = self._ids.get
        return [get(token, UNKNOWN) for token in tokens]


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
