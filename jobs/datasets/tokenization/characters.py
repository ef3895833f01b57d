"""Classes of characters, from which the built-in tokenizers divide a text into tokens.

`unicode` follows the word boundaries of UAX #29, with these differences. ASCII punctuation marks divide words, except
apostrophes between letters beyond ASCII. Each kana is a token, and so is each cluster of the scripts without spaces
between words, which is a grapheme cluster with all combining marks. Symbols are apart from their marks, as skin tones
of emoji. `unicode-pairs` has pairs of neighbouring clusters as tokens. `words` is the tokenizer of earlier versions: it
has only the classes of `\\w`, white space, marks and joiners.
"""

import re
import unicodedata
from bisect import bisect_right

UNICODE, PAIRS, WORDS = "unicode", "unicode-pairs", "words"
BUILT_IN = (UNICODE, PAIRS, WORDS)

# Classes, in an order that makes comparisons short. Compiled files copy them: numba would not notice a change here.
# MIDDLE: may be inside a word. SINGLE: starts a cluster, which is a token; PAIRED: which is a token with the next one.
# LINKER: a mark after which a cluster continues. A class from WORD on continues a word, one from MARK on is a mark.
PUNCTUATION, SPACE, JOINER, MIDDLE, SINGLE, PAIRED, WORD, MARK, LINKER = range(9)

JOINERS = "\u200c\u200d"  # ZWNJ and ZWJ
# Inside a word between letters beyond ASCII (Ukrainian м'яч), the quotation mark between Hebrew letters, and the middle
# dot in Catalan l·l.
MIDDLES = "'\"\u00b7\u055f\u05f4\u066b\u066c\u2027"
LINKERS = "\u1039\u17d2\u1a60"  # of Burmese, Khmer and Tai Tham
ZERO_WIDTH_SPACE = "\u200b"  # divides words in Thai, Khmer and Burmese
LETTER_PUNCTUATION = "\u05f3"  # geresh, a letter in UAX #29
# Letters that continue a cluster: vowel signs of Thai and Lao, voicing marks of halfwidth kana.
EXTENDERS = "\u0e33\u0eb3\uff9e\uff9f"
# Directional marks and other characters that are not visible, which belong to no token. Not soft hyphens: where English
# texts have them, they stand for dashes.
FORMATS = re.compile("[\u061c\u180e\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff\ufff9-\ufffb]")

# Blocks of the scripts without spaces between words: ideographs and kana, then Thai, Lao, Burmese, Khmer, Tai scripts.
# Starts and ends of ranges, in ascending order.
UNDIVIDED = (
    0x0E00, 0x0F00, 0x1000, 0x10A0, 0x1780, 0x1800, 0x1950, 0x19E0, 0x1A20, 0x1AB0, 0x3005, 0x3008, 0x3021, 0x302A,
    0x3038, 0x303C, 0x3041, 0x3100, 0x31F0, 0x3200, 0x3400, 0x4DC0, 0x4E00, 0xA000, 0xA9E0, 0xAA00, 0xAA60, 0xAAE0,
    0xF900, 0xFB00, 0xFF66, 0xFFA0, 0x11700, 0x11750, 0x17000, 0x18D80, 0x1AFF0, 0x1B300, 0x20000, 0x40000,
)  # fmt: skip


def classify(character: str, tokenizer: str) -> int:
    """Return the class of a character of a normalized text in a built-in tokenizer."""
    if character.isalnum() or character == "_":
        if tokenizer == WORDS or not is_undivided(character):
            return WORD
        return MARK if character in EXTENDERS else PAIRED if tokenizer == PAIRS else SINGLE
    category = unicodedata.category(character)
    if category[0] == "M":
        return LINKER if character in LINKERS and tokenizer != WORDS else MARK
    if character.isspace():
        return SPACE
    if character in JOINERS:
        return JOINER
    return PUNCTUATION if tokenizer == WORDS else _classify_symbol(character, category)


def _classify_symbol(character: str, category: str) -> int:
    if character in MIDDLES:
        return MIDDLE
    if character.isascii():
        return PUNCTUATION
    if character == ZERO_WIDTH_SPACE:
        return SPACE
    return WORD if character == LETTER_PUNCTUATION or category == "Pc" else PUNCTUATION


def is_undivided(character: str) -> bool:
    """Return whether a letter belongs to a script without spaces between words."""
    code = ord(character)
    return code >= UNDIVIDED[0] and bisect_right(UNDIVIDED, code) % 2 == 1 and not character.isdecimal()
