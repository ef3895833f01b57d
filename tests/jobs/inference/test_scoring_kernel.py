"""The compiled loop splits texts as training does."""

import string

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.datasets.tokenizer import Vocabulary, tokenize
from jobs.inference import scoring_kernel as kernel

WORDS = ["do", "n't", "'s", "'ll", "'re", "'d", "it", "n", "t", "'", "!!!", "..", "a_b", "x1", "can", "ca", "''"]


def index(words: list[str]) -> tuple[np.ndarray, ...]:
    """Return the kernel's dictionary of a few words."""
    starts = np.cumsum([0, *map(len, words)])
    slots, hashes = np.full(64, -1, np.int32), np.zeros(64, np.uint64)
    letters = np.frombuffer("".join(words).encode(), np.uint8)
    kernel.build_hash_table(letters, starts, np.ones(len(words), bool), slots, hashes)
    return letters, starts, slots, hashes


DICTIONARY = index(WORDS)
VOCABULARY = Vocabulary(WORDS)


def split(text: str, lowercase: bool = True, length: int = 1000) -> list[int]:
    """Return the kernel's numbers for a text."""
    ids = np.empty(length, np.int64)
    letters = np.frombuffer(text.encode(), np.uint8)
    return ids[: kernel.tokenize_ascii(letters, 0, len(text), lowercase, *DICTIONARY, ids)].tolist()


@pytest.mark.parametrize("lowercase", [True, False])
@given(
    text=st.text(string.printable + "\x00\x1c\x1f\x7f", max_size=40)
    | st.lists(
        st.sampled_from([*WORDS, "DON'T", "N'T", "can't", "cann't", "'LL", "'ves", "I'm", "$", "____", " ", "\n"])
    ).map("".join)
)
def test_tokens_are_those_of_training(lowercase: bool, text: str) -> None:
    """For any text in ASCII, clitics, runs of marks and control characters included."""
    assert split(text, lowercase) == VOCABULARY.encode(tokenize(text, lowercase))


def test_at_most_so_many_tokens() -> None:
    """What does not fit is left out."""
    assert split("do it " * 5, length=3) == [2, 8, 2]


def test_many_words_are_all_found() -> None:
    """Words whose places in the hash table collide are told apart."""
    words = [f"w{number}" for number in range(31)]
    found = index(words)
    ids = np.empty(1, np.int64)
    for number, word in enumerate(words):
        kernel.tokenize_ascii(np.frombuffer(word.encode(), np.uint8), 0, len(word), True, *found, ids)
        assert ids[0] == number + 2
