"""Confident learning: the label errors of a dataset, from probabilities of a model that did not see the rows.

Northcutt, Jiang and Chuang (2021): Confident Learning: Estimating Uncertainty in Dataset Labels. JAIR 70. The names are
those of the paper: a row has a given label i and an unknown true label j.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class LabelErrors:
    """Ranking of rows by how likely their label is wrong.

    order: `(rows,)` int64, all rows, worst first. num_suspicious: so many of its first rows are likely label errors.
    suggested: `(rows,)` int64, the most probable other class. confidence: `(rows,)`, probability of the given label.
    joint: `(classes, classes)`, estimated share of the rows with given label i and true label j.
    """

    order: np.ndarray
    num_suspicious: int
    suggested: np.ndarray
    confidence: np.ndarray
    joint: np.ndarray


def compute_thresholds(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the mean probability of each class in the rows with that label (equation 2), `(classes,)`.

    The threshold of a class without rows is infinite.
    """
    classes = probabilities.shape[1]
    counts = np.bincount(labels, minlength=classes)
    sums = np.bincount(labels, weights=probabilities[np.arange(len(labels)), labels], minlength=classes)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.inf)


def count_confident_joint(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the confident joint (equation 1), `(classes, classes)` int64.

    A row with given label i is counted in column j if j is the most probable of the classes whose probability is at
    least the threshold of the class; without such a class the row is not counted.
    """
    classes = probabilities.shape[1]
    is_confident = probabilities >= compute_thresholds(probabilities, labels)
    true = np.where(is_confident, probabilities, -1).argmax(axis=1)
    counted = is_confident.any(axis=1)
    joint = np.zeros((classes, classes), np.int64)
    np.add.at(joint, (labels[counted], true[counted]), 1)
    return joint


def estimate_joint(confident_joint: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the joint distribution of given and true labels (equation 3), `(classes, classes)`, with the sum 1.

    The rows of the confident joint are scaled to the sizes of the classes. A class without counted rows has no errors.
    """
    counts = np.bincount(labels, minlength=len(confident_joint))
    sums = confident_joint.sum(axis=1)
    filled = confident_joint + np.diag(sums == 0)
    joint = filled / filled.sum(axis=1, keepdims=True) * counts[:, None]
    return np.asarray(joint / joint.sum())


def find_label_errors(probabilities: np.ndarray, labels: np.ndarray) -> LabelErrors:
    """Return the rows by how likely their label is wrong, with "prune by class" (section 3.2 of the paper).

    Of each class as many rows as the joint distribution has errors are suspicious: those with the lowest probability of
    their label.

    Args:
        probabilities: `(rows, classes)`, out of fold. labels: `(rows,)` int64, the given labels.
    """
    rows = np.arange(len(labels))
    joint = estimate_joint(count_confident_joint(probabilities, labels), labels)
    errors = np.rint(len(labels) * (joint.sum(axis=1) - joint.diagonal())).astype(np.int64)
    confidence = probabilities[rows, labels]
    others = probabilities.copy()
    others[rows, labels] = -1
    by_confidence = np.argsort(confidence, kind="stable")
    grouped = by_confidence[np.argsort(labels[by_confidence], kind="stable")]  # by class, then by confidence
    counts = np.bincount(labels, minlength=len(errors))
    ranks = np.empty(len(labels), np.int64)  # of each row in its class
    ranks[grouped] = rows - np.repeat(np.cumsum(counts) - counts, counts)
    is_suspicious = ranks < errors[labels]
    order = by_confidence[np.argsort(~is_suspicious[by_confidence], kind="stable")]
    return LabelErrors(order, int(is_suspicious.sum()), others.argmax(axis=1), confidence, joint)
