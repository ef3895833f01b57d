"""Test of whether one kind of embedding is better than another: paired by validation rows and seeds.

Trials predict the same rows, so their difference is known row by row. It varies with the rows, which are a sample of
all texts, and with the seeds, so both are random effects: the variance of the mean difference is the sum of those of
its means by row and by seed. The rows also decided which settings are the best ones of each kind, and so are the better
for them the more trials there were; benchmarks/verdict.py measures how often the test is wrong.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jobs.evaluation.multi_label.metrics import decode_row_counts

CONFIDENCE = 0.95
NUM_RESAMPLES = 1000
MAX_COMPARED_TRIALS = 200  # worse ones are hardly ever the best by chance


@dataclass(frozen=True)
class KindRows:
    """Value of every validation row in the trials of a kind of embedding, such that the mean over rows is the metric.

    searched: `(trials, rows)`, of the trials among which the best settings were chosen. repeated: `(seeds, rows)`, of
    the best settings with other seeds; those of two kinds that are compared have the same seeds.
    """

    searched: np.ndarray
    repeated: np.ndarray


@dataclass(frozen=True)
class Gain:
    """Gain of one kind over another, and its 95 % confidence interval.

    seeds_dominate: the seeds widen the interval more than the rows.
    """

    mean: float
    low: float
    high: float
    seeds_dominate: bool


def compute_row_values(metric: str, labels: np.ndarray, predicted: np.ndarray) -> np.ndarray | None:
    """Return a value of each row whose mean is the metric, `(rows,)`; None for metrics other than accuracy, macro_f1,
    and, with several labels per text, accuracy and micro_f1.

    That of an F1 is linear in the rows: the metric, and the derivative of the metric by the weight of the row.

    Args:
        labels, predicted: class indices, `(rows,)` int64; with several labels per text, labels are `(rows, labels)` of
            0 and 1, and predicted as of `encode_row_counts`.
    """
    if labels.ndim == 2:
        return _compute_multi_label_values(metric, labels, predicted)
    is_correct = labels == predicted
    if metric == "accuracy":
        return np.asarray(is_correct, float)
    if metric != "macro_f1":
        return None
    size = 1 + max(labels.max(), predicted.max())
    total = np.bincount(labels, minlength=size) + np.bincount(predicted, minlength=size)
    f1 = 2 * np.bincount(labels[is_correct], minlength=size) / np.maximum(total, 1)
    weights = len(labels) / np.maximum(total, 1) / (total > 0).sum()
    return np.asarray(
        f1[total > 0].mean()
        + 2 * weights[labels] * is_correct
        - f1[labels] * weights[labels]
        - f1[predicted] * weights[predicted]
    )


def _compute_multi_label_values(metric: str, labels: np.ndarray, predicted: np.ndarray) -> np.ndarray | None:
    correct, assigned = decode_row_counts(predicted, labels.shape[1])
    true = labels.sum(axis=1, dtype=np.int64)
    if metric == "accuracy":
        return np.asarray((correct == true) & (correct == assigned), float)
    if metric != "micro_f1":
        return None
    total = np.maximum((true + assigned).mean(), 1 / len(true))
    f1 = 2 * correct.mean() / total
    return np.asarray(f1 + (2 * correct - f1 * (true + assigned)) / total)


def compare_kinds(first: KindRows, second: KindRows, class_sizes: Sequence[int], num_choices: int = 1) -> Gain:
    """Return the gain of the first kind over the second.

    A row that only the first predicts correctly is added, and one that only the second does (Bonett & Price 2012): few
    rows that all speak for one kind are no certainty.

    Args:
        class_sizes: number of rows of each class by which the metric weights the rows; of one class for the accuracy.
        num_choices: number of kinds of which the first is the best one; the interval is wider (Bonferroni).
    """
    import scipy.stats

    differences = first.repeated - second.repeated
    seeds, rows = differences.shape
    effective_rows = len(class_sizes) ** 2 / sum(1 / size for size in class_sizes)
    weight = (rows / effective_rows) ** 0.5
    by_row = np.append(differences.mean(axis=0), [weight, -weight])
    row_variance = float(by_row.var(ddof=1)) / len(by_row)
    seed_variance = float(differences.mean(axis=1).var(ddof=1)) / seeds
    variance = row_variance + seed_variance
    # Satterthwaite (1946)
    freedom = variance**2 / (row_variance**2 / (effective_rows + 1) + seed_variance**2 / (seeds - 1))
    margin = variance**0.5 * float(scipy.stats.t.ppf(1 - (1 - CONFIDENCE) / 2 / num_choices, freedom))
    center = float(by_row.mean())
    bias = estimate_optimism(first.searched) - estimate_optimism(second.searched)
    return Gain(
        float(differences.mean()),
        center - margin - max(0.0, bias),
        center + margin - min(0.0, bias),
        seed_variance > row_variance,
    )


def estimate_optimism(searched: np.ndarray, seed: int = 0) -> float:
    """Return by how much the best of several trials is too good on average, because it was chosen on these rows.

    The means of the trials vary with the rows as their covariance over the rows implies (parametric bootstrap).

    Args:
        searched: values of the rows, `(trials, rows)`.
    """
    means = searched.mean(axis=1)
    best = np.argsort(-means, kind="stable")[:MAX_COMPARED_TRIALS]
    centered = searched[best] - means[best, None]
    covariance = centered @ centered.T / searched.shape[1] ** 2
    # A factor of a covariance that need not have full rank.
    values, vectors = np.linalg.eigh(covariance)
    factor = vectors * np.sqrt(np.maximum(values, 0))
    errors = np.random.default_rng(seed).standard_normal((NUM_RESAMPLES // 2, len(best))) @ factor.T
    errors = np.concatenate([errors, -errors])  # with the mean 0
    chosen = (means[best] + errors).argmax(axis=1)
    return float(errors[np.arange(len(errors)), chosen].mean())
