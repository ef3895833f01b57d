"""Tokenizer and vocabulary."""

import pytest

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
        # The lowercase form of İ has two characters, i and a combining dot.
        ("İ is!", [("i", 0, 1), ("\u0307", 0, 1), ("is", 2, 4), ("!", 4, 5)]),
    ],
)
def test_offsets_are_those_of_the_text(text: str, tokens: list[tuple[str, int, int]]) -> None:
    offsets = tokenize_with_offsets(text)
    assert [token for token, _, _ in offsets] == tokenize(text)
    assert offsets == tokens


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
