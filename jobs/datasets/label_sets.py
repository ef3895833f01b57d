"""Rows with several labels each: their labels as a matrix, and their stratified drawing.

Rows are drawn by iterative stratification (Sechidis et al. 2011): a share, or a fold, has the same share of the rows
of every label, the rare labels first.
"""

from collections import Counter
from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jobs.datasets.readers import Split  # imports pydantic, which the training loop does without

LabelSets = Sequence[tuple[str, ...]]
"""Labels of each row; a row may have none."""


def encode_labels(split: "Split", labels: Sequence[str]) -> np.ndarray:
    """Return the labels of rows: `(rows,)` int64, indices; of several per row, as `encode_label_sets`.

    Args:
        labels: of the classes; KeyError if a row has another one.
    """
    if split.label_sets is not None:
        return encode_label_sets(split.label_sets, labels)
    indices = {label: index for index, label in enumerate(labels)}
    return np.fromiter(map(indices.__getitem__, split.labels), np.int64, len(split))


def encode_label_sets(label_sets: LabelSets, labels: Sequence[str]) -> np.ndarray:
    """Return whether each row has each label, `(rows, labels)` uint8; KeyError if a row has another label."""
    numbers = {label: number for number, label in enumerate(labels)}
    matrix = np.zeros((len(label_sets), len(labels)), np.uint8)
    for row, own in enumerate(label_sets):
        for label in own:
            matrix[row, numbers[label]] = 1
    return matrix


def compute_log_odds(matrix: np.ndarray) -> np.ndarray:
    """Return the logarithm of the odds of each label, `(labels,)` float32, with half a row of each kind added.

    Args:
        matrix: as of `encode_label_sets`.
    """
    rows = matrix.sum(axis=0, dtype=np.float64) + 0.5
    return np.asarray(np.log(rows / (len(matrix) + 1 - rows)), np.float32)


def count_labels(label_sets: LabelSets) -> Counter[str]:
    """Return the number of rows with each label."""
    return Counter(chain.from_iterable(label_sets))


def draw_share(label_sets: LabelSets, share: float, seed: int) -> np.ndarray:
    """Return the indices of the drawn rows, sorted int64; of each label at least one row remains.

    Args:
        share: of the rows; none is drawn if each is the last one of a label.
    """
    from iterstrat.ml_stratifiers import MultilabelStratifiedShuffleSplit  # imports scikit-learn, which takes 1.5 s

    matrix = _add_empty_label(label_sets)
    splitter = MultilabelStratifiedShuffleSplit(n_splits=1, test_size=share, random_state=seed)
    _, drawn = next(splitter.split(matrix, matrix))
    is_drawn = np.zeros(len(matrix), bool)
    is_drawn[drawn] = True
    for missing in np.flatnonzero(matrix[~is_drawn].sum(axis=0) == 0):  # a label of a few rows
        rows = np.flatnonzero(matrix[:, missing])
        is_drawn[rows[:1]] = False
    return np.flatnonzero(is_drawn)


def draw_folds(label_sets: LabelSets, folds: int, seed: int) -> np.ndarray:
    """Return the fold of each row, `(rows,)` int64 from 0.

    Args:
        label_sets: each label has at least `folds` rows.
    """
    from iterstrat.ml_stratifiers import MultilabelStratifiedKFold

    matrix = _add_empty_label(label_sets)
    splitter = MultilabelStratifiedKFold(n_splits=folds, shuffle=True, random_state=seed)
    fold_of_row = np.zeros(len(matrix), np.int64)
    for fold, (_, rows) in enumerate(splitter.split(matrix, matrix)):
        fold_of_row[rows] = fold
    return fold_of_row


def _add_empty_label(label_sets: LabelSets) -> np.ndarray:
    """Return the matrix of the labels with a column for rows without one, which are divided by shares as well."""
    matrix = encode_label_sets(label_sets, sorted(count_labels(label_sets)))
    return np.column_stack([matrix, ~matrix.any(axis=1)])
