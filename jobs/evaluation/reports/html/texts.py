"""Rows of a report page: which rows it lists, and their texts with the phrases that decided marked."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from jobs.datasets.readers import Split
from jobs.evaluation.reports.errors import find_phrases
from jobs.inference.classifier import Classifier
from jobs.inference.explanation import Phrase

MAX_ROWS = 2000
MAX_TEXT_BYTES = 400_000
MAX_EXPLAINED_ROWS = 300
MAX_CHARACTERS = 300  # of a longer text its beginning and the neighbourhood of the phrases are listed
PHRASE_CONTEXT = 30

Parts = list[tuple[str, bool]]
"""A text in parts; the second value of a part is true for a phrase that decided."""


@dataclass(frozen=True)
class Predictions:
    """Predictions of rows, and what decides which of them a page lists.

    true, predicted: numbers of the labels of each row; scores: of the predicted ones. is_wrong: `(rows,)` bool.
    confidence: `(rows,)`; mistakes with a high one are first, correct rows with a low one. explained: `(rows,)` int64,
    the label whose phrases are marked in a mistake, -1 for none. kind: `(rows,)` int64; of each kind some are listed.
    """

    true: Sequence[Sequence[int]]
    predicted: Sequence[Sequence[int]]
    scores: Sequence[Sequence[float]]
    is_wrong: np.ndarray
    confidence: np.ndarray
    explained: np.ndarray
    kind: np.ndarray

    @classmethod
    def of_classes(cls, labels: np.ndarray, predicted: np.ndarray, scores: np.ndarray) -> "Predictions":
        """Return those of class indices, `(rows,)` int64 each; scores: of the predicted class, `(rows,)`."""
        true, own, own_scores = (values[:, None].tolist() for values in (labels, predicted, scores))
        kind = labels * (int(predicted.max()) + 1) + predicted
        return cls(true, own, own_scores, labels != predicted, scores, predicted, kind)


@dataclass(frozen=True)
class ListedRow:
    """Row of a page. position: its line or number. true, predicted: numbers of its labels. scores: of the predicted."""

    position: str
    parts: Parts
    true: Sequence[int]
    predicted: Sequence[int]
    scores: Sequence[float]


def list_rows(classifier: Classifier, rows: Split, predictions: Predictions) -> list[ListedRow]:
    """Return the rows of a page: mistakes first, the most confident one first, then the least confident correct rows.

    If there are too many, each kind has about the same number. The phrases are marked in the first `MAX_EXPLAINED_ROWS`
    mistakes.
    """
    listed: list[ListedRow] = []
    for index in select_rows(rows.texts, predictions):
        text, label = rows.texts[index], int(predictions.explained[index])
        is_explained = predictions.is_wrong[index] and label >= 0 and len(listed) < MAX_EXPLAINED_ROWS
        parts = mark_phrases(text, find_phrases(classifier, text, label) if is_explained else [])
        position = "" if rows.line_numbers is None else str(rows.line_numbers[index])
        if rows.file_indices:
            position = rows.describe_position(index)
        true, predicted, scores = (predictions.true[index], predictions.predicted[index], predictions.scores[index])
        listed.append(ListedRow(position, parts, true, predicted, scores))
    return listed


def select_rows(texts: Sequence[str], predictions: Predictions) -> list[int]:
    """Return the indices of the rows that a page lists, in their order."""
    is_wrong, confidence = predictions.is_wrong, predictions.confidence
    order = np.lexsort((np.where(is_wrong, -confidence, confidence), ~is_wrong))
    cells = predictions.kind[order]
    by_cell = np.argsort(cells, kind="stable")
    starts = np.flatnonzero(np.append(True, np.diff(cells[by_cell]) != 0))
    ranks = np.empty(len(order), np.int64)  # of the rows among those of the same kind
    ranks[by_cell] = np.arange(len(order)) - np.repeat(starts, np.diff(np.append(starts, len(order))))
    preferred = np.argsort(ranks, kind="stable")[:MAX_ROWS]
    sizes = [len(texts[order[number]][:MAX_CHARACTERS].encode()) for number in preferred]
    return [int(order[number]) for number in np.sort(preferred[np.cumsum(sizes) <= MAX_TEXT_BYTES])]


def mark_phrases(text: str, phrases: Sequence[Phrase]) -> Parts:
    """Return a text in parts with the phrases marked; a long text is shortened."""
    is_listed, is_phrase = np.zeros(len(text), bool), np.zeros(len(text), bool)
    is_listed[: MAX_CHARACTERS if len(text) <= MAX_CHARACTERS or not phrases else MAX_CHARACTERS // 2] = True
    for phrase in phrases:
        is_phrase[phrase.start : phrase.end] = True
        if len(text) > MAX_CHARACTERS:
            is_listed[max(0, phrase.start - PHRASE_CONTEXT) : phrase.end + PHRASE_CONTEXT] = True
    states = is_listed + 2 * (is_listed & is_phrase)  # 0: left out
    bounds = [0, *(np.flatnonzero(np.diff(states)) + 1).tolist(), len(text)]
    return [
        (text[start:end] if states[start] else " … ", bool(states[start] > 1))
        for start, end in pairwise(bounds)
        if start < end
    ]
