"""Initial word vectors: Kim's rule for words without a pretrained vector, and scaling to one length."""

import tracemalloc

import numpy as np
import pytest

from jobs.embeddings.initialization import compute_variance, initialize_vectors, scale_to_norm
from jobs.embeddings.word_vectors import WordVectors

MATRIX = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)


def test_random_vectors_have_the_variance_of_the_pretrained_ones() -> None:
    """As in Kim 2014. Padding and the unknown word are zero; a word may have the vector of another letter case."""
    pretrained = WordVectors(["the", "New", "new", "film", "naïve", "rest"], MATRIX)
    words = ["film", "THE", *(f"absent{number}" for number in range(5000))]
    table, is_pretrained, is_case_insensitive_match = initialize_vectors(words, pretrained, 99, seed=0)
    assert table.shape == (5004, 5)
    assert table.dtype == np.float32
    assert not table[:2].any()
    assert is_pretrained.tolist()[:5] == [False, False, True, True, False]
    assert is_case_insensitive_match.nonzero()[0].tolist() == [3]
    np.testing.assert_allclose(table[2], MATRIX[3], atol=1e-6)
    assert table[4:].var() == pytest.approx(pretrained.matrix.var(), rel=0.05)
    assert (initialize_vectors(words, pretrained, 99, seed=0)[0] == table).all()


def test_a_word_is_found_in_every_unicode_spelling() -> None:
    """Exact spellings come first, then other letter cases."""
    pretrained = WordVectors(["cafe\u0301", "\u0130zmir", "\u0131rmak", "irmak2", "s\u0131k", "sik"], MATRIX)
    words = ["caf\u00e9", "izmir", "irmak", "sik"]
    table, _, is_case_insensitive_match = initialize_vectors(words, pretrained, 5, seed=0)
    np.testing.assert_array_equal(table[2:], MATRIX[[0, 1, 2, 5]])
    assert is_case_insensitive_match.tolist() == [False, False, False, True, True, False]


def test_without_pretrained_vectors_all_are_random() -> None:
    """Vectors are drawn from U(-0.25, 0.25) with the seed."""
    words = [f"w{number}" for number in range(1000)]
    table, is_pretrained, _ = initialize_vectors(words, None, 7, seed=1)
    assert table.shape == (1002, 7)
    assert not is_pretrained.any()
    assert 0.24 < np.abs(table).max() <= 0.25
    assert table[2:].var() == pytest.approx(0.25**2 / 3, rel=0.05)
    assert (initialize_vectors(words, None, 7, seed=2)[0][2:] != table[2:]).any()


def test_all_nonzero_rows_are_scaled_to_the_norm() -> None:
    """Without a norm nothing changes."""
    table = np.tile(np.array([[0, 0], [3, 4], [0, 0.5]], np.float32), (200, 1))
    factors = scale_to_norm(table, 2.0)
    np.testing.assert_allclose(table, np.tile([[0, 0], [1.2, 1.6], [0, 2]], (200, 1)), rtol=1e-6)
    np.testing.assert_allclose(factors, np.tile([1, 0.4, 4], 200), rtol=1e-6)
    same = MATRIX.copy()
    assert (scale_to_norm(same, None) == 1).all()
    assert (same == MATRIX).all()


def test_the_variance_in_blocks_is_that_of_all_numbers() -> None:
    matrix = np.random.default_rng(0).normal(0.3, 0.2, (600, 7)).astype(np.float32)
    assert compute_variance(matrix) == pytest.approx(matrix.var(dtype=np.float64), rel=1e-12)


def test_a_large_table_is_never_copied() -> None:
    """It may be most of the memory: 400,000 words of 300 dimensions are 480 MB."""
    matrix = np.random.default_rng(0).normal(size=(20_000, 50)).astype(np.float32)
    pretrained = WordVectors([f"w{number}" for number in range(len(matrix))], matrix)
    tracemalloc.start()
    try:
        table, _, _ = initialize_vectors(pretrained.words, pretrained, 50, seed=0)
        scale_to_norm(table, 3.0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1.7 * table.nbytes  # and the words in dictionaries
