"""Confidence intervals of F1 with several labels per text: coverage, few rows, paired differences."""

import numpy as np
import pytest

from jobs.evaluation.multi_label.bootstrap import bootstrap_difference, bootstrap_f1, bootstrap_micro_f1
from jobs.evaluation.multi_label.metrics import count_labels

SHARES = np.geomspace(0.05, 0.4, 8)  # of the rows with each label
SIMULATIONS = 200


def draw_rows(random: np.random.Generator, rows: int, recall: float = 0.7) -> tuple[np.ndarray, np.ndarray]:
    """Return labels of rows, and predictions with a recall."""
    labels = (random.random((rows, len(SHARES))) < SHARES).astype(np.uint8)
    chance = random.random(labels.shape)
    return labels, np.where(labels > 0, chance < recall, chance < 0.2 * SHARES)


def test_the_intervals_contain_the_f1_of_all_rows_in_about_95_percent_of_samples() -> None:
    random = np.random.default_rng(0)
    everything = count_labels(*draw_rows(random, 200_000))
    covered = []
    for _ in range(SIMULATIONS):
        micro, macro = bootstrap_f1(*draw_rows(random, 100))
        covered.append((micro[0] <= everything.micro_f1() <= micro[1], macro[0] <= everything.macro_f1() <= macro[1]))
    shares = np.mean(covered, axis=0)
    assert (shares >= 0.91).all()
    assert (shares <= 0.99).all()


def test_rows_that_are_all_correct_are_not_certain_the_less_so_the_fewer_they_are() -> None:
    labels = np.eye(3, dtype=np.uint8)
    lows = [bootstrap_f1(rows, rows)[0][0] for rows in (np.tile(labels, (2, 1)), np.tile(labels, (20, 1)))]
    assert lows[0] < 0.8 < lows[1] < 0.99


def test_rows_without_labels_have_an_f1_of_zero() -> None:
    nothing = np.zeros((4, 2), np.uint8)
    assert bootstrap_f1(nothing, nothing) == ((0, 0), (0, 0))
    assert bootstrap_difference(nothing, nothing, nothing) == (0, 0)


def test_a_difference_is_paired_by_rows() -> None:
    """Equal predictions differ by the added rows only; independent intervals of 100 rows are far wider."""
    random = np.random.default_rng(1)
    labels, predicted = draw_rows(random, 100)
    low, high = bootstrap_difference(labels, predicted, predicted)
    micro = bootstrap_f1(labels, predicted)[0]
    assert bootstrap_micro_f1(labels, predicted) == pytest.approx(micro)
    assert low < 0 < high
    assert high - low < 0.6 * (micro[1] - micro[0])
    better = np.where(random.random((100, 1)) < 0.5, labels, predicted)
    assert bootstrap_difference(labels, better, predicted)[0] > 0
    assert bootstrap_difference(labels, predicted, better)[1] < 0


def test_a_difference_covers_zero_for_equally_good_predictions() -> None:
    random = np.random.default_rng(2)
    covered = []
    for _ in range(SIMULATIONS):
        labels, first = draw_rows(random, 60)
        chance = random.random(labels.shape)
        second = np.where(labels > 0, chance < 0.7, chance < 0.2 * SHARES)
        low, high = bootstrap_difference(labels, first, second)
        covered.append(low <= 0 <= high)
    assert np.mean(covered) >= 0.92


def test_equal_rows_are_drawn_together_so_their_order_changes_nothing() -> None:
    labels, predicted = draw_rows(np.random.default_rng(3), 300)
    order = np.random.default_rng(4).permutation(300)
    expected = np.ravel(bootstrap_f1(labels, predicted))
    assert np.ravel(bootstrap_f1(labels[order], predicted[order])) == pytest.approx(expected, abs=1e-12)
