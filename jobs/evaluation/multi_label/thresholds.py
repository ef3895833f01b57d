"""Thresholds of labels: the scores from which a text gets a label, chosen on validation rows.

They are multiples of 0.01: a single one for all labels, ones that are lower for rare labels, or one chosen for each
label. Cross-validation over these rows decides which, since thresholds of rare labels fit chance: one for each label is
taken only if it is better on rows that it was not chosen on.

By frequency, the logit of a threshold is a constant, the same for all labels, plus a share of the label's log-odds. The
scores of rare labels are low even where they are the best guess; a single threshold would leave them out.
"""

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from typing import TYPE_CHECKING

import numpy as np

from jobs.config.label_thresholds import DEFAULT_THRESHOLD, ThresholdObjective
from jobs.datasets.formats.label_names import match_labels
from jobs.evaluation.metrics import LogitSample
from jobs.evaluation.multi_label.metrics import LabelCounts, sigmoid

if TYPE_CHECKING:
    from jobs.config.settings import TrainSettings

GRID = np.arange(1, 100) / 100
NUM_FOLDS = 5
MIN_ROWS = 10  # with a label, for a threshold of its own
SHIFTS = (0.1, 0.2, 0.3, 0.4, 0.5)  # shares of the log-odds
CONSTANTS = np.arange(-60, 61) / 10
TOLERANCE = 0.005  # of two choices whose micro F1 differs by less, the one with the higher macro F1 is better
MAX_ITERATIONS = 50


@dataclass(frozen=True)
class GridCounts:
    """Rows with at least the score of each threshold of the grid.

    correct: of them, those with the label; predicted: all; `(labels, thresholds)` int64. true: rows with each label,
    `(labels,)`. rows: number of all rows.
    """

    correct: np.ndarray
    predicted: np.ndarray
    true: np.ndarray
    rows: int

    def __add__(self, other: "GridCounts") -> "GridCounts":
        return GridCounts(*(getattr(self, name) + getattr(other, name) for name in COUNTS))

    def __sub__(self, other: "GridCounts") -> "GridCounts":
        return GridCounts(*(getattr(self, name) - getattr(other, name) for name in COUNTS))

    def select(self, indices: np.ndarray) -> LabelCounts:
        """Return the counts with the threshold of each label, given by its index in the grid, `(..., labels)`."""
        labels = np.arange(len(self.true))
        return LabelCounts(self.correct[labels, indices], self.true, self.predicted[labels, indices])


COUNTS = ("correct", "predicted", "true", "rows")


@dataclass(frozen=True)
class Calibration:
    """How logits become scores and labels. thresholds: `(labels,)` float64; None with one label per text.

    objective: None if the settings name the thresholds.
    """

    temperature: float
    thresholds: np.ndarray | None = None
    objective: ThresholdObjective | None = None

    def to_json(self) -> Mapping[str, object]:
        """Return the values in a checkpoint's metrics.json: `temperature`, and with several labels per text
        `label_thresholds` with `objective`, `per_label` and `values`, in the order of the labels."""
        values: dict[str, object] = {"temperature": self.temperature}
        if self.thresholds is not None:
            own = self.thresholds.tolist()
            values["label_thresholds"] = {"objective": self.objective, "per_label": len(set(own)) > 1, "values": own}
        return values


def calibrate(logits: LogitSample, settings: "TrainSettings", names: Sequence[str]) -> Calibration:
    """Return the calibration on validation rows; names: of the labels."""
    temperature = settings.temperature or logits.fit_temperature()
    if not logits.is_multi_label:
        return Calibration(temperature)
    fixed = settings.thresholds
    if fixed is not None:
        # A label that only the checkpoint of `train.start_from` has may have none.
        own = match_labels(fixed, names) if isinstance(fixed, dict) else dict.fromkeys(names, fixed)
        values = [own.get(name, DEFAULT_THRESHOLD) for name in names]
        return Calibration(temperature, np.array(values))
    probabilities = sigmoid(logits.logits / temperature)
    chosen = choose_thresholds(probabilities, logits.labels, settings.threshold_objective)
    return Calibration(temperature, chosen, settings.threshold_objective)


def count_scores(probabilities: np.ndarray, labels: np.ndarray) -> GridCounts:
    """Return the counts of probabilities and labels, `(rows, labels)` each."""
    num_labels, size = labels.shape[1], len(GRID) + 1
    passed = np.searchsorted(GRID, probabilities.astype(np.float64), side="right")  # thresholds at most the score
    cells = passed + np.arange(num_labels) * size
    counts = [
        np.bincount(selected.reshape(-1), minlength=num_labels * size).reshape(num_labels, size)
        for selected in (cells[labels.astype(bool)], cells)
    ]
    # A row with p passed thresholds gets the label with the first p of them.
    correct, predicted = (np.cumsum(values[:, :0:-1], axis=1)[:, ::-1] for values in counts)
    return GridCounts(correct, predicted, labels.sum(axis=0, dtype=np.int64), len(labels))


def choose_global_threshold(counts: GridCounts, objective: ThresholdObjective) -> int:
    """Return the index in the grid of the best single threshold."""
    if objective == "macro_f1":
        f1 = 2 * counts.correct / np.maximum(counts.predicted + counts.true[:, None], 1)
        return int(f1.mean(axis=0).argmax())
    correct, predicted = counts.correct.sum(axis=0), counts.predicted.sum(axis=0)
    if isinstance(objective, float):
        return _first_precise(correct, predicted, objective)
    return int((2 * correct / np.maximum(predicted + counts.true.sum(), 1)).argmax())


