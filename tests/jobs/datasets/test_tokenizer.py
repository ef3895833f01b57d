"""Texts as words, and words as numbers."""

import pytest

from jobs.datasets.tokenizer import UNKNOWN, Vocabulary, count_words, encode, tokenize


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
    """Words, clitics apart, punctuation by itself."""
    assert tokenize(text) == tokens


def test_case_is_kept_on_request() -> None:
    """Cased vectors want cased words."""
    assert tokenize("New York", lowercase=False) == ["New", "York"]


def test_numbers_of_words_and_of_unknown_ones() -> None:
    """0 is padding, 1 unknown."""
    vocabulary = Vocabulary(["a", "b"])
    assert len(vocabulary) == 4
    assert vocabulary.encode(["b", "x", "a"]) == [3, UNKNOWN, 2]
    with pytest.raises(ValueError, match="once"):
        Vocabulary(["a", "a"])


def test_texts_as_flat_arrays_and_back() -> None:
    """Long texts are cut, empty ones keep their place."""
    tokens = encode([["a", "b", "a"], [], ["b"]], Vocabulary(["a", "b"]), max_tokens=2)
    assert tokens.ids.tolist() == [2, 3, 3]
    assert tokens.lengths.tolist() == [2, 0, 1]
    assert tokens.offsets.tolist() == [0, 2, 2, 3]


def test_frequent_words_come_first_and_ties_are_settled() -> None:
    """The vocabulary does not depend on the order of the rows."""
    assert count_words([["b", "a"], ["c", "b"]], 2) == [("b", 2), ("a", 1)]
