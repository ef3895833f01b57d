"""Rarity of classes, with which the weights of the linear classifier's scores grow.

    weight of a class = weight of the most frequent class + growth * rarity
    rarity = log((rows of the most frequent class + 1) / (rows of the class + 1))

A network learns little about a class with few rows, so rarer classes have higher weights. Two numbers describe the
weights of all classes, since a rare class has too few validation rows for a number of its own.
"""

from typing import TYPE_CHECKING

import numpy as np

from jobs.config.limits import MAX_LINEAR_WEIGHT

if TYPE_CHECKING:
    from jobs.training.corpora.corpus import Corpus


def compute_rarity(corpus: "Corpus") -> np.ndarray:
    """Return the rarity of each class in the training rows, `(classes,)` float64.

    It is 0 without rows: a linear classifier that a continued run keeps has learned such a class from other rows.
    """
    labels = corpus.train.labels
    is_multi_label = labels.ndim == 2
    rows = labels.sum(axis=0, dtype=np.int64) if is_multi_label else np.bincount(labels, minlength=len(corpus.labels))
    return np.where(rows > 0, np.log((rows.max(initial=0) + 1) / (rows + 1)), 0.0)


def find_weight_and_growth(weights: np.ndarray, rarity: np.ndarray) -> tuple[float, float]:
    """Return the weight of the most frequent class and the growth that describe weights, `(classes,)` each.

    They are within the limits of the settings that a refit has them in.
    """
    weights = np.broadcast_to(weights, rarity.shape)  # (1,) if an earlier version wrote them
    first, last = int(rarity.argmin()), int(rarity.argmax())
    if rarity[last] == rarity[first]:
        return float(weights[first]), 0.0
    growth = float(weights[last] - weights[first]) / float(rarity[last] - rarity[first])
    return float(weights[first]), min(max(0.0, growth), MAX_LINEAR_WEIGHT)
