"""Tokenizer and vocabulary."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.datasets.tokenizer import (
    UNKNOWN,
    Vocabulary,
    count_words,
    encode,
    tokenize,
    tokenize_with_offsets,
)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", []),
        (" \n\t", []),
        ("It's GREAT, isn't it?", ["it", "'s", "great", ",", "is", "n't", "it", "?"]),
        ("They’ll go!!!!!", ["they", "'ll", "go", "!!!"]),
        ("naïve café 東京", ["naïve", "café", "東京"]),
        ("a-b 3.5", ["a", "-", "b", "3", ".", "5"]),
        ("cafe\u0301, na\u0131\u0308ve", ["caf\u00e9", ",", "na\u0131\u0308ve"]),
        ("हिन्दी भाषा में", ["हिन्दी", "भाषा", "में"]),
        ("क्\u200dष می\u200cخواهم അവന്\u200d", ["क्\u200dष", "می\u200cخواهم", "അവന്\u200d"]),
        ("\U00011083\U000110b0", ["\U00011083\U000110b0"]),  # Kaithi, beyond the basic plane
        ("İSTANBUL I\u0307zmir", ["istanbul", "izmir"]),
        ("J\u030cn't", ["\u01f0", "n't"]),  # composed only in lower case
        ("❤\ufe0fgood \u0301x 👨\u200d👩", ["❤", "\ufe0f", "good", "\u0301", "x", "👨", "\u200d", "👩"]),
    ],
)
def test_tokens(text: str, tokens: list[str]) -> None:
    """Words, clitics and punctuation are separate tokens."""
    assert tokenize(text) == tokens


def test_lowercase_is_optional() -> None:
    assert tokenize("New York", lowercase=False) == ["New", "York"]


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("They’ll go!!!!!", [("they", 0, 4), ("'ll", 4, 7), ("go", 8, 10), ("!!!", 10, 15)]),
        ("İ is!", [("i", 0, 1), ("is", 2, 4), ("!", 4, 5)]),  # in lower case, İ has two characters
        ("e\u0301te\u0301 e\u0301", [("\u00e9t\u00e9", 0, 5), ("\u00e9", 6, 8)]),
        ("\u1112\u1161\u11ab x", [("\ud55c", 0, 3), ("x", 4, 5)]),  # letters of one Korean syllable
    ],
)
def test_offsets_are_those_of_the_text(text: str, tokens: list[tuple[str, int, int]]) -> None:
    offsets = tokenize_with_offsets(text)
    assert [token for token, _, _ in offsets] == tokenize(text)
    assert offsets == tokens


LETTERS = "aIi\u0130\u0131\u0307\u0301\u0323nN'tT\u2019 \u0915\u093f\u094d\u200d\u200c\u1100\u1161\u11a8"
LETTERS += "\u09c7\u09be-\u2764\ufe0f\u03a3H\u0331\u212b!"


@given(text=st.text(st.sampled_from(LETTERS), max_size=12) | st.text(max_size=12), lowercase=st.booleans())
def test_all_spellings_of_a_text_have_the_same_tokens(text: str, lowercase: bool) -> None:
    """Composed or not, and with offsets; offsets are inside the text."""
    tokens = tokenize(text, lowercase)
    for form in ("NFC", "NFD"):
        assert tokenize(unicodedata.normalize(form, text), lowercase) == tokens
    offsets = tokenize_with_offsets(text, lowercase)
    assert [token for token, _, _ in offsets] == tokens
    assert all(0 <= start < end <= len(text) for _, start, end in offsets)


def test_ids_of_known_and_unknown_words() -> None:
    vocabulary = Vocabulary(["a", "b"])
    assert len(vocabulary) == 4
    assert vocabulary.encode(["b", "x", "a"]) == [3, UNKNOWN, 2]
    with pytest.raises(ValueError, match="once"):
        Vocabulary(["a", "a"])


def test_texts_are_encoded_as_flat_arrays() -> None:
    """Long texts are truncated, empty ones have an offset too."""
    tokens = encode([["a", "b", "a"], [], ["b"]], Vocabulary(["a", "b"]), max_tokens=2)
    assert tokens.ids.tolist() == [2, 3, 3]
    assert tokens.lengths.tolist() == [2, 0, 1]
    assert tokens.offsets.tolist() == [0, 2, 2, 3]


@pytest.mark.parametrize("texts", [[["b", "a"], ["c", "b"]], [["c", "b"], ["b", "a"]], [["b", "c", "a", "b"]]])
def test_the_order_of_the_rows_does_not_change_the_vocabulary(texts: list[list[str]]) -> None:
    """The most frequent words come first, equally frequent ones in alphabetical order."""
    assert count_words(texts, 2) == [("b", 2), ("a", 1)]
