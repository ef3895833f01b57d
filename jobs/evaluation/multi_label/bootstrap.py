"""Confidence intervals of F1 with several labels per text: percentiles of resampled rows (bootstrap, Efron 1979).

As with one label per text, a correct and a wrong row are added to the rows, which have the labels of an average one:
rows that are all correct do not make a metric certain, the less so the fewer they are.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from jobs.evaluation.metrics import NUM_RESAMPLES, Interval, percentile_interval

if TYPE_CHECKING:
    from scipy.sparse import csr_array

BLOCK_RESAMPLES = 50  # drawn at once, which limits the memory


def bootstrap_f1(labels: np.ndarray, predicted: np.ndarray, seed: int = 0) -> tuple[Interval, Interval]:
    """Return the 95 % confidence intervals of the micro F1 and of the macro F1.

    Rare labels are missing in some of the resampled rows, so the interval of the macro F1 is moved as with one label
    per text. A label that no row has or gets counts as 0.

    Args:
        labels, predicted: `(rows, labels)` of 0 and 1.
    """
    indices, repeats = _group_rows(labels, predicted)
    counts = _count_rows(labels, predicted, indices)
    num_labels = labels.shape[1]

    def compute(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the micro and the macro F1 of sums, `(samples, 2 * labels)`."""
        correct, total = sums[:, :num_labels], sums[:, num_labels:]
        return _f1(correct.sum(axis=1), total.sum(axis=1)), _f1(correct, total).mean(axis=1)

    blocks = [compute((counts.T @ drawn.T).T) for drawn in _draw_rows(repeats, seed)]
    micro, macro = (np.concatenate(values) for values in zip(*blocks, strict=True))
    [own_micro], [own_macro] = compute((repeats @ counts[:-2])[None])
    [whole] = compute((np.append(repeats, [1, 1]) @ counts)[None])[1]
    return percentile_interval(micro, own_micro), percentile_interval(macro, own_macro, whole)


def bootstrap_micro_f1(labels: np.ndarray, predicted: np.ndarray, seed: int = 0) -> Interval:
    """Return the 95 % confidence interval of the micro F1 alone, as of `bootstrap_f1`."""
    indices, repeats = _group_rows(labels, predicted)
    sums = _sum_labels(_count_rows(labels, predicted, indices))
    values = np.concatenate([_f1(*(drawn @ sums).T) for drawn in _draw_rows(repeats, seed)])
    return percentile_interval(values, float(_f1(*(repeats @ sums[:-2]))))


def bootstrap_difference(labels: np.ndarray, first: np.ndarray, second: np.ndarray, seed: int = 0) -> Interval:
    """Return the 95 % confidence interval of the micro F1 of predictions minus that of others, paired by rows.

    Of the added rows only the first predicts one correctly, and only the second the other, as for proportions (Bonett &
    Price 2012).

    Args:
        labels, first, second: `(rows, labels)` of 0 and 1.
    """
    indices, repeats = _group_rows(labels, first, second)
    number = len(indices)
    sides = []
    for predicted, added in ((first, [0, 1]), (second, [1, 0])):
        counts = _count_rows(labels, predicted, indices)[[*range(number), *(number + index for index in added)]]
        sides.append(_sum_labels(counts))
    values = [_f1(*(drawn @ sides[0]).T) - _f1(*(drawn @ sides[1]).T) for drawn in _draw_rows(repeats, seed)]
    low, high = np.percentile(np.concatenate(values), [2.5, 97.5])
    return float(low), float(high)


def _group_rows(*arrays: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the index of one row of each group of equal rows, and the size of the group, `(groups,)` int64 each.

    To draw rows with replacement is to draw how many of each group are drawn, which takes less time.

    Args:
        arrays: `(rows, labels)` of 0 and 1.
    """
    bits = np.packbits(np.concatenate([array.astype(bool) for array in arrays], axis=1), axis=1)
    _, indices, repeats = np.unique(bits.view(f"V{bits.shape[1]}").ravel(), return_index=True, return_counts=True)
    return indices, repeats


def _count_rows(labels: np.ndarray, predicted: np.ndarray, indices: np.ndarray) -> "csr_array":
    """Return counts of some rows, and of an added correct and wrong one, `(len(indices) + 2, 2 * labels)`.

    They are the correct labels of a row, then those that it has plus those that it gets.
    """
    from scipy.sparse import csr_array, vstack

    shares = labels.astype(bool).mean(axis=0)
    true, own = labels[indices].astype(bool), predicted[indices].astype(bool)
    added = np.stack([np.concatenate([shares, 2 * shares]), np.concatenate([0 * shares, 2 * shares])])
    rows = np.concatenate([true & own, true.astype(np.int8) + own], axis=1)
    return csr_array(vstack([csr_array(rows), csr_array(added)]))


def _sum_labels(counts: "csr_array") -> np.ndarray:
    """Return the sums of counts over the labels, `(rows, 2)`: those of correct labels, then the others."""
    num_labels = counts.shape[1] // 2
    return np.stack([counts[:, :num_labels].sum(axis=1), counts[:, num_labels:].sum(axis=1)], axis=1)


def _draw_rows(repeats: np.ndarray, seed: int) -> Iterator[np.ndarray]:
    """Yield how many rows of each group and of the two added rows are drawn, `(BLOCK_RESAMPLES, groups + 2)` int64."""
    random = np.random.default_rng(seed)
    num_rows = int(repeats.sum())
    shares = np.append(repeats, [1, 1]) / (num_rows + 2)
    for _ in range(NUM_RESAMPLES // BLOCK_RESAMPLES):
        yield random.multinomial(num_rows, shares, BLOCK_RESAMPLES)


def _f1(correct: np.ndarray, total: np.ndarray) -> np.ndarray:
    return np.asarray(2 * correct / np.where(total > 0, total, 1))
