"""Metrics of predictions of several labels per text; the values are those of scikit-learn.

Labels and predictions are `(rows, labels)` arrays of 0 and 1, scores `(rows, labels)`. A metric that would be divided
by zero is 0.
"""

from dataclasses import dataclass

import numpy as np

PRECISION_AT = (1, 3, 5)
METRIC_NAMES = {
    "micro_f1": "micro F1",
    "macro_f1": "macro F1",
    "micro_precision": "micro precision",
    "micro_recall": "micro recall",
    "accuracy": "all labels correct",
    "mean_average_precision": "mean average precision",
}


@dataclass(frozen=True)
class LabelMetrics:
    """Metrics of predicted labels. accuracy: share of rows whose labels are all correct; precision_at: by k."""

    micro_f1: float
    macro_f1: float
    micro_precision: float
    micro_recall: float
    accuracy: float
    mean_average_precision: float
    precision_at: dict[str, float]

    def to_rows(self) -> dict[str, float]:
        """Return the values by the name that a table shows."""
        values = {name: float(getattr(self, metric)) for metric, name in METRIC_NAMES.items()}
        return values | {f"P@{k}": value for k, value in self.precision_at.items()}


@dataclass(frozen=True)
class LabelCounts:
    """Rows of each label, `(labels,)` int64: those that have it and get it, those that have it, those that get it."""

    correct: np.ndarray
    true: np.ndarray
    predicted: np.ndarray

    def micro_f1(self) -> float:
        """Return the F1 of all pairs of a row and a label."""
        return float(2 * self.correct.sum() / max(self.true.sum() + self.predicted.sum(), 1))

    def macro_f1(self) -> float:
        """Return the mean F1 of the labels; that of a label that no row has or gets is 0."""
        return float(self.per_label()["f1"].mean())

    def micro_precision(self) -> float:
        """Return the share of correct labels among those that rows get."""
        return float(self.correct.sum() / max(self.predicted.sum(), 1))

    def micro_recall(self) -> float:
        """Return the share of labels that rows have which they also get."""
        return float(self.correct.sum() / max(self.true.sum(), 1))

    def per_label(self) -> dict[str, np.ndarray]:
        """Return precision, recall, f1, `(labels,)` float64, and support (rows), `(labels,)` int64."""
        return {
            "precision": self.correct / np.maximum(self.predicted, 1),
            "recall": self.correct / np.maximum(self.true, 1),
            "f1": 2 * self.correct / np.maximum(self.predicted + self.true, 1),
            "support": self.true,
        }


def count_labels(labels: np.ndarray, predicted: np.ndarray) -> LabelCounts:
    """Return the counts of predictions."""
    true, own = labels.astype(bool), predicted.astype(bool)
    return LabelCounts((true & own).sum(axis=0), true.sum(axis=0), own.sum(axis=0))


def compute_metrics(labels: np.ndarray, predicted: np.ndarray, scores: np.ndarray) -> LabelMetrics:
    """Return the metrics of predictions, `(rows, labels)` each."""
    counts = count_labels(labels, predicted)
    return LabelMetrics(
        counts.micro_f1(),
        counts.macro_f1(),
        counts.micro_precision(),
        counts.micro_recall(),
        subset_accuracy(labels, predicted),
        mean_average_precision(labels, scores),
        {str(k): precision_at(k, labels, scores) for k in PRECISION_AT if k <= labels.shape[1]},
    )


def subset_accuracy(labels: np.ndarray, predicted: np.ndarray) -> float:
    """Return the share of rows that get exactly the labels that they have."""
    return float(np.mean((labels.astype(bool) == predicted.astype(bool)).all(axis=1)))


def precision_at(k: int, labels: np.ndarray, scores: np.ndarray) -> float:
    """Return the mean share of correct labels among the k best ones of a row; rows without a label count as well."""
    k = min(k, labels.shape[1])
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return float(np.take_along_axis(labels, best, axis=1).mean())


def mean_average_precision(labels: np.ndarray, scores: np.ndarray) -> float:
    """Return the mean average precision of the labels that rows have.

    That of a label is the mean, over the rows with it, of the precision among the rows with at least as high a score.
    """
    present = np.flatnonzero(labels.any(axis=0))
    values = [_average_precision(labels[:, label], scores[:, label]) for label in present]
    return float(np.mean(values)) if values else 0.0


def _average_precision(labels: np.ndarray, scores: np.ndarray) -> float:
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    last = np.append(ordered[1:] != ordered[:-1], True)  # of the rows with the same score
    correct = np.cumsum(labels[order], dtype=np.int64)[last]
    precision = correct / (np.flatnonzero(last) + 1)
    return float((np.diff(correct, prepend=0) * precision).sum() / correct[-1])


def encode_row_counts(labels: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Return a number for each row, `(rows,)` int64, that `decode_row_counts` reads."""
    true, own = labels.astype(bool), predicted.astype(bool)
    numbers: np.ndarray = (true & own).sum(axis=1) * (labels.shape[1] + 1) + own.sum(axis=1)
    return numbers


def decode_row_counts(numbers: np.ndarray, num_labels: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the correct labels of each row, and all labels that it gets, `(rows,)` int64 each."""
    return np.divmod(numbers.astype(np.int64), num_labels + 1)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Return the probabilities of logits, of the same shape and type."""
    with np.errstate(over="ignore"):  # exp of a large number is infinite, and the result 0
        return np.asarray(1 / (1 + np.exp(-logits)))
