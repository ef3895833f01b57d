"""Metrics of predicted classes, and their confidence intervals. Labels are class indices, `(rows,)` int64.

The values are those of scikit-learn, whose import takes a worker longer than its first epochs.
"""

import numpy as np

NORMAL_QUANTILE = 1.959964  # of 97.5 %, for intervals of 95 %
NUM_RESAMPLES = 1000


def accuracy(labels: np.ndarray, predicted: np.ndarray) -> float:
    """Return the share of correct predictions."""
    return float(np.mean(labels == predicted))


def accuracy_interval(labels: np.ndarray, predicted: np.ndarray) -> tuple[float, float]:
    """Return the 95 % confidence interval of the accuracy (Wilson 1927), which suits small parts and shares near 1."""
    rows, share = len(labels), accuracy(labels, predicted)
    square = NORMAL_QUANTILE**2 / rows
    center = (share + square / 2) / (1 + square)
    half = np.sqrt(share * (1 - share) * square + square**2 / 4) / (1 + square)
    return float(max(0.0, center - half)), float(min(1.0, center + half))


def macro_f1(labels: np.ndarray, predicted: np.ndarray) -> float:
    """Return the mean F1 of the classes that occur in the labels or the predictions."""
    size = 1 + max(labels.max(initial=-1), predicted.max(initial=-1))
    correct = np.bincount(labels[labels == predicted], minlength=size)
    return _average_f1(correct, np.bincount(labels, minlength=size) + np.bincount(predicted, minlength=size))


def macro_f1_interval(labels: np.ndarray, predicted: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """Return the 95 % confidence interval of the macro F1: percentiles of resampled rows (bootstrap, Efron 1979)."""
    size = 1 + max(labels.max(initial=-1), predicted.max(initial=-1))
    # To draw rows with replacement is to draw the counts of the pairs of classes that occur.
    pairs, counts = np.unique(labels * size + predicted, return_counts=True)
    true, other = np.divmod(pairs, size)
    is_correct = true == other
    random = np.random.default_rng(seed)
    values = []
    for _ in range(NUM_RESAMPLES):
        sample = random.multinomial(len(labels), counts / len(labels))
        correct = np.bincount(true[is_correct], sample[is_correct], size)
        values.append(_average_f1(correct, np.bincount(true, sample, size) + np.bincount(other, sample, size)))
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def _average_f1(correct: np.ndarray, total: np.ndarray) -> float:
    """Return the mean F1 of the classes that occur; total: rows with the class plus rows with its prediction."""
    occurs = total > 0
    return float(np.mean(2 * correct[occurs] / total[occurs]))


def confusion(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """Return counts `(classes, classes)`, int64: rows are the true class, columns the predicted one."""
    counts = np.bincount(labels * num_classes + predicted, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


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
