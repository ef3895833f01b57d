"""Columns of the output of batch prediction, and the values of the new ones."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from jobs.config.abstention import AbstentionRule, select_classes
from jobs.datasets.chunks import Chunk, ColumnTypes
from jobs.datasets.formats.rows import DataError, describe_names
from jobs.inference.classifier import Classifier
from jobs.inference.explanation import Explanation, explain_texts
from jobs.model.checkpoint import Checkpoint

Write = Callable[[Chunk, np.ndarray, Sequence[Explanation]], None]
"""Writes a chunk with the probabilities of its texts, `(texts, classes)` float32, and the explanations, if wanted."""


@dataclass(frozen=True)
class OutputColumns:
    """Columns of an output file.

    labels: the classes, in the order of the probabilities. types: those of the input's columns that are written. label,
    score: names of the new columns; scores: that of the labels and scores of the best classes. num_scores: how many; 0:
    no such column. thresholds: with several labels per text, those of the labels, `(labels,)`; `label` is then the
    column of the labels that a text gets, no column has a single score, and `scores` has the labels that a text gets if
    num_scores is 0. separator: between these labels in csv and tsv; None for a JSON list. abstention: decides which
    texts have no label, with one label per text; None: all have one. explanation: name of the column of explanations;
    None for no such column. is_selection: the input may have other columns. min_scores: least score of each label that
    a row has which is written, `(labels,)` float32; None: all rows are written.
    """

    labels: Sequence[str]
    types: ColumnTypes
    label: str
    score: str
    scores: str
    num_scores: int = 0
    thresholds: np.ndarray | None = None
    separator: str | None = None
    abstention: AbstentionRule | None = None
    explanation: str | None = None
    is_selection: bool = False
    min_scores: np.ndarray | None = None

    @property
    def new(self) -> list[str]:
        """Names of the new columns."""
        if self.thresholds is not None:
            names = [self.label, self.scores]
        else:
            names = [self.label, self.score, *([self.scores] if self.num_scores else [])]
        return [*names, *([self.explanation] if self.explanation else [])]

    def describe_rows(self, num_written: int, num_rows: int) -> str:
        """Return the number of written rows as text, and of how many they were selected."""
        return f"{num_written:,} rows" if self.min_scores is None else f"{num_written:,} of {num_rows:,} rows"


def choose_columns(
    checkpoint: Checkpoint,
    types: ColumnTypes,
    num_scores: int,
    abstention: AbstentionRule | None = None,
    *,
    explain: bool = False,
    selected: Sequence[str] | None = None,
    min_scores: Mapping[str, float] | None = None,
) -> OutputColumns:
    """Return the columns of the output; a new one has a name that no column of the input has.

    Args:
        selected: columns of the input that the output has, in this order; None for all.
        min_scores: least scores of labels that a row has which is written.

    Raises:
        DataError: the input lacks a selected column, or the checkpoint one of the labels.
    """
    labels, data = checkpoint.labels, checkpoint.experiment.data
    for name in selected or ():
        if name not in types:
            raise DataError(f"--columns: the input has no column '{name}'; it has {describe_names([*types], name)}")
    if selected is not None:
        types = {name: types[name] for name in selected}

    def choose(name: str) -> str:
        while name in types:
            name = f"predicted_{name}"
        return name

    return OutputColumns(
        labels,
        types,
        choose("labels" if data.is_multi_label else "label"),
        choose("score"),
        choose("scores"),
        min(num_scores, len(labels)),
        checkpoint.label_thresholds if data.is_multi_label else None,
        data.label_separator,
        abstention,
        choose("explanation") if explain else None,
        selected is not None,
        _list_min_scores(labels, min_scores) if min_scores else None,
    )


def _list_min_scores(labels: Sequence[str], min_scores: Mapping[str, float]) -> np.ndarray:
    for label in min_scores:
        if label not in labels:
            raise DataError(
                f"--min-score: the checkpoint has no label '{label}'; it has {describe_names(labels, label)}"
            )
    return np.array([min_scores.get(label, 0) for label in labels], np.float32)


def score_texts(
    classifier: Classifier, texts: Sequence[str], columns: OutputColumns
) -> tuple[np.ndarray, Sequence[Explanation]]:
    """Return the probabilities of texts, `(texts, classes)` float32, and their explanations if a column has them.

    An explanation is that of the best class, also of a text without a label.
    """
    probabilities = classifier.predict_proba(texts)
    return probabilities, _explain(classifier, texts, probabilities, columns)


def score_chunk(
    classifier: Classifier, chunk: Chunk, columns: OutputColumns
) -> tuple[Chunk, np.ndarray, Sequence[Explanation]]:
    """Return the rows of a chunk that are written, and of these what `score_texts` returns."""
    if columns.min_scores is None:
        return chunk, *score_texts(classifier, chunk.texts, columns)
    probabilities = classifier.predict_proba(chunk.texts)
    is_selected = np.all(probabilities >= columns.min_scores, axis=1)
    chunk, probabilities = chunk.select(np.flatnonzero(is_selected).tolist()), probabilities[is_selected]
    return chunk, probabilities, _explain(classifier, chunk.texts, probabilities, columns)


def _explain(
    classifier: Classifier, texts: Sequence[str], probabilities: np.ndarray, columns: OutputColumns
) -> Sequence[Explanation]:
    if columns.explanation is None or not len(texts):
        return ()
    best, _ = select_classes(probabilities, columns.abstention.out_of_scope if columns.abstention else None)
    return explain_texts(classifier, texts, best)


def label_texts(probabilities: np.ndarray, columns: OutputColumns) -> tuple[np.ndarray, np.ndarray]:
    """Return the best class of each text, -1 for none, and the best score, also of a text without a class."""
    if columns.abstention is not None:
        return columns.abstention.apply(probabilities)
    best = probabilities.argmax(axis=1) if len(probabilities) else np.empty(0, np.int64)
    return best, probabilities[np.arange(len(best)), best]


def order_classes(probabilities: np.ndarray, count: int) -> np.ndarray:
    """Return the classes of the highest probabilities of each text, the best first, `(texts, count)` int64."""
    return np.argsort(-probabilities, axis=1, kind="stable")[:, :count]
