"""Scoring kernel: it tokenizes texts exactly as training does."""

import string

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.datasets.tokenizer import Vocabulary, tokenize
from jobs.inference import scoring_kernel as kernel

WORDS = ["do", "n't", "'s", "'ll", "'re", "'d", "it", "n", "t", "'", "!!!", "..", "a_b", "x1", "can", "ca", "''"]


def index(words: list[str]) -> tuple[np.ndarray, ...]:
    """Return the kernel's vocabulary of a few words."""
    word_offsets = np.cumsum([0, *map(len, words)])
    slots, hashes = np.full(64, -1, np.int32), np.zeros(64, np.uint64)
    word_bytes = np.frombuffer("".join(words).encode(), np.uint8)
    kernel.build_hash_table(word_bytes, word_offsets, np.ones(len(words), bool), slots, hashes)
    return word_bytes, word_offsets, slots, hashes


DICTIONARY = index(WORDS)
VOCABULARY = Vocabulary(WORDS)


def split(text: str, lowercase: bool = True, length: int = 1000) -> list[int]:
    """Return the kernel's word ids of a text."""
    ids = np.empty(length, np.int64)
    text_bytes = np.frombuffer(text.encode(), np.uint8)
    return ids[: kernel.tokenize_ascii(text_bytes, 0, len(text), lowercase, *DICTIONARY, ids)].tolist()


@pytest.mark.parametrize("lowercase", [True, False])
@settings(deadline=None)  # the first call compiles
@given(
    text=st.text(string.printable + "\x00\x1c\x1f\x7f", max_size=40)
    | st.lists(
        st.sampled_from([*WORDS, "DON'T", "N'T", "can't", "cann't", "'LL", "'ves", "I'm", "$", "____", " ", "\n"])
    ).map("".join)
)
def test_tokens_are_those_of_training(lowercase: bool, text: str) -> None:
    """Texts are any ASCII, with clitics, runs of punctuation marks and control characters."""
    assert split(text, lowercase) == VOCABULARY.encode(tokenize(text, lowercase))


def test_tokens_beyond_the_length_of_the_output_are_dropped() -> None:
    """As many tokens as fit into the output are written."""
    assert split("do it " * 5, length=3) == [2, 8, 2]


def test_words_whose_hashes_collide_are_distinguished() -> None:
    """The hash table is half full, so that words share slots."""
    words = [f"w{number}" for number in range(31)]
    dictionary = index(words)
    ids = np.empty(1, np.int64)
    for number, word in enumerate(words):
        kernel.tokenize_ascii(np.frombuffer(word.encode(), np.uint8), 0, len(word), True, *dictionary, ids)
        assert ids[0] == number + 2
