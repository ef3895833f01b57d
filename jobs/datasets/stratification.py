"""Stratified drawing of rows: a share of every class, or folds of a cross-validation, drawn with a seed.

The rows are those that scikit-learn's `train_test_split` and `StratifiedKFold` draw with the same seed: runs of earlier
versions used them. Their import takes 1.7 s of processor time. A process that trains the linear classifier imports them
anyway, with `sklearn.svm`; evaluations, dry runs, drivers of Ray's workers and `model.linear=none` do not. To measure
it: `python -X importtime -c "import jobs.datasets.dataset, sklearn.model_selection"`.
"""

import math
from collections.abc import Sequence

import numpy as np


def draw_share(labels: Sequence[str] | np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of the remaining and the drawn rows, each `(rows,)` int64, in random order.

    `ceil(share * rows)` rows are drawn, of each class in proportion to its rows.

    Args:
        labels: of all rows; there are at least as many drawn and remaining rows as classes.
    """
    random = np.random.RandomState(seed)
    _, classes = np.unique(np.asarray(labels), return_inverse=True)
    counts = np.bincount(classes)
    num_drawn = math.ceil(share * len(classes))
    remaining_counts = _apportion(counts, len(classes) - num_drawn, random)
    drawn_counts = _apportion(counts - remaining_counts, num_drawn, random)
    remaining: list[np.ndarray] = []
    drawn: list[np.ndarray] = []
    for number, count in enumerate(counts):
        rows = np.flatnonzero(classes == number)[random.permutation(count)]
        end = remaining_counts[number]
        remaining.append(rows[:end])
        drawn.append(rows[end : end + drawn_counts[number]])
    return random.permutation(np.concatenate(remaining)), random.permutation(np.concatenate(drawn))


def draw_folds(labels: Sequence[str] | np.ndarray, folds: int, seed: int) -> np.ndarray:
    """Return the fold of each row, `(rows,)` int64 from 0; each fold has the same share of every class.

    Args:
        labels: of all rows; each class has at least `folds` rows.
    """
    random = np.random.RandomState(seed)
    _, firsts, classes = np.unique(np.asarray(labels), return_index=True, return_inverse=True)
    classes = np.argsort(np.argsort(firsts))[classes]  # classes are numbered in the order of their first rows
    dealt = np.sort(classes)
    fold_of_row = np.empty(len(classes), np.int64)
    for number in range(len(firsts)):
        # All rows, sorted by class, are dealt to the folds in turn, so the folds differ by one row at most.
        counts = [np.count_nonzero(dealt[fold::folds] == number) for fold in range(folds)]
        of_class = np.arange(folds).repeat(counts)
        random.shuffle(of_class)
        fold_of_row[classes == number] = of_class
    return fold_of_row


def _apportion(counts: np.ndarray, total: int, random: np.random.RandomState) -> np.ndarray:
    """Return how many of `total` rows are of each class, in proportion to the classes' counts.

    The rows that rounding down leaves go to the classes with the largest remainders; between equal ones lots decide.
    """
    exact = counts / counts.sum() * total  # the order decides which remainders are equal
    rows = np.floor(exact)
    remainders = exact - rows
    missing = int(total - rows.sum())
    for value in np.unique(remainders)[::-1]:
        if missing <= 0:
            break
        [equal] = np.nonzero(remainders == value)
        chosen = random.choice(equal, min(len(equal), missing), replace=False)
        rows[chosen] += 1
        missing -= len(chosen)
    counts_of_rows: np.ndarray = rows.astype(np.int64)
    return counts_of_rows
