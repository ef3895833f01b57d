"""Figures that can be worked out by hand."""

import numpy as np
import pytest

from jobs.evaluation import metrics

LABELS = np.array([0, 0, 0, 1, 1, 2])
PREDICTED = np.array([0, 0, 1, 1, 1, 0])


def test_figures() -> None:
    """Class 2 is never predicted: precision, recall and F1 are 0."""
    assert metrics.accuracy(LABELS, PREDICTED) == pytest.approx(4 / 6)
    assert metrics.macro_f1(LABELS, PREDICTED) == pytest.approx((2 / 3 + 4 / 5 + 0) / 3)
    assert metrics.confusion(LABELS, PREDICTED, 3).tolist() == [[2, 1, 0], [0, 2, 0], [1, 0, 0]]
    found = metrics.per_class_metrics(LABELS, PREDICTED, 3)
    np.testing.assert_allclose(found["precision"], [2 / 3, 2 / 3, 0])
    np.testing.assert_allclose(found["recall"], [2 / 3, 1, 0])
    assert found["support"].tolist() == [3, 2, 1]


def test_a_class_that_is_not_in_the_rows_has_its_place() -> None:
    """Rows and columns stay those of the checkpoint's labels."""
    assert metrics.confusion(LABELS, PREDICTED, 4).shape == (4, 4)
    assert metrics.per_class_metrics(LABELS, PREDICTED, 4)["support"].tolist() == [3, 2, 1, 0]


@pytest.mark.parametrize("classes", [1, 2, 7, 40])
def test_macro_f1_is_scikit_learns(classes: int) -> None:
    """Also where classes are missing among the labels, the predictions, or both."""
    from sklearn.metrics import f1_score

    random = np.random.default_rng(classes)
    for rows in (1, 5, 300):
        labels, predicted = random.integers(0, classes, (2, rows))
        expected = f1_score(labels, predicted, average="macro", zero_division=0.0)
        assert metrics.macro_f1(labels, predicted) == pytest.approx(expected)
        predicted[:] = classes + 3
        assert metrics.macro_f1(labels, predicted) == 0
