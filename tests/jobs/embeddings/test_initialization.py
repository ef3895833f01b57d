"""Where word vectors start: Kim's rule for words without one, one length for all."""

import numpy as np
import pytest

from jobs.embeddings.initialization import initialize_vectors, scale_to_norm
from jobs.embeddings.vector_files import WordVectors

MATRIX = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)


def test_words_without_a_vector_have_the_variance_of_the_rest() -> None:
    """Kim 2014: U(-a, a); padding and the unknown word are zero; case is a second chance."""
    found = WordVectors(["the", "New", "new", "film", "naïve", "rest"], MATRIX)
    words = ["film", "THE", *(f"absent{number}" for number in range(5000))]
    table, known, respelled = initialize_vectors(words, found, 99, seed=0)
    assert table.shape == (5004, 5)
    assert table.dtype == np.float32
    assert not table[:2].any()
    assert known.tolist()[:5] == [False, False, True, True, False]
    assert respelled.nonzero()[0].tolist() == [3]
    np.testing.assert_allclose(table[2], MATRIX[3], atol=1e-6)
    assert table[4:].var() == pytest.approx(found.matrix.var(), rel=0.05)
    assert (initialize_vectors(words, found, 99, seed=0)[0] == table).all()


def test_random_vectors_are_kims() -> None:
    """U(-0.25, 0.25) of the dimensions asked for."""
    table, known, _ = initialize_vectors(["a"] * 0 + [f"w{number}" for number in range(1000)], None, 7, seed=1)
    assert table.shape == (1002, 7)
    assert not known.any()
    assert 0.24 < np.abs(table).max() <= 0.25


def test_scaling_keeps_zeros_and_tells_the_factors() -> None:
    """Every other row has the norm; without one nothing changes."""
    table, factors = scale_to_norm(np.array([[0, 0], [3, 4], [0, 0.5]], np.float32), 2.0)
    np.testing.assert_allclose(table, [[0, 0], [1.2, 1.6], [0, 2]], rtol=1e-6)
    np.testing.assert_allclose(factors, [1, 0.4, 4], rtol=1e-6)
    same, ones = scale_to_norm(MATRIX, None)
    assert same is MATRIX
    assert (ones == 1).all()
