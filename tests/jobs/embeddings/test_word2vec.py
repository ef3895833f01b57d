"""word2vec files: what is written is read by gensim, and the other way round."""

import io
from pathlib import Path

import numpy as np
from gensim.models import KeyedVectors

from jobs.embeddings import word2vec

WORDS = ["the", "naïve", "</s>", "film"]
MATRIX = np.random.default_rng(0).normal(size=(4, 300)).astype(np.float32)


def test_a_round_trip_through_gensim_changes_nothing(tmp_path: Path) -> None:
    """Written here, opened and written by gensim, read here: the same words and bits."""
    first, second = tmp_path / "first.bin", tmp_path / "second.bin"
    with first.open("wb") as stream:
        word2vec.write_binary(stream, 4, 300, zip(WORDS, MATRIX, strict=True))
    KeyedVectors.load_word2vec_format(str(first), binary=True).save_word2vec_format(str(second), binary=True)
    with second.open("rb") as stream:
        found = list(word2vec.parse_vectors("second", stream, "auto", "strict", lambda word: True))
    assert [word for word, _ in found] == WORDS
    np.testing.assert_array_equal(np.stack([vector for _, vector in found]), MATRIX)


def test_rows_that_end_in_a_line_are_read() -> None:
    """As the original word2vec tool writes them; rows are longer than what is read at a time."""
    rows = b"".join(word.encode() + b" " + row.tobytes() + b"\n" for word, row in zip(WORDS, MATRIX, strict=True))
    stream = io.BytesIO(b"4 300\n" + rows)
    found = dict(word2vec.parse_vectors("memory", stream, "auto", "strict", lambda word: word != "the"))
    assert list(found) == WORDS[1:]
    np.testing.assert_array_equal(found["film"], MATRIX[3])


def test_only_what_is_asked_for_is_turned_into_numbers() -> None:
    """A row of NaN that nobody wants does no harm."""
    stream = io.BytesIO(b"2 2\na nan nan\nb 1 2\n")
    assert [word for word, _ in word2vec.parse_vectors("x", stream, "auto", "strict", lambda word: word == "b")] == [
        "b"
    ]


def test_words_that_a_file_can_hold() -> None:
    """Not empty, no white space."""
    assert [word for word in ["a", "", "a b", "a\n", "</s>", "\u00a0", "naïve"] if word2vec.is_single_token(word)] == [
        "a",
        "</s>",
        "naïve",
    ]
