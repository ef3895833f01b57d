"""Weights of the training rows in the loss: from a column of the data, and of the classes (`train.class_weights`)."""

import math
import unicodedata
from collections.abc import Mapping, Sequence

import numpy as np

from jobs.config.class_weights import ClassWeights
from jobs.config.experiment import Experiment, ExperimentError
from jobs.datasets.formats.label_names import match_labels
from jobs.datasets.formats.rows import DataError, Record, SourceFile, describe_names

MAX_NAMED_LABELS = 5


def parse_weight(file: SourceFile, number: int, record: Record, column: str) -> float:
    """Return the weight of the row with a number.

    Args:
        record: values of the row by column.
        column: that of the weights (`data.weight_column`).

    Raises:
        DataError: the column is missing, or the value is not a number of at least 0.
    """
    column = unicodedata.normalize("NFC", column)
    location = file.describe_position(number)
    if column not in record:
        names = describe_names(list(record), column)
        raise DataError(f"{location}: has no '{column}' (data.weight_column); it has {names}")
    value = record[column]
    try:
        weight = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        weight = math.nan
    if not 0 <= weight < math.inf:
        shown = "empty" if value is None or value == "" else repr(value)
        raise DataError(f"{location}: the weight in '{column}' is {shown}; it must be a number of at least 0")
    return weight


def check_class_weights(experiment: Experiment, labels: Sequence[str], known_labels: Sequence[str] = ()) -> None:
    """Check that all weights of classes, also those that a search varies, are of the labels of the training rows.

    Args:
        known_labels: others that a mapping may have, of classes without training rows.

    Raises:
        ExperimentError: a mapping lacks labels or has others; names them.
    """
    varied = experiment.tune.space.get("train.class_weights")
    values = [values for values in varied.values() if isinstance(values, list)] if isinstance(varied, dict) else []
    for class_weights in (experiment.train.class_weights, *(value for items in values for value in items)):
        if isinstance(class_weights, dict):
            _check_labels("train.class_weights", "weight", class_weights, labels, known_labels)


def check_thresholds(thresholds: float | Mapping[str, float] | None, labels: Sequence[str]) -> None:
    """Raise an ExperimentError if a mapping of thresholds lacks labels of the training rows, or has others."""
    if isinstance(thresholds, Mapping):
        _check_labels("train.thresholds", "threshold", thresholds, labels)


def _check_labels(
    setting: str, noun: str, values: Mapping[str, float], labels: Sequence[str], known_labels: Sequence[str] = ()
) -> None:
    """Raise an ExperimentError if a mapping of a setting lacks `labels`, or has some that are in neither sequence."""
    known = {*labels, *known_labels}
    matched = match_labels(values, sorted(known))
    missing = [label for label in labels if label not in matched]
    unknown = sorted(matched.keys() - known)
    if missing or unknown:
        parts = [f"lacks a {noun} of {_name(missing)}"] * bool(missing)
        parts += [f"has {noun}s of {_name(unknown)}, which no training row has"] * bool(unknown)
        raise ExperimentError(f"{setting}: {', and '.join(parts)}")


def compute_row_weights(
    class_weights: ClassWeights, names: Sequence[str], labels: np.ndarray, row_weights: np.ndarray | None = None
) -> np.ndarray | None:
    """Return the weight of each training row, `(rows,)` float64 with a mean of 1; None if all are equal.

    A row's weight is the product of its own and that of its class. Balanced classes have the same sum of weights, as
    with `class_weight="balanced"` in scikit-learn: a row of weight 2 counts as two rows.

    Args:
        names: of the classes. labels: `(rows,)` int64, indices of the classes.
        row_weights: `(rows,)` float64, at least 0; None if they are equal.

    Raises:
        ExperimentError: all rows, or with balanced classes those of a class, have the weight 0.
    """
    if class_weights is None and row_weights is None:
        return None
    weights = np.ones(len(labels)) if row_weights is None else row_weights / max(row_weights.max(), 1e-300)
    if class_weights == "balanced":
        sums = np.bincount(labels, weights, len(names))
        # A class of `train.start_from` may have no rows.
        _require_weights(names, (sums == 0) & (np.bincount(labels, minlength=len(names)) > 0), "classes")
        weights = weights / sums[labels]
    elif class_weights is not None:
        by_label = match_labels(class_weights, names)
        by_class = np.array([by_label.get(name, 0.0) for name in names])  # (classes,); 0 without rows
        weights = weights * (by_class / by_class.max())[labels]
    if not weights.any():
        raise ExperimentError("data.weight_column: all training rows have the weight 0")
    return np.asarray(weights / weights.mean())


def compute_label_weights(
    class_weights: ClassWeights, names: Sequence[str], labels: np.ndarray, row_weights: np.ndarray | None = None
) -> np.ndarray | None:
    """Return the weight of the rows with each label, relative to the rows without it, `(labels,)` float64.

    Args:
        class_weights: balanced, where both have the same sum of weights, or the weights.
        names: of the labels. labels: `(rows, labels)` of 0 and 1. row_weights: `(rows,)`; None if they are equal.

    Raises:
        ExperimentError: with balanced labels, all rows with one of them have the weight 0.
    """
    if class_weights is None:
        return None
    if class_weights != "balanced":
        by_label = match_labels(class_weights, names)
        return np.array([by_label.get(name, 1.0) for name in names])  # a label of `train.start_from` may have no rows
    weights = np.ones(len(labels)) if row_weights is None else row_weights / max(row_weights.max(), 1e-300)
    sums = weights @ labels
    _require_weights(names, (sums == 0) & labels.any(axis=0), "labels")
    others = weights.sum() - sums
    # A label of all rows, or of none, needs no weight.
    return np.asarray(np.divide(others, sums, out=np.ones(len(names)), where=(others > 0) & (sums > 0)))


def _require_weights(names: Sequence[str], is_empty: np.ndarray, plural: str) -> None:
    if is_empty.any():
        empty = [name for name, empty in zip(names, is_empty, strict=True) if empty]
        raise ExperimentError(
            f"train.class_weights: all rows of {_name(empty)} have the weight 0 (data.weight_column), so the {plural} "
            "cannot be balanced"
        )


def _name(labels: Sequence[str]) -> str:
    more = f" and {len(labels) - MAX_NAMED_LABELS:,} more" if len(labels) > MAX_NAMED_LABELS else ""
    return ", ".join(f"'{label}'" for label in labels[:MAX_NAMED_LABELS]) + more
