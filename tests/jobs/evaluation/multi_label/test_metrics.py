"""Metrics of several labels per text equal those of scikit-learn."""

import numpy as np
import pytest
import sklearn.metrics

from jobs.evaluation.multi_label.metrics import (
    count_labels,
    decode_row_counts,
    encode_row_counts,
    mean_average_precision,
    precision_at,
    subset_accuracy,
)


@pytest.mark.parametrize("seed", range(5))
def test_the_metrics_are_those_of_scikit_learn(seed: int) -> None:
    """Also with equal scores, labels that no row has or gets, and rows without a label."""
    random = np.random.default_rng(seed)
    labels = (random.random((60, 7)) < 0.3).astype(np.uint8)
    labels[:, 2] = labels[:5] = 0
    scores = random.random((60, 7)).round(1)
    predicted = scores >= 0.6
    predicted[:, [2, 3]] = False
    counts = count_labels(labels, predicted)
    for average, value in (("micro", counts.micro_f1()), ("macro", counts.macro_f1())):
        assert value == pytest.approx(sklearn.metrics.f1_score(labels, predicted, average=average, zero_division=0))
    expected = sklearn.metrics.precision_recall_fscore_support(labels, predicted, zero_division=0)
    for own, reference in zip(counts.per_label().values(), expected, strict=True):
        assert own == pytest.approx(reference)
    assert subset_accuracy(labels, predicted) == sklearn.metrics.accuracy_score(labels, predicted)
    present = np.flatnonzero(labels.any(axis=0))
    average_precision = sklearn.metrics.average_precision_score(labels[:, present], scores[:, present], average="macro")
    assert mean_average_precision(labels, scores) == pytest.approx(average_precision)
    precision = sklearn.metrics.precision_score(labels, predicted, average="micro", zero_division=0)
    recall = sklearn.metrics.recall_score(labels, predicted, average="micro", zero_division=0)
    assert (counts.micro_precision(), counts.micro_recall()) == pytest.approx((precision, recall))


def test_precision_at_k_is_the_share_of_correct_labels_among_the_best() -> None:
    labels = np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0]])
    scores = np.array([[0.9, 0.5, 0.1], [0.9, 0.5, 0.1], [0.9, 0.5, 0.1]])
    assert precision_at(1, labels, scores) == pytest.approx(1 / 3)
    assert precision_at(2, labels, scores) == pytest.approx(2 / 6)
    assert precision_at(5, labels, scores) == pytest.approx(3 / 9)


def test_counts_of_rows_are_decoded() -> None:
    labels, predicted = np.array([[1, 0, 1], [0, 0, 0]]), np.array([[1, 1, 0], [1, 1, 1]])
    correct, assigned = decode_row_counts(encode_row_counts(labels, predicted), 3)
    assert correct.tolist() == [1, 0]
    assert assigned.tolist() == [2, 3]
