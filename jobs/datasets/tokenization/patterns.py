"""Reference of the built-in tokenizers: regular expressions that find the tokens of a normalized text.

They have a compiled twin, code_points.py and tokenizer_kernel.py: change both. A text beyond ASCII is searched in a
copy in which all characters of a class are one: a character class of all marks of Unicode would be slow.
"""

import itertools
import re
import unicodedata
from functools import cache

from jobs.datasets.tokenization.characters import (
    JOINERS,
    LINKER,
    MARK,
    MIDDLES,
    PAIRED,
    PAIRS,
    SINGLE,
    SPACE,
    WORD,
    WORDS,
    classify,
)

MAX_PUNCTUATION_RUN = 3  # characters of a token of punctuation marks
_MARK_RANGES = range(0x300, 0x20000), range(0xE0100, 0xE01F0)  # of Unicode, that contain all combining marks
# What stands for a class in the copy: a combining mark, a linker, a cluster's first character, a letter, a Hebrew one.
_MARK, _LINKER, _SINGLE, _LETTER, _HEBREW = "\u0300", "\u0301", "\u4e00", "\u00e9", "\u05d0"
HEBREW_LETTERS = range(0x5C0, 0x600)  # with the same first byte in UTF-8
_JOINER = f"[{JOINERS}]"  # ZWNJ and ZWJ
_MARK_OR_JOINER = re.compile(f"{_MARK}|{_JOINER}")


def _compile(letter: str, word: str, run: str = r"([^\w\s])\1*") -> re.Pattern[str]:
    """Return the pattern of tokens: clitics, words and, as its first group, runs of punctuation marks.

    English clitics are separate tokens, as in the Penn Treebank and in Kim's preprocessing (do n't, it 's). A run of
    the same punctuation mark is one token.
    """
    end = f"(?!{letter})"
    clitics = rf"[nN]'[tT]{end}|'(?:[sSmMdD]|[rR][eE]|[vV][eE]|[lL][lL]){end}"
    return re.compile(rf"{word}(?=[nN]'[tT]{end})|{clitics}|{word}|{run}")


def _compile_unicode() -> re.Pattern[str]:
    first, other = f"[0-9A-Za-z_{_LETTER}{_HEBREW}]", f"[{_LETTER}{_HEBREW}]"
    mark = f"[{_MARK}{_LINKER}]"
    letter = f"[0-9A-Za-z_{_LETTER}{_HEBREW}{_MARK}{_LINKER}]"
    middles = "".join(sorted(set(MIDDLES) - set('"\u00b7')))
    inside = "|".join(
        [
            f"{_JOINER}+",
            f"(?<=[{_LETTER}{_HEBREW}{_MARK}{_LINKER}])[{middles}](?={other})",
            f'(?<={_HEBREW})"(?={_HEBREW})',
            "(?<=[lL])\u00b7(?=[lL])",
        ]
    )
    word = f"{first}{letter}*(?:(?:{inside}){letter}+)*(?:(?<={mark}){_JOINER}+)?"
    extended = f"{_SINGLE}[{_MARK}{_LINKER}{JOINERS}]*"
    cluster = f"{extended}(?:(?<={_LINKER}){extended})*"
    return _compile(letter, word, rf"{cluster}|({mark}+|([^\w\s])\2*)")


_PATTERN = _compile(r"\w", r"\w+")
# Combining marks (accents, vowel signs) belong to the letter before them. Joiners belong to the word that they are in,
# or to the mark at its end that they follow.
_WORDS_WITH_MARKS = _compile(rf"[\w{_MARK}]", rf"\w[\w{_MARK}]*(?:{_JOINER}+[\w{_MARK}]+)*(?:(?<={_MARK}){_JOINER}+)?")
_UNICODE = _compile_unicode()
# What the simple pattern does not find; without it, a text is searched in half of the time.
_SPECIAL = re.compile(
    f"[{_MARK}{_LINKER}{_SINGLE}{JOINERS}{MIDDLES[2:]}]|[{_LETTER}{_HEBREW}]['\"][{_LETTER}{_HEBREW}]"
)


Span = tuple[int, int, int]
"""Start and end of a token, and the end of what it stands for, which is later if the token is cut."""


def list_ascii_tokens(text: str) -> list[str]:
    """Return the tokens of a normalized text in ASCII, which are the same for all tokenizers."""
    return [
        match[0] if match.lastindex is None else match[0][:MAX_PUNCTUATION_RUN] for match in _PATTERN.finditer(text)
    ]


def find_tokens(text: str, tokenizer: str) -> list[Span]:
    """Return the tokens of a normalized text; those of pairs overlap."""
    if text.isascii():
        return list(map(_find_span, _PATTERN.finditer(text)))
    if tokenizer == WORDS:
        marked = text.translate(_mark_table())
        pattern = _WORDS_WITH_MARKS if _MARK_OR_JOINER.search(marked) else _PATTERN
        return list(map(_find_span, pattern.finditer(marked)))
    marked = text.translate(_class_table(tokenizer))
    pattern = _UNICODE if _SPECIAL.search(marked) else _PATTERN
    spans = list(map(_find_span, pattern.finditer(marked)))
    return _pair(spans, marked) if tokenizer == PAIRS else spans


def _find_span(match: re.Match[str]) -> Span:
    start, end = match.span()
    return (start, end, end) if match.group(1) is None else (start, min(end, start + MAX_PUNCTUATION_RUN), end)


def _pair(spans: list[Span], marked: str) -> list[Span]:
    """Return spans in which a cluster is a pair with the one that follows it; a cluster alone is single."""
    pairs = []
    is_in_run = False
    for (start, end, text_end), (next_start, next_end, _) in itertools.pairwise([*spans, (-1, -1, -1)]):
        has_next = next_start == end and marked[start] == marked[end] == _SINGLE
        if has_next:
            pairs.append((start, next_end, next_end))
        elif not is_in_run:
            pairs.append((start, end, text_end))
        is_in_run = has_next
    return pairs


@cache
def _mark_table() -> dict[int, str]:
    """Return the translation of each combining mark of Unicode to the same one."""
    return {code: _MARK for codes in _MARK_RANGES for code in codes if unicodedata.category(chr(code))[0] == "M"}


class _ClassTable(dict[int, str]):
    """Translation of characters to those that stand for their class; punctuation marks stay. Filled when it is used."""

    def __init__(self, tokenizer: str) -> None:
        super().__init__({code: chr(code) for code in range(128)})
        self._tokenizer = tokenizer

    def __missing__(self, code: int) -> str:
        character = chr(code)
        letter = _HEBREW if code in HEBREW_LETTERS else _LETTER
        representatives = {
            MARK: _MARK, LINKER: _LINKER, SINGLE: _SINGLE, PAIRED: _SINGLE, WORD: letter, SPACE: " "
        }  # fmt: skip
        self[code] = representatives.get(classify(character, self._tokenizer), character)
        return self[code]


_class_table = cache(_ClassTable)
