"""Thresholds of labels: the objective, and the choice between one and one for each label."""

import numpy as np
import pytest

from jobs.evaluation.multi_label.metrics import LabelCounts, count_labels
from jobs.evaluation.multi_label.thresholds import (
    GRID,
    Calibration,
    _choose_best,
    choose_global_threshold,
    choose_thresholds,
    count_scores,
)


def draw_rows(rows: int, shifts: list[float], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities and labels: a label is likely above the score of its shift."""
    random = np.random.default_rng(seed)
    scores = random.random((rows, len(shifts)))
    return scores, (scores + random.normal(0, 0.1, scores.shape) > np.array(shifts)).astype(np.uint8)


def test_counts_are_those_of_comparing_with_each_threshold() -> None:
    scores, labels = draw_rows(200, [0.3, 0.8])
    scores[:3] = [[0.5, 0.0], [0.01, 1.0], [0.99, 0.25]]  # on the grid, and at the ends
    counts = count_scores(scores, labels)
    for index, threshold in enumerate(GRID):
        expected = count_labels(labels, scores >= threshold)
        own = counts.select(np.array([index, index]))
        assert own.correct.tolist() == expected.correct.tolist()
        assert own.predicted.tolist() == expected.predicted.tolist()


@pytest.mark.parametrize("metric", ["micro_f1", "macro_f1"])
def test_the_single_threshold_has_the_highest_f1(metric: str) -> None:
    scores, labels = draw_rows(300, [0.3, 0.7, 0.5])
    index = choose_global_threshold(count_scores(scores, labels), metric)  # type: ignore[arg-type]
    values = [getattr(count_labels(labels, scores >= threshold), metric)() for threshold in GRID]
    assert values[index] == max(values)


@pytest.mark.parametrize("objective", ["micro_f1", "macro_f1"])
def test_labels_that_differ_get_thresholds_of_their_own(objective: str) -> None:
    scores, labels = draw_rows(2000, [0.2, 0.8])
    chosen = choose_thresholds(scores, labels, objective)  # type: ignore[arg-type]
    assert chosen == pytest.approx([0.2, 0.8], abs=0.1)


def test_rare_labels_with_low_scores_get_lower_thresholds_if_that_costs_no_micro_f1() -> None:
    random = np.random.default_rng(0)
    shares = np.geomspace(0.005, 0.3, 30)
    labels = (random.random((2000, 30)) < shares).astype(np.uint8)
    logits = 0.6 * np.log(shares) + 3.5 * labels + random.normal(0, 1, labels.shape)
    scores = 1 / (1 + np.exp(-logits))
    half = slice(0, 1000)
    chosen = choose_thresholds(scores[half], labels[half], "micro_f1")
    assert chosen[:10].mean() < chosen[-10:].mean() - 0.1
    single = GRID[choose_global_threshold(count_scores(scores[half], labels[half]), "micro_f1")]
    own, same = (count_labels(labels[1000:], scores[1000:] >= values) for values in (chosen, single))
    assert own.macro_f1() > same.macro_f1() + 0.02
    assert own.micro_f1() > same.micro_f1() - 0.01


@pytest.mark.parametrize(("predicted", "best"), [(26, 1), (30, 0)])
def test_choices_within_half_a_point_of_micro_f1_are_compared_by_macro_f1(predicted: int, best: int) -> None:
    """The second choice also predicts the rare label, at a cost of 0.43 or 0.58 points of micro F1."""
    true = np.array([1000, 10])
    first = LabelCounts(np.array([800, 0]), true, np.array([1000, 0]))
    second = LabelCounts(np.array([800, 6]), true, np.array([1000, predicted]))
    assert _choose_best([first, second], "micro_f1") == best


def test_few_rows_do_not_decide_on_thresholds_of_single_labels() -> None:
    """With thresholds of their own, labels without a difference would fit chance."""
    scores, labels = draw_rows(40, [0.5] * 20)
    assert len(set(choose_thresholds(scores, labels, "macro_f1"))) == 1


def test_a_precision_is_reached_with_as_many_labels_as_possible() -> None:
    scores, labels = draw_rows(3000, [0.5, 0.5])
    chosen = choose_thresholds(scores, labels, 0.95)
    counts = count_labels(labels, scores >= chosen)
    assert counts.micro_precision() >= 0.95
    lower = count_labels(labels, scores >= chosen - 0.05)
    assert lower.micro_precision() < 0.95


def test_without_rows_the_threshold_is_one_half() -> None:
    assert choose_thresholds(np.empty((0, 3)), np.empty((0, 3), np.uint8), "micro_f1").tolist() == [0.5] * 3


@pytest.mark.parametrize(("values", "per_label"), [([0.4, 0.4], False), ([0.4, 0.3], True)])
def test_a_checkpoint_says_whether_the_thresholds_differ(values: list[float], per_label: bool) -> None:
    """Also those that the settings name."""
    assert Calibration(1.0, np.array(values)).to_json()["label_thresholds"] == {
        "objective": None, "per_label": per_label, "values": values
    }  # fmt: skip
