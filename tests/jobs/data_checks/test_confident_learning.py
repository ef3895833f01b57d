"""Confident learning: thresholds, the confident joint, its calibration, and the selected rows."""

import numpy as np
import pytest

from jobs.data_checks.confident_learning import (
    compute_thresholds,
    count_confident_joint,
    estimate_joint,
    find_label_errors,
)

# Two rows of class 0, of which the last is class 1 by the model, and three of class 1.
PROBABILITIES = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.2, 0.8], [0.3, 0.7], [0.45, 0.55]])
LABELS = np.array([0, 0, 0, 1, 1, 1])


def test_thresholds_are_mean_probabilities_of_the_given_label() -> None:
    assert compute_thresholds(PROBABILITIES, LABELS) == pytest.approx([0.6, (0.8 + 0.7 + 0.55) / 3])
    assert compute_thresholds(np.full((1, 2), 0.5), np.array([1]))[0] == np.inf


def test_the_confident_joint_counts_only_rows_above_a_threshold() -> None:
    """The threshold of class 1 is 0.683: the last row, with 0.55, is not counted."""
    assert count_confident_joint(PROBABILITIES, LABELS).tolist() == [[2, 1], [0, 2]]


def test_of_several_classes_above_their_thresholds_the_most_probable_one_counts() -> None:
    probabilities = np.array([[0.4, 0.6], [0.45, 0.55], [0.2, 0.2]])
    labels = np.array([0, 1, 0])  # thresholds 0.3 and 0.55
    assert count_confident_joint(probabilities, labels).tolist() == [[0, 1], [0, 1]]


def test_the_joint_is_scaled_to_the_sizes_of_the_classes() -> None:
    joint = estimate_joint(np.array([[2, 1], [0, 2]]), LABELS)
    assert joint == pytest.approx(np.array([[2 / 6, 1 / 6], [0, 3 / 6]]))
    assert estimate_joint(np.array([[0, 0], [0, 2]]), LABELS) == pytest.approx(np.array([[0.5, 0], [0, 0.5]]))


def test_as_many_rows_of_a_class_are_suspicious_as_the_joint_has_errors() -> None:
    """The row of class 0 with the lowest probability; then the others by their probability."""
    errors = find_label_errors(PROBABILITIES, LABELS)
    assert errors.num_suspicious == 1
    assert errors.order.tolist() == [2, 5, 4, 1, 3, 0]
    assert errors.suggested[2] == 1
    assert errors.confidence[2] == pytest.approx(0.1)


def test_label_errors_are_found_exactly_with_the_probabilities_of_the_given_labels() -> None:
    """Theorem 1 of the paper: a quarter of the rows of class 2 have the label 0."""
    true = np.arange(6000) % 3
    wrong = (true == 2) & (np.random.default_rng(0).random(6000) < 0.25)
    labels = np.where(wrong, 0, true)
    probabilities = np.array([[1, 0, 0], [0, 1, 0], [0.25, 0, 0.75]])[true]
    errors = find_label_errors(probabilities, labels)
    assert errors.joint[0, 2] == pytest.approx(wrong.mean())
    assert errors.joint.sum() == pytest.approx(1)
    assert errors.num_suspicious == wrong.sum()
    assert wrong[errors.order[: errors.num_suspicious]].all()
    assert (errors.suggested[wrong] == 2).all()


def test_without_errors_nothing_is_suspicious() -> None:
    labels = np.arange(20) % 4
    probabilities = np.where(np.arange(4) == labels[:, None], 0.7, 0.1)
    assert find_label_errors(probabilities, labels).num_suspicious == 0
