"""Metrics of predicted classes with confidence intervals, and the temperature that calibrates scores.

Labels are class indices, `(rows,)` int64. The values are those of scikit-learn, whose import takes a worker longer than
its first epochs.
"""

from collections.abc import Container
from dataclasses import dataclass

import numpy as np

from jobs.config.limits import MAX_TEMPERATURE, MIN_TEMPERATURE

NORMAL_QUANTILE = 1.959964  # of 97.5 %, for intervals of 95 %
NUM_RESAMPLES = 1000
WHOLE_ROWS = 1e9  # so many that the shares of the pairs of classes are exact
BLOCK_RESAMPLES = 100  # drawn at once, which limits the memory

# Standard deviation of the prior of the inverse temperature, whose mean is 1. With hundreds of validation rows it has
# no effect. Without it, a few rows that are all predicted correctly would make every prediction certain.
PRIOR_DEVIATION = 0.5
MAX_FITTED_VALUES = 500_000  # logits that a temperature is fitted to; millions take a second
MAX_ITERATIONS = 50

Interval = tuple[float, float]
"""Lower and upper end of a 95 % confidence interval."""


@dataclass(frozen=True)
class ClassCounts:
    """Rows of each class in one or more samples, `(..., classes)`: correct ones, those with it as true class, and those
    with it as predicted class."""

    correct: np.ndarray
    true: np.ndarray
    predicted: np.ndarray

    def macro_f1(self) -> np.ndarray:
        """Return the mean F1 of the classes that occur as true or predicted class, `(...)`."""
        total = self.true + self.predicted
        return np.asarray((2 * self.correct / np.maximum(total, 1)).sum(-1) / np.maximum((total > 0).sum(-1), 1))

    def balanced_accuracy(self) -> np.ndarray:
        """Return the mean recall of the classes that occur as true class, `(...)`."""
        recall = self.correct / np.maximum(self.true, 1)
        return np.asarray(recall.sum(-1) / np.maximum((self.true > 0).sum(-1), 1))

    def matthews_correlation(self) -> np.ndarray:
        """Return the correlation of true and predicted class (Gorodkin 2004), `(...)`; 0 if either is a single one."""
        rows = self.true.sum(-1).astype(float)
        covariance = self.correct.sum(-1) * rows - (self.true * self.predicted).sum(-1, dtype=float)
        variances = [rows**2 - (counts.astype(float) ** 2).sum(-1) for counts in (self.true, self.predicted)]
        product = variances[0] * variances[1]
        return np.asarray(np.where(product > 0, covariance / np.sqrt(np.where(product > 0, product, 1)), 0.0))


# Metrics whose intervals are a bootstrap.
RESAMPLED_METRICS = {
    "macro_f1": ClassCounts.macro_f1,
    "balanced_accuracy": ClassCounts.balanced_accuracy,
    "matthews_correlation": ClassCounts.matthews_correlation,
}


def accuracy(labels: np.ndarray, predicted: np.ndarray) -> float:
    """Return the share of correct predictions."""
    return float(np.mean(labels == predicted))


def accuracy_interval(labels: np.ndarray, predicted: np.ndarray) -> tuple[float, float]:
    """Return the 95 % confidence interval of the accuracy."""
    return share_interval(int(np.sum(labels == predicted)), len(labels))


def share_interval(count: int, rows: int) -> Interval:
    """Return the 95 % confidence interval of a share of some rows; all shares without rows.

    It is Wilson's (1927), which suits few rows and shares near 1.
    """
    if not rows:
        return 0.0, 1.0
    share, square = count / rows, NORMAL_QUANTILE**2 / rows
    center = (share + square / 2) / (1 + square)
    half = (share * (1 - share) * square + square**2 / 4) ** 0.5 / (1 + square)
    return max(0.0, center - half), min(1.0, center + half)


def macro_f1(labels: np.ndarray, predicted: np.ndarray) -> float:
    """Return the mean F1 of the classes that occur in the labels or the predictions."""
    return float(count_classes(labels, predicted).macro_f1())


def balanced_accuracy(labels: np.ndarray, predicted: np.ndarray) -> float:
    """Return the mean recall of the classes that occur in the labels."""
    return float(count_classes(labels, predicted).balanced_accuracy())


def matthews_correlation(labels: np.ndarray, predicted: np.ndarray) -> float:
    """Return the Matthews correlation coefficient, 0 if all labels or all predictions are equal."""
    return float(count_classes(labels, predicted).matthews_correlation())


def count_classes(labels: np.ndarray, predicted: np.ndarray) -> ClassCounts:
    """Return the rows of each class up to the greatest index that occurs, `(classes,)`."""
    size = 1 + max(labels.max(initial=-1), predicted.max(initial=-1))
    selections = (labels[labels == predicted], labels, predicted)
    return ClassCounts(*(np.bincount(selection, minlength=size) for selection in selections))


