"""How good predictions are. Labels are numbers, `(rows,)` int64."""

import numpy as np


def accuracy(labels: np.ndarray, predicted: np.ndarray) -> float:
    """Return the share of rows predicted right."""
    return float(np.mean(labels == predicted))


def macro_f1(labels: np.ndarray, predicted: np.ndarray) -> float:
    """Return the mean over classes of F1; a class that is never there and never predicted does not count.

    As scikit-learn's, whose import takes a worker longer than its first epochs.
    """
    right = np.bincount(labels[labels == predicted])
    counts = np.bincount(labels, minlength=len(right)), np.bincount(predicted, minlength=len(right))
    there = np.zeros(max(map(len, counts)), np.int64)  # F1 is 2 * right / there
    for count in counts:
        there[: len(count)] += count
    classes = np.flatnonzero(there)
    return float(np.mean([2 * right[each] / there[each] if each < len(right) else 0.0 for each in classes]))


def confusion(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """Return counts `(classes, classes)`: rows are the true class, columns the predicted one."""
    from sklearn.metrics import confusion_matrix

    return confusion_matrix(labels, predicted, labels=np.arange(num_classes))


def per_class_metrics(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> dict[str, np.ndarray]:
    """Return precision, recall, f1 and support (rows), each `(classes,)`."""
    from sklearn.metrics import precision_recall_fscore_support

    values = precision_recall_fscore_support(labels, predicted, labels=np.arange(num_classes), zero_division=0.0)
    return dict(zip(("precision", "recall", "f1", "support"), values, strict=True))
