"""Texts, labels and weights as an estimator receives them: lists, arrays of numpy or pyarrow, columns of pandas.

Several labels per text are a list for each text, or an indicator matrix as of scikit-learn's MultiLabelBinarizer.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.utils import column_or_1d
from sklearn.utils.multiclass import check_classification_targets

from jobs.datasets.dataset import Dataset, stratified_split
from jobs.datasets.formats.label_names import spell_label
from jobs.datasets.readers import Split
from jobs.datasets.tokenization.code_points import list_texts

SURROGATE = re.compile("[\ud800-\udfff]")
LIST_TYPES = (list, tuple, set, frozenset)
# Texts and labels of validation rows; or a list with one such pair, as of LightGBM and XGBoost.
EvalSet = tuple[Iterable[str], Iterable[Any]] | list[tuple[Iterable[str], Iterable[Any]]]


@dataclass(frozen=True)
class LabelSets:
    """Labels of rows that may have several each.

    rows: those of each row. classes: all of them, sorted, `(classes,)`. is_indicator: they are numbers of columns.
    """

    rows: list[list[Any]]
    classes: np.ndarray
    is_indicator: bool


def read_label_sets(labels: Iterable[Any]) -> LabelSets | None:
    """Return the labels of rows that may have several each; None if each has one.

    Raises:
        ValueError: some rows have lists and others do not, a label is None or NaN or twice in a list, or a matrix has
            other values than 0 and 1.
    """
    if getattr(labels, "ndim", 1) == 2:
        if labels.shape[1] == 1:  # type: ignore[attr-defined]
            return None  # a column of labels
        matrix = np.asarray(labels.toarray() if hasattr(labels, "toarray") else labels)
        if not np.isin(matrix, (0, 1)).all():
            raise ValueError("y has two dimensions and other values than 0 and 1; an indicator matrix has a column of "
                             "0 and 1 for each label")  # fmt: skip
        return LabelSets([np.flatnonzero(row).tolist() for row in matrix], np.arange(matrix.shape[1]), True)
    values = labels.to_pylist() if hasattr(labels, "to_pylist") else labels
    if not isinstance(values, list | tuple) and getattr(getattr(values, "dtype", None), "kind", "") != "O":
        return None
    rows = [row.tolist() if isinstance(row, np.ndarray) else row for row in values]
    is_list = [isinstance(row, LIST_TYPES) for row in rows]
    if not any(is_list):
        return None
    if not all(is_list):
        index = is_list.index(False)
        raise ValueError(f"labels[{index}] is {rows[index]!r}, and others are lists; a text without a label has []")
    lists = [list(row) for row in rows]
    for index, row in enumerate(lists):
        if any(map(_is_missing, row)):
            raise ValueError(f"labels[{index}] is {row!r}; None, NaN and arrays are no labels")
        if any(isinstance(label, str) and not label.strip() for label in row):
            raise ValueError(f"labels[{index}] is {row!r}; an empty text is no label")
        if len(set(row)) < len(row):
            raise ValueError(
                f"labels[{index}] is {row!r}, which has a label twice; pass an indicator matrix as an array"
            )
    return LabelSets(lists, np.unique(np.array([label for row in lists for label in row])), False)


def read_same_form(labels: Iterable[Any], fitted: LabelSets | None) -> LabelSets | None:
    """Return what `read_label_sets` does; ValueError if the labels have another form than those of `fit`, `fitted`."""
    sets = read_label_sets(labels)
    own, earlier = (
        "a label" if item is None else "a row of 0 and 1" if item.is_indicator else "a list of labels"
        for item in (sets, fitted)
    )
    if own != earlier:
        raise ValueError(f"y has {own} for each text; the model was fitted to {earlier}")
    return sets


def list_classes(y: Iterable[Any], sets: LabelSets | None, labels: Sequence[str] = ()) -> np.ndarray:
    """Return the classes of the training rows, of the type of their labels, and those of a checkpoint, sorted.

    Args:
        y, sets: labels of the rows, and those of `read_label_sets`.
        labels: of the checkpoint that the training starts from, some of which the rows may lack.

    Raises:
        ValueError: one of these is no number, and those of the rows are numbers.
    """
    classes = np.unique(column_or_1d(to_array(y))) if sets is None else sets.classes
    known = set(map(name_label, classes.tolist()))
    others = [label for label in labels if label not in known]
    if not others:
        return classes
    if classes.dtype.kind in "OUT":
        return np.unique(np.concatenate([classes, others]))
    try:
        return np.unique(np.concatenate([classes, [int(label) for label in others]]))
    except ValueError:
        raise ValueError(
            f"y has numbers; the checkpoint of train.start_from has the labels {', '.join(map(repr, others[:5]))} too, "
            "so pass the labels of all rows as texts"
        ) from None


def make_dataset(
    X: Iterable[str],
    y: Iterable[Any],
    sample_weight: Iterable[float] | None,
    eval_set: EvalSet | None,
    validation_fraction: float,
    seed: int,
) -> tuple[Dataset, LabelSets | None]:
    """Return training rows and validation rows, those of `eval_set` or a share of the rows; without a test part.

    The second value has the labels of the training rows if a row may have several.

    Raises:
        ValueError: as of `TextCNNClassifier.fit`.
    """
    sets = read_label_sets(y)
    rows = make_split(X, y, sets, "the training rows", sample_weight)
    if rows.label_sets is not None and not rows.distinct_labels():
        raise ValueError("y has no label")
    labels = sorted(set(rows.labels) if sets is None else map(name_label, sets.classes.tolist()))
    weighted = sorted({label for index, label in enumerate(rows.labels) if not rows.weights or rows.weights[index]})
    if rows.label_sets is None and len(weighted) < 2:
        number = f"one class, '{weighted[0]}'," if weighted else "no class"
        raise ValueError(f"y has {number} with a weight above zero; a classifier needs two or more")
    if eval_set is None:
        if not 0 < validation_fraction < 1:
            raise ValueError(f"validation_fraction must be between 0 and 1, not {validation_fraction!r}")
        advice = "add rows, or pass eval_set"
        train, validation = stratified_split(rows, validation_fraction, seed, "validation_fraction", advice)
    else:
        pairs = eval_set if isinstance(eval_set, list) else [eval_set]
        if len(pairs) != 1 or not isinstance(pairs[0], LIST_TYPES) or len(pairs[0]) != 2:
            raise ValueError("eval_set must be a pair (texts, labels), or a list with one such pair")
        [(texts, own_labels)] = pairs
        train, validation = rows, make_split(texts, own_labels, read_label_sets(own_labels), "eval_set")
        if not len(validation):
            raise ValueError("eval_set has no rows")
        if (validation.label_sets is None) != (rows.label_sets is None):
            raise ValueError("y and the labels of eval_set differ: one has a list of labels for each text")
        unknown = sorted(validation.distinct_labels().difference(labels))
        if unknown:
            raise ValueError(f"eval_set has the label {unknown[0]!r}, which does not occur in y")
    return Dataset(train, validation, Split([], []), labels, []), sets


def make_split(
    texts: Iterable[str],
    labels: Iterable[Any],
    sets: LabelSets | None,
    name: str,
    sample_weight: Iterable[float] | None = None,
) -> Split:
    """Return rows of texts and labels, whose names are texts in a checkpoint, and of weights.

    Args:
        sets: of `read_label_sets` for the labels.
    """
    checked = check_texts(texts)
    _require_characters(checked, f"{name}: texts")
    if sets is None:
        _require_labels(column_or_1d(to_array(labels, object)).tolist(), name)
        values = column_or_1d(to_array(labels))
        check_classification_targets(values)
        names, label_sets = [name_label(value) for value in values.tolist()], None
    else:
        values, label_sets = sets.rows, [tuple(sorted(map(name_label, set(row)))) for row in sets.rows]
        names = [", ".join(row) for row in label_sets]
    _require_characters(names, f"{name}: labels")
    if len(checked) != len(values):
        raise ValueError(f"{name}: {len(checked):,} texts and {len(values):,} labels")
    own_weights = None if sample_weight is None else column_or_1d(to_array(sample_weight), dtype=np.float64)
    if own_weights is not None:
        if len(own_weights) != len(checked):
            raise ValueError(f"{name}: {len(checked):,} texts and {len(own_weights):,} weights")
        if not (np.isfinite(own_weights) & (own_weights >= 0)).all():
            raise ValueError("sample_weight: a weight is not a number of at least 0")
    weights = None if own_weights is None else own_weights.tolist()
    return Split(checked, names, name, weights=weights, label_sets=label_sets)


def _require_labels(labels: Iterable[Any], name: str) -> None:
    """Raise a ValueError if a label is missing; name: of the rows. NaN among texts would become a text in an array."""
    for index, value in enumerate(labels):
        if not isinstance(value, str) and _is_missing(value):
            raise ValueError(f"{name}: labels[{index}] is {value!r}, not a label")
        if isinstance(value, str) and not value.strip():
            raise ValueError(f"{name}: labels[{index}] is empty, not a label")


def _is_missing(label: Any) -> bool:
    try:
        return label is None or bool(label != label)
    except (TypeError, ValueError):  # pandas.NA; an array
        return True


def _require_characters(texts: list[str], name: str) -> None:
    for index, text in enumerate(texts):
        if not text.isascii() and SURROGATE.search(text):  # it could not be written into the checkpoint
            raise ValueError(f"{name}[{index}] has half of a surrogate pair, which is not a character")


def check_texts(texts: Iterable[str]) -> list[str]:
    """Return texts as a list; ValueError if they are not a sequence of texts."""
    if getattr(texts, "ndim", 1) != 1:
        raise ValueError(f"expected texts, (rows,), got an array of shape {texts.shape}; select its column of texts")  # type: ignore[attr-defined]
    # Of pyarrow, whose arrays numpy would make of objects.
    values = texts.to_pylist() if hasattr(texts, "to_pylist") else list_texts(texts)
    for index, value in enumerate(values):
        if not isinstance(value, str):
            raise ValueError(f"texts[{index}] is {value!r}, not a text")
    return [str(value) for value in values]  # numpy has a class of its own


def to_array(values: Iterable[Any], dtype: type | None = None) -> np.ndarray:
    return np.asarray(values.to_pylist() if hasattr(values, "to_pylist") else values, dtype)


def name_label(label: Any) -> str:
    """Return the name of a label in a checkpoint: a number or a boolean is spelled as one that is read from a file."""
    return label if isinstance(label, str) else spell_label(str(label))