def choose_thresholds(probabilities: np.ndarray, labels: np.ndarray, objective: ThresholdObjective) -> np.ndarray:
    """Return the thresholds for an objective, `(labels,)` float64; `DEFAULT_THRESHOLD` without rows.

    Args:
        probabilities, labels: of validation rows, `(rows, labels)`.
    """
    num_labels = labels.shape[1]
    if not len(labels):
        return np.full(num_labels, DEFAULT_THRESHOLD)
    folds = np.random.default_rng(0).permutation(len(labels)) % NUM_FOLDS
    parts = [count_scores(probabilities[folds == fold], labels[folds == fold]) for fold in range(NUM_FOLDS)]
    counts = reduce(operator.add, parts)
    by_frequency = [partial(_choose_by_frequency, shift=shift) for shift in SHIFTS]
    choices: list[Callable[[GridCounts, ThresholdObjective], np.ndarray]]
    choices = [_choose_same, *by_frequency, _choose_per_label]
    totals = [_cross_validate(choose, counts, parts, objective) for choose in choices]
    return np.asarray(GRID[choices[_choose_best(totals, objective)](counts, objective)])


def _cross_validate(
    choose: Callable[[GridCounts, ThresholdObjective], np.ndarray],
    counts: GridCounts,
    parts: list[GridCounts],
    objective: ThresholdObjective,
) -> LabelCounts:
    """Return the counts of a choice on rows that the thresholds were not chosen on."""
    chosen = [part.select(choose(counts - part, objective)) for part in parts]
    return LabelCounts(*(sum(getattr(item, name) for item in chosen) for name in ("correct", "true", "predicted")))


def _choose_best(totals: Sequence[LabelCounts], objective: ThresholdObjective) -> int:
    """Return the index of the best choice, the first one of equals; totals: as of `_cross_validate`."""
    if isinstance(objective, float):
        keys = [(min(total.micro_precision(), objective), total.micro_recall()) for total in totals]
    elif objective == "macro_f1":
        keys = [(total.macro_f1(), 0.0) for total in totals]
    else:
        micro = [total.micro_f1() for total in totals]
        keys = [
            (total.macro_f1() if value >= max(micro) - TOLERANCE else -1.0, value)
            for total, value in zip(totals, micro, strict=True)
        ]
    return keys.index(max(keys))


def _choose_same(counts: GridCounts, objective: ThresholdObjective) -> np.ndarray:
    return np.full(len(counts.true), choose_global_threshold(counts, objective))


def _choose_by_frequency(counts: GridCounts, objective: ThresholdObjective, shift: float) -> np.ndarray:
    """Return the index in the grid of each label's threshold, `(labels,)`; shift: share of the log-odds."""
    odds = np.log((counts.true + 0.5) / (counts.rows + 1 - counts.true - 0.5))
    thresholds = sigmoid(CONSTANTS[:, None] + shift * odds)  # (constants, labels)
    indices = np.searchsorted(GRID, thresholds).clip(max=len(GRID) - 1)
    selected = counts.select(indices)
    correct, predicted = selected.correct.sum(axis=1), selected.predicted.sum(axis=1)
    if isinstance(objective, float):
        best = _first_precise(correct, predicted, objective)
    elif objective == "macro_f1":
        best = int(selected.per_label()["f1"].mean(axis=1).argmax())
    else:
        best = int((2 * correct / np.maximum(predicted + counts.true.sum(), 1)).argmax())
    return np.asarray(indices[best])


def _choose_per_label(counts: GridCounts, objective: ThresholdObjective) -> np.ndarray:
    """Return the index in the grid of each label's threshold, `(labels,)`; that of all labels for rare ones."""
    shared = choose_global_threshold(counts, objective)
    if isinstance(objective, float):
        rows = zip(counts.correct, counts.predicted, strict=True)
        indices = np.array([_first_precise(correct, predicted, objective) for correct, predicted in rows])
    elif objective == "macro_f1":
        f1 = 2 * counts.correct / np.maximum(counts.predicted + counts.true[:, None], 1)
        indices = _find_best(f1, shared)
    else:
        indices = _maximize_micro_f1(counts, shared)
    return np.where(counts.true >= MIN_ROWS, indices, shared)


def _maximize_micro_f1(counts: GridCounts, shared: int) -> np.ndarray:
    """Return the indices with the highest micro F1 (Dinkelbach 1967).

    With a micro F1 of f, it is the highest if no label's `2 * correct - f * predicted` can be higher.
    """
    indices = np.full(len(counts.true), shared)
    for _ in range(MAX_ITERATIONS):
        f1 = counts.select(indices).micro_f1()
        better = _find_best(2 * counts.correct - f1 * counts.predicted, shared)
        if np.array_equal(better, indices):
            break
        indices = better
    return indices


def _find_best(values: np.ndarray, shared: int) -> np.ndarray:
    """Return the index of each row's maximum; of several, that which is nearest to the shared index."""
    distance = np.abs(np.arange(values.shape[1]) - shared)
    is_best = values >= values.max(axis=1, keepdims=True) - 1e-9
    return np.asarray(np.where(is_best, distance, values.shape[1]).argmin(axis=1))


def _first_precise(correct: np.ndarray, predicted: np.ndarray, precision: float) -> int:
    """Return the lowest index with a precision; without one, that with the highest precision."""
    shares = np.where(predicted > 0, correct / np.maximum(predicted, 1), 0.0)
    enough = np.flatnonzero(shares >= precision)
    return int(enough[0]) if len(enough) else int(shares.argmax())