def bootstrap_intervals(
    labels: np.ndarray, predicted: np.ndarray, seed: int = 0, names: Container[str] = RESAMPLED_METRICS
) -> dict[str, Interval]:
    """Return the confidence intervals of the metrics with these names, of those of RESAMPLED_METRICS.

    They are percentiles of resampled rows (bootstrap, Efron 1979). To these rows a correct and a wrong one are added,
    divided between the classes by their sizes, as for proportions (Agresti & Caffo 2000): rows that are all correct do
    not make the metric certain, the less so the fewer they are. With rare classes, the macro F1 of resampled rows is
    lower than that of the rows, as that is lower than the one of all texts; its interval is moved by both differences.
    """
    size = max(2, 1 + max(labels.max(initial=-1), predicted.max(initial=-1)))
    # To draw rows with replacement is to draw the counts of the pairs of classes that occur.
    pairs, counts = np.unique(labels * size + predicted, return_counts=True)
    present, support = np.unique(labels, return_counts=True)
    occurring = np.union1d(labels, predicted)
    if len(occurring) == 1:
        occurring = np.union1d(occurring, (occurring + 1) % size)
    wrong = np.roll(occurring, -1)[np.searchsorted(occurring, present)]  # another class for each
    true = np.concatenate([pairs // size, present, present])
    other = np.concatenate([pairs % size, present, wrong])
    shares = np.concatenate([counts, support / len(labels), support / len(labels)]) / (len(labels) + 2)
    random = np.random.default_rng(seed)
    resampled = [
        _count_samples(random.multinomial(len(labels), shares / shares.sum(), BLOCK_RESAMPLES), true, other, size)
        for _ in range(NUM_RESAMPLES // BLOCK_RESAMPLES)
    ]
    whole = _count_samples(np.rint(shares[None] * WHOLE_ROWS), true, other, size)
    intervals = {}
    for metric, compute in RESAMPLED_METRICS.items():
        if metric not in names:
            continue
        values = np.concatenate([compute(counts) for counts in resampled])
        estimate = float(compute(count_classes(labels, predicted)))
        expected = float(compute(whole)[0]) if metric == "macro_f1" else None
        intervals[metric] = percentile_interval(values, estimate, expected)
    return intervals


def percentile_interval(values: np.ndarray, estimate: float, expected: float | None = None) -> Interval:
    """Return the confidence interval of a metric, which contains its estimate.

    Args:
        values: of resampled rows, `(samples,)`. expected: value of the rows that these are drawn from; where the mean
            is lower, the interval is moved by twice the difference. None: it is not moved.
    """
    bias = 0.0 if expected is None else max(0.0, float(expected - values.mean()))
    low, high = np.percentile(values, [2.5, 97.5]) + 2 * bias
    return min(float(low), float(estimate)), min(1.0, max(float(high), float(estimate)))


def _count_samples(samples: np.ndarray, true: np.ndarray, other: np.ndarray, size: int) -> ClassCounts:
    """Return the counts of samples, `(samples, size)`, of rows by pair of true and predicted class."""
    selections = ((samples * (true == other), true), (samples, true), (samples, other))
    return ClassCounts(*(_sum_by_class(values, classes, size) for values, classes in selections))


def _sum_by_class(samples: np.ndarray, classes: np.ndarray, size: int) -> np.ndarray:
    """Return the sums of columns with the same class, `(samples, size)`, of samples `(samples, columns)`."""
    order = np.argsort(classes, kind="stable")
    names, starts = np.unique(classes[order], return_index=True)
    sums = np.zeros((len(samples), size), samples.dtype)
    sums[:, names] = np.add.reduceat(samples[:, order], starts, axis=1)
    return sums


def accuracy_difference_interval(labels: np.ndarray, first: np.ndarray, second: np.ndarray) -> Interval:
    """Return the confidence interval of the accuracy of predictions minus that of others of the same rows.

    It is that of paired proportions (Bonett & Price 2012): one row that only the first predicts correctly is added, and
    one that only the second does.
    """
    differences = np.concatenate([(first == labels) * 1.0 - (second == labels), [1.0, -1.0]])
    mean, deviation = float(differences.mean()), float(differences.std())
    half = NORMAL_QUANTILE * deviation / len(differences) ** 0.5
    return max(-1.0, mean - half), min(1.0, mean + half)


def confusion(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """Return counts `(classes, classes)`, int64: rows are the true class, columns the predicted one."""
    counts = np.bincount(labels * num_classes + predicted, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


def list_cells(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the true class, the predicted class and the count of each cell of `confusion` that is not 0.

    The largest counts are first, `(cells,)` int64 each; equal ones are in the order of the classes.
    """
    true, predicted = np.nonzero(counts)
    values = counts[true, predicted]
    order = np.argsort(-values, kind="stable")
    return true[order], predicted[order], values[order]


def per_class_metrics(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> dict[str, np.ndarray]:
    """Return precision, recall, f1, `(classes,)` float64, and support (rows), `(classes,)` int64.

    Where a value would be divided by zero, it is 0.
    """
    correct = np.bincount(labels[labels == predicted], minlength=num_classes)
    support = np.bincount(labels, minlength=num_classes)
    num_predicted = np.bincount(predicted, minlength=num_classes)
    return {
        "precision": correct / np.maximum(num_predicted, 1),
        "recall": correct / np.maximum(support, 1),
        "f1": 2 * correct / np.maximum(num_predicted + support, 1),
        "support": support,
    }


class LogitSample:
    """Logits of validation rows that calibrate a network: of all rows, or of rows at equal distances.

    With several labels per text they are those of all rows: thresholds of rare labels need every row.

    labels: of these rows; logits: `(rows, classes)`; both without rows until logits are added.

    Args:
        labels: class indices of all validation rows, `(rows,)`; or `(rows, labels)` of 0 and 1.
    """

    def __init__(self, labels: np.ndarray, num_classes: int) -> None:
        fitted_stride = max(1, -(-len(labels) * num_classes // MAX_FITTED_VALUES))
        self._stride, self._fitted_stride = (1, fitted_stride) if labels.ndim == 2 else (fitted_stride, 1)
        self._labels = labels[:: self._stride]
        self._logits = np.zeros((len(self._labels), num_classes), np.float32 if labels.ndim == 2 else np.float64)
        self._is_empty = True
        self._temperature: float | None = None  # of these logits, once it is fitted

    @property
    def is_multi_label(self) -> bool:
        """Whether a row may have several labels."""
        return self._labels.ndim == 2

    @property
    def labels(self) -> np.ndarray:
        """Labels of the sampled rows."""
        return self._labels[: 0 if self._is_empty else None]

    @property
    def logits(self) -> np.ndarray:
        """Logits of the sampled rows, `(rows, classes)`; float32 with several labels per text, else float64."""
        return self._logits[: 0 if self._is_empty else None]

    def select(self, values: np.ndarray) -> np.ndarray:
        """Return those of the values of all validation rows, `(rows,)`, that belong to the sampled rows."""
        return values[:: self._stride]

    def add(self, rows: np.ndarray, logits: np.ndarray) -> None:
        """Add, or replace, the logits `(len(rows), classes)` of some rows, given by their numbers."""
        self._is_empty, self._temperature = False, None
        is_sampled = rows % self._stride == 0
        self.logits[rows[is_sampled] // self._stride] = logits[is_sampled]

    def fit_temperature(self) -> float:
        """Return the temperature; 1 without logits."""
        if self._temperature is None:
            stride = self._fitted_stride
            self._temperature = fit_temperature(self.logits[::stride], self.labels[::stride])
        return self._temperature


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the temperature with which the probabilities have the least cross-entropy.

    The loss is convex in the inverse temperature; Newton's method with bisection finds its minimum.

    Args:
        logits: `(rows, classes)`, finite. labels: class indices, `(rows,)`; or `(rows, labels)` of 0 and 1, whose
            probabilities are those of the sigmoid function.
    """
    if labels.ndim == 2:  # of each label, the classes are not to have it, and to have it
        logits = np.stack([np.zeros(logits.size), logits.reshape(-1)], axis=1)
        labels = labels.reshape(-1)
    margins = logits.astype(np.float64) - logits[np.arange(len(labels)), labels][:, None]
    low, high, inverse = 1 / MAX_TEMPERATURE, 1 / MIN_TEMPERATURE, 1.0
    for _ in range(MAX_ITERATIONS):
        probabilities = softmax(inverse * margins)
        means = (probabilities * margins).sum(axis=1)  # derivative of each row's loss
        slope = means.sum() + (inverse - 1) / PRIOR_DEVIATION**2
        variances = (probabilities * margins**2).sum() - (means**2).sum()
        low, high = (low, inverse) if slope > 0 else (inverse, high)
        previous, inverse = inverse, float(inverse - slope / (variances + PRIOR_DEVIATION**-2))
        if not low <= inverse <= high:
            inverse = (low + high) / 2
        if abs(inverse - previous) < 1e-9:
            break
    return 1 / inverse


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return the probabilities of logits, `(rows, classes)`."""
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True))
