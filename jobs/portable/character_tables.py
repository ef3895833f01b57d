"""Tables of characters for the tokenizer in a browser, from Python's Unicode data: a browser has those of its version.

browser/tokenizer.mjs reads them. They are a few kilobytes, because neighbours in Unicode have much in common.
"""

import itertools
import unicodedata
from dataclasses import dataclass
from functools import cache

from jobs.datasets.tokenization.characters import FORMATS, WORDS, classify

# In addition to the classes of characters.py: a character that belongs to no token.
REMOVED = 9
# Of the class and of these bits is the value of a character: what decides between the lower-case forms of Σ, and what
# Python does not know.
CASED, IGNORABLE, UNASSIGNED = 16, 32, 64
_UNKNOWN_CATEGORIES = ("Cn", "Co")
# Planes 4 to 13 have no characters, 15 and 16 private ones. What follows has no value, which is as good.
_ASSIGNED = range(0x40000), range(0xE0000, 0xE1000)
_LETTERS_WITH_TWO_FORMS = "Σİ"  # which the tokenizer knows: Σ at the end of a word, and İ, which is two characters


@dataclass(frozen=True)
class CharacterTables:
    """Tables as flat lists.

    character_classes: for each run of equal code points, their number and their value. lowercase_forms: for each run of
    code points, the first, the last, their distance, and what is added to each for its lower-case form.
    """

    character_classes: list[int]
    lowercase_forms: list[int]


def build_tables(tokenizer: str, lowercase: bool) -> CharacterTables:
    """Return the tables of a built-in tokenizer; without `lowercase` there are no lower-case forms."""
    return CharacterTables(_list_classes(tokenizer), _list_lowercase_forms() if lowercase else [])


@cache
def _list_classes(tokenizer: str) -> list[int]:
    values: list[int] = []
    for codes in _ASSIGNED:
        values += itertools.repeat(UNASSIGNED, codes.start - len(values))
        values += [_find_value(chr(code), tokenizer) for code in codes]
    return [number for value, run in itertools.groupby(values) for number in (len(list(run)), value)]


def _find_value(character: str, tokenizer: str) -> int:
    if unicodedata.category(character) in _UNKNOWN_CATEGORIES:
        return UNASSIGNED
    if tokenizer != WORDS and FORMATS.match(character):
        return REMOVED
    value = classify(character, tokenizer)
    # unicodedata does not have what `str.lower` decides by.
    if f"{character}Σ".lower()[-1] == "ς":
        return value | CASED
    return value | IGNORABLE if f"a{character}Σ".lower()[-1] == "ς" else value


@cache
def _list_lowercase_forms() -> list[int]:
    runs: list[list[int]] = []
    for code in _ASSIGNED[0]:
        form = chr(code).lower()
        if form == chr(code) or chr(code) in _LETTERS_WITH_TWO_FORMS:
            continue
        difference = ord(form) - code
        if runs and runs[-1][3] == difference and _continues(runs[-1], code):
            runs[-1][1:3] = code, code - runs[-1][1]
        else:
            runs.append([code, code, 1, difference])
    return list(itertools.chain.from_iterable(runs))


def _continues(run: list[int], code: int) -> bool:
    first, last, distance, _ = run
    return code - last <= 2 if first == last else code - last == distance
