"""Texts, labels and weights as an estimator receives them: lists, arrays of numpy or pyarrow, columns of pandas."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from sklearn.utils import column_or_1d
from sklearn.utils.multiclass import check_classification_targets

from jobs.datasets.dataset import Dataset, stratified_split
from jobs.datasets.formats.labels import spell_label
from jobs.datasets.readers import Split


def make_dataset(
    X: Iterable[str],
    y: Iterable[Any],
    sample_weight: Iterable[float] | None,
    eval_set: tuple[Iterable[str], Iterable[Any]] | None,
    validation_fraction: float,
    seed: int,
) -> Dataset:
    """Return training rows and validation rows, those of `eval_set` or a share of the rows; without a test part.

    Raises:
        ValueError: as of `TextCNNClassifier.fit`.
    """
    rows = make_split(X, y, "the training rows", sample_weight)
    weighted = sorted({label for index, label in enumerate(rows.labels) if not rows.weights or rows.weights[index]})
    if len(weighted) < 2:
        number = f"one class, '{weighted[0]}'," if weighted else "no class"
        raise ValueError(f"y has {number} with a weight above zero; a classifier needs two or more")
    if eval_set is None:
        train, validation = stratified_split(rows, validation_fraction, seed, "validation_fraction")
    else:
        train, validation = rows, make_split(*eval_set, "eval_set")
        unknown = sorted(set(validation.labels) - set(rows.labels))
        if unknown:
            raise ValueError(f"eval_set has the label {unknown[0]!r}, which does not occur in y")
    return Dataset(train, validation, Split([], []), sorted(set(rows.labels)), [])


def make_split(texts: Iterable[str], labels: Iterable[Any], name: str, weights: Iterable[float] | None = None) -> Split:
    """Return rows of texts and labels, whose names are texts in a checkpoint, and of weights."""
    checked = check_texts(texts)
    values = column_or_1d(to_array(labels))
    check_classification_targets(values)
    if len(checked) != len(values):
        raise ValueError(f"{name}: {len(checked):,} texts and {len(values):,} labels")
    own_weights = None if weights is None else column_or_1d(to_array(weights), dtype=np.float64)
    if own_weights is not None:
        if len(own_weights) != len(checked):
            raise ValueError(f"{name}: {len(checked):,} texts and {len(own_weights):,} weights")
        if not (np.isfinite(own_weights) & (own_weights >= 0)).all():
            raise ValueError("sample_weight: a weight is not a number of at least 0")
    names = [name_label(value) for value in values.tolist()]
    return Split(checked, names, name, weights=None if own_weights is None else own_weights.tolist())


def check_texts(texts: Iterable[str]) -> list[str]:
    """Return texts as a list; ValueError if they are not a sequence of texts."""
    if isinstance(texts, str | bytes):
        raise ValueError(f"expected a sequence of texts, got a single one: {texts[:50]!r}; put it in a list")
    if getattr(texts, "ndim", 1) != 1:
        raise ValueError(f"expected texts, (rows,), got an array of shape {texts.shape}; select its column of texts")  # type: ignore[attr-defined]
    values = texts.to_pylist() if hasattr(texts, "to_pylist") else list(texts)  # pyarrow: numpy would make objects
    for index, value in enumerate(values):
        if not isinstance(value, str):
            raise ValueError(f"texts[{index}] is {value!r}, not a text")
    return [str(value) for value in values]  # numpy has a class of its own


def to_array(values: Iterable[Any]) -> np.ndarray:
    return np.asarray(values.to_pylist() if hasattr(values, "to_pylist") else values)


def name_label(label: Any) -> str:
    """Return the name of a label in a checkpoint: a number or a boolean is spelled as one that is read from a file."""
    return label if isinstance(label, str) else spell_label(str(label))
