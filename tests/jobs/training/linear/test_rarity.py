"""Rarity of classes, and the two numbers that describe the weights of their scores."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from jobs.config.experiment import Experiment
from jobs.training.corpora.corpus import Corpus
from jobs.training.linear.rarity import compute_rarity, find_weight_and_growth
from tests.support.toy_data import make_test_corpus


def with_labels(corpus: Corpus, labels: np.ndarray, names: list[str]) -> Corpus:
    return replace(corpus, labels=names, train=replace(corpus.train, labels=labels))


def test_rarity_is_relative_to_the_class_with_the_most_rows(make_experiment: Callable[..., Experiment]) -> None:
    """A class without rows has the rarity 0, as its linear classifier is of other rows."""
    corpus, names = make_test_corpus(make_experiment()), ["a", "b", "c"]
    expected = [np.log(9 / 3), 0, 0]
    indices = np.array([0] * 2 + [1] * 8)
    assert compute_rarity(with_labels(corpus, indices, names)) == pytest.approx(expected)
    matrix = np.zeros((10, 3), np.uint8)
    matrix[:2, 0] = matrix[:8, 1] = 1
    assert compute_rarity(with_labels(corpus, matrix, names)) == pytest.approx(expected)


def test_weights_are_described_by_that_of_the_most_frequent_class_and_the_growth() -> None:
    rarity = np.array([2.0, 0.0, 5.5])
    assert find_weight_and_growth(0.3 + 0.4 * rarity, rarity) == pytest.approx((0.3, 0.4))
    assert find_weight_and_growth(np.full(3, 0.7), np.zeros(3)) == (0.7, 0.0)
    assert find_weight_and_growth(np.array([0.0, 900.0]), np.array([0, 0.01])) == (0.0, 1000.0)
    earlier = np.array([1.5], np.float32)  # one weight for all classes
    assert find_weight_and_growth(earlier, rarity) == (1.5, 0.0)
