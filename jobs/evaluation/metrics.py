"""Metrics of predicted classes. Labels are class indices, `(rows,)` int64."""

import numpy as np


def accuracy(labels: np.ndarray, predicted: np.ndarray) -> float:
    """Return the share of correct predictions."""
    return float(np.mean(labels == predicted))


def macro_f1(labels: np.ndarray, predicted: np.ndarray) -> float:
    """Return the mean F1 of the classes that occur in the labels or the predictions.

    The value is that of scikit-learn, whose import takes a worker longer than its first epochs.
    """
    size = 1 + max(labels.max(initial=-1), predicted.max(initial=-1))
    correct = np.bincount(labels[labels == predicted], minlength=size)
    total = np.bincount(labels, minlength=size) + np.bincount(predicted, minlength=size)
    occurs = total > 0
    return float(np.mean(2 * correct[occurs] / total[occurs]))


def confusion(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """Return counts `(classes, classes)`: rows are the true class, columns the predicted one."""
    from sklearn.metrics import confusion_matrix

    return np.asarray(confusion_matrix(labels, predicted, labels=np.arange(num_classes)))


def per_class_metrics(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> dict[str, np.ndarray]:
    """Return precision, recall, f1 and support (rows), each `(classes,)`."""
    from sklearn.metrics import precision_recall_fscore_support

    values = precision_recall_fscore_support(labels, predicted, labels=np.arange(num_classes), zero_division=0.0)
    return dict(zip(("precision", "recall", "f1", "support"), values, strict=True))
