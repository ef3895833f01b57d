"""Metrics of predictions: hand-computed values, and those of scikit-learn on random labels."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

from jobs.evaluation import metrics

LABELS = np.array([0, 0, 0, 1, 1, 2])
PREDICTED = np.array([0, 0, 1, 1, 1, 0])


def test_metrics_of_a_small_example() -> None:
    """Class 2 is never predicted: precision, recall and F1 are 0."""
    assert metrics.accuracy(LABELS, PREDICTED) == pytest.approx(4 / 6)
    assert metrics.macro_f1(LABELS, PREDICTED) == pytest.approx((2 / 3 + 4 / 5 + 0) / 3)
    assert metrics.confusion(LABELS, PREDICTED, 3).tolist() == [[2, 1, 0], [0, 2, 0], [1, 0, 0]]
    per_class = metrics.per_class_metrics(LABELS, PREDICTED, 3)
    np.testing.assert_allclose(per_class["precision"], [2 / 3, 2 / 3, 0])
    np.testing.assert_allclose(per_class["recall"], [2 / 3, 1, 0])
    np.testing.assert_allclose(per_class["f1"], [2 / 3, 4 / 5, 0])
    assert per_class["support"].tolist() == [3, 2, 1]


def test_a_class_without_rows_is_included() -> None:
    """The classes are those of the checkpoint, not only those of the rows."""
    assert metrics.confusion(LABELS, PREDICTED, 4).tolist() == [[2, 1, 0, 0], [0, 2, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    assert metrics.per_class_metrics(LABELS, PREDICTED, 4)["support"].tolist() == [3, 2, 1, 0]


@pytest.mark.parametrize("classes", [1, 2, 7, 40])
@pytest.mark.parametrize("rows", [1, 5, 300])
def test_accuracy_and_macro_f1_are_those_of_scikit_learn(classes: int, rows: int) -> None:
    """Classes may be missing among the labels, the predictions, or both."""
    labels, predicted = np.random.default_rng(classes).integers(0, classes, (2, rows))
    assert metrics.accuracy(labels, predicted) == pytest.approx(accuracy_score(labels, predicted))
    expected = f1_score(labels, predicted, average="macro", zero_division=0.0)
    assert metrics.macro_f1(labels, predicted) == pytest.approx(expected)
    predicted[:] = classes + 3
    assert metrics.macro_f1(labels, predicted) == metrics.accuracy(labels, predicted) == 0


@pytest.mark.parametrize("classes", [2, 7])
def test_confusion_and_class_metrics_agree_with_a_count(classes: int) -> None:
    """Random labels are counted one by one."""
    labels, predicted = np.random.default_rng(classes).integers(0, classes, (2, 50))
    counts = np.zeros((classes, classes), int)
    for label, prediction in zip(labels, predicted, strict=True):
        counts[label, prediction] += 1
    assert metrics.confusion(labels, predicted, classes).tolist() == counts.tolist()
    per_class = metrics.per_class_metrics(labels, predicted, classes)
    np.testing.assert_allclose(per_class["recall"], np.diag(counts) / counts.sum(axis=1))
    np.testing.assert_allclose(per_class["precision"], np.diag(counts) / counts.sum(axis=0))
    assert metrics.macro_f1(labels, predicted) == pytest.approx(per_class["f1"].mean())


@pytest.mark.parametrize(
    ("correct", "rows", "expected"),
    [(8, 10, (0.4902, 0.9433)), (0, 1, (0.0, 0.7935)), (10, 10, (0.7225, 1.0)), (81, 263, (0.2553, 0.3662))],
)
def test_the_interval_of_the_accuracy_is_wilsons(correct: int, rows: int, expected: tuple[float, float]) -> None:
    """Values of Newcombe (1998) and of hand calculation; it never leaves 0 to 1, also for a single row."""
    labels = np.zeros(rows, int)
    predicted = np.where(np.arange(rows) < correct, 0, 1)
    assert metrics.accuracy_interval(labels, predicted) == pytest.approx(expected, abs=1e-4)


def test_the_interval_of_macro_f1_is_that_of_resampled_rows() -> None:
    """Drawing counts of pairs of classes has the distribution of drawing rows; it is repeatable."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 4, 300)
    predicted = np.where(random.random(300) < 0.7, labels, random.integers(0, 4, 300))
    samples = (random.integers(0, 300, 300) for _ in range(3000))
    values = [metrics.macro_f1(labels[sample], predicted[sample]) for sample in samples]
    interval = metrics.macro_f1_interval(labels, predicted)
    assert interval == pytest.approx(np.percentile(values, [2.5, 97.5]), abs=0.01)
    assert interval == metrics.macro_f1_interval(labels, predicted)
    assert interval[0] < metrics.macro_f1(labels, predicted) < interval[1]
    wrong = metrics.macro_f1_interval(np.array([0]), np.array([1]))
    assert wrong == (0, 0)
