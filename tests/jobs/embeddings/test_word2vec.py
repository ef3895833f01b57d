"""word2vec files are exchanged with gensim and the original tool."""

import io
from pathlib import Path

import numpy as np
from gensim.models import KeyedVectors

from jobs.embeddings.word2vec import is_single_token, parse_vectors, write_binary

WORDS = ["the", "naïve", "</s>", "film"]
MATRIX = np.random.default_rng(0).normal(size=(4, 300)).astype(np.float32)


def test_a_round_trip_through_gensim_changes_nothing(tmp_path: Path) -> None:
    """Written here, read and written by gensim, read here: the same words and bits."""
    first, second = tmp_path / "first.bin", tmp_path / "second.bin"
    with first.open("wb") as stream:
        write_binary(stream, 4, 300, zip(WORDS, MATRIX, strict=True))
    KeyedVectors.load_word2vec_format(str(first), binary=True).save_word2vec_format(str(second), binary=True)
    with second.open("rb") as stream:
        vectors = list(parse_vectors("second", stream, "auto", "strict", lambda word: True))
    assert [word for word, _ in vectors] == WORDS
    np.testing.assert_array_equal(np.stack([vector for _, vector in vectors]), MATRIX)


def test_rows_that_end_in_a_line_feed_are_read() -> None:
    """The original word2vec tool writes them."""
    rows = b"".join(word.encode() + b" " + row.tobytes() + b"\n" for word, row in zip(WORDS, MATRIX, strict=True))
    stream = io.BytesIO(b"4 300\n" + rows)
    vectors = dict(parse_vectors("memory", stream, "auto", "strict", lambda word: word != "the"))
    assert list(vectors) == WORDS[1:]
    np.testing.assert_array_equal(vectors["film"], MATRIX[3])


def test_only_selected_rows_are_converted_to_numbers() -> None:
    """A row of NaN that is not selected is not an error."""
    stream = io.BytesIO(b"2 2\na nan nan\nb 1 2\n")
    assert [word for word, _ in parse_vectors("x", stream, "auto", "strict", lambda word: word == "b")] == ["b"]


def test_a_single_token_is_not_empty_and_has_no_white_space() -> None:
    assert [word for word in ["a", "", "a b", "a\n", "</s>", "\u00a0", "naïve"] if is_single_token(word)] == [
        "a",
        "</s>",
        "naïve",
    ]


def test_white_space_before_a_word_of_text_is_not_part_of_it() -> None:
    stream = io.BytesIO(b"hello 1 2 3\n world 4 5 6\n\tfilm 1 1 1\n")
    words = [word for word, _ in parse_vectors("x", stream, "auto", "strict", lambda word: True)]
    assert words == ["hello", "world", "film"]
