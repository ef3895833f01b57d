"""Search for the word of a vocabulary that differs by one typing error."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.datasets.tokenization.code_points import encode_texts
from jobs.datasets.tokenization.nearest_words import MAX_BYTES, NearestWords, build_index
from jobs.datasets.tokenizer import UNKNOWN, Vocabulary

WORDS = st.text("abé日😀_1\ud800", min_size=1, max_size=7)


def list_errors(word: str, letters: set[str]) -> set[str]:
    """Return all words that differ from a word by one error."""
    positions = range(len(word) + 1)
    swaps = {word[:i] + word[i + 1] + word[i] + word[i + 2 :] for i in range(len(word) - 1)}
    insertions = {word[:i] + letter + word[i:] for i in positions for letter in letters}
    replacements = {word[:i] + letter + word[i + 1 :] for i in positions[:-1] for letter in letters}
    return (swaps | insertions | replacements | {word[:i] + word[i + 1 :] for i in positions[:-1]}) - {word}


def is_word(word: str) -> bool:
    return len(word) >= 4 and not set(word) & set("_1")


@settings(deadline=None, max_examples=500)  # the first call compiles
@given(words=st.lists(WORDS, unique=True, max_size=40), searched=WORDS)
def test_the_first_word_with_one_error_is_found(words: list[str], searched: str) -> None:
    """In any script; words with fewer than four characters, or with digits or marks, are neither searched nor found."""
    near = list_errors(searched, set("".join(words))) if is_word(searched) else set()
    expected = next((index for index, word in enumerate(words, start=2) if word in near and is_word(word)), UNKNOWN)
    if searched not in words:
        assert NearestWords(words).find(searched) == expected
        assert Vocabulary(words, 1).encode([searched]) == [expected]
        assert Vocabulary(words).encode([searched]) == [UNKNOWN]
    assert Vocabulary(words, 1).encode(words) == [*range(2, len(words) + 2)]


def test_long_words_are_not_searched() -> None:
    """The time of a search is quadratic in the length of the word, which anybody may send."""
    words = ["a" * MAX_BYTES, "b" * (MAX_BYTES + 1)]
    assert NearestWords(words).find("a" * (MAX_BYTES - 1)) == 2
    assert [NearestWords(words).find(word) for word in ("a" * (MAX_BYTES + 1), "b" * MAX_BYTES)] == [UNKNOWN] * 2


def test_an_index_has_an_entry_for_each_form_of_a_word() -> None:
    """The word, and the word without each of its characters."""
    offsets, entries = build_index(*encode_texts(["ab", "naïve", "x" * 9]))
    assert np.bincount(entries & 0xFFFFFFFF).tolist() == [0, 6, 10]
    assert offsets[-1] == len(entries) == 16
