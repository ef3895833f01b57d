"""Metrics of predictions: hand-computed values, and those of scikit-learn on random labels."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef, recall_score

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


def draw_predictions(rows: int, classes: int, share: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return labels, and predictions of which about that share is correct."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, rows)
    wrong = (labels + random.integers(1, classes, rows)) % classes
    return labels, np.where(random.random(rows) < share, labels, wrong)


@pytest.mark.parametrize("classes", [2, 7, 40])
@pytest.mark.parametrize("rows", [2, 30, 300])
def test_balanced_accuracy_and_matthews_correlation_are_those_of_scikit_learn(classes: int, rows: int) -> None:
    """Classes may be missing; a constant prediction has the correlation 0."""
    labels, predicted = draw_predictions(rows, classes, 0.6, seed=rows)
    recall = recall_score(labels, predicted, labels=np.unique(labels), average="macro", zero_division=0.0)
    assert metrics.balanced_accuracy(labels, predicted) == pytest.approx(recall)
    assert metrics.matthews_correlation(labels, predicted) == pytest.approx(matthews_corrcoef(labels, predicted))
    assert metrics.matthews_correlation(labels, np.zeros_like(labels)) == 0


def test_the_intervals_are_those_of_resampled_rows() -> None:
    """Drawing counts of pairs of classes has the distribution of drawing rows; it is repeatable."""
    labels, predicted = draw_predictions(300, 4, 0.75)
    random = np.random.default_rng(0)
    samples = [random.integers(0, 300, 300) for _ in range(1000)]
    intervals = metrics.bootstrap_intervals(labels, predicted)
    assert intervals == metrics.bootstrap_intervals(labels, predicted)
    for metric, interval in intervals.items():
        compute = getattr(metrics, metric)
        values = [compute(labels[sample], predicted[sample]) for sample in samples]
        assert interval == pytest.approx(np.percentile(values, [2.5, 97.5]), abs=0.015)
        assert interval[0] < compute(labels, predicted) < interval[1]


def test_the_intervals_of_a_few_rows_claim_no_certainty() -> None:
    """Twenty correct rows may belong to a classifier with an error rate of a tenth; a single row says nothing."""
    labels = np.arange(20) % 2
    for low, high in metrics.bootstrap_intervals(labels, labels).values():
        assert 0.6 < low < 0.9
        assert high == 1
    for predicted in (0, 1):
        assert metrics.bootstrap_intervals(np.array([0]), np.array([predicted]))["macro_f1"] == (0, 1)


@pytest.mark.parametrize(("rows", "classes", "share"), [(20, 3, 0.95), (100, 20, 0.9)])
def test_the_intervals_contain_the_true_value_as_often_as_they_say(rows: int, classes: int, share: float) -> None:
    """Also for few rows, and for classes with few rows."""
    true = dict.fromkeys(("macro_f1", "balanced_accuracy"), share)
    true["matthews_correlation"] = share - (1 - share) / (classes - 1)
    hits = dict.fromkeys(true, 0)
    for seed in range(100):
        for metric, (low, high) in metrics.bootstrap_intervals(*draw_predictions(rows, classes, share, seed)).items():
            hits[metric] += low <= true[metric] <= high
    assert min(hits.values()) >= 90


def test_the_difference_of_paired_predictions_has_the_interval_of_bonett_and_price() -> None:
    """Only rows in which the predictions differ matter; few rows are no certainty."""
    labels = np.zeros(98, int)
    first, second = np.zeros(98, int), np.zeros(98, int)
    second[:10], first[10:14] = 1, 1
    # (11 - 5) / 100 -+ 1.96 * sqrt((11 + 5) / 100 - 0.06**2) / 10
    expected = 0.06 + np.array([-1, 1]) * 1.96 * (0.16 - 0.0036) ** 0.5 / 10
    assert metrics.accuracy_difference_interval(labels, first, second) == pytest.approx(expected, abs=1e-4)
    low, high = metrics.accuracy_difference_interval(labels[:3], second[20:23], second[:3])
    assert low < 0 < high
