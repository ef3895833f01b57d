"""Rows of a report page: which rows it lists, and their texts with the phrases that decided marked."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from jobs.datasets.readers import Split
from jobs.evaluation.reports.errors import NUM_PHRASES
from jobs.inference.classifier import Classifier
from jobs.inference.explanation import Explainer, Phrase

MAX_ROWS = 2000
MAX_TEXT_BYTES = 400_000
MAX_EXPLAINED_ROWS = 300
MAX_CHARACTERS = 300  # of a longer text its beginning and the neighbourhood of the phrases are listed
PHRASE_CONTEXT = 30

Parts = list[tuple[str, bool]]
"""A text in parts; the second value of a part is true for a phrase that decided."""


@dataclass(frozen=True)
class ListedRow:
    """Row of a page. position: its line or number. true, predicted: numbers of its labels. score: of the predicted."""

    position: str
    parts: Parts
    true: Sequence[int]
    predicted: Sequence[int]
    score: float


def list_rows(
    classifier: Classifier, rows: Split, labels: np.ndarray, predicted: np.ndarray, scores: np.ndarray
) -> list[ListedRow]:
    """Return the rows of a page: mistakes first, the most confident one first, then the least confident correct rows.

    If there are too many, each pair of true and predicted class has about the same number. The phrases are marked in
    the first `MAX_EXPLAINED_ROWS` mistakes.

    Args:
        labels, predicted: class indices, `(rows,)` int64. scores: of the predicted class, `(rows,)`.
    """
    listed: list[ListedRow] = []
    for index in select_rows(rows.texts, labels, predicted, scores):
        true, guess, text = int(labels[index]), int(predicted[index]), rows.texts[index]
        is_explained = true != guess and len(listed) < MAX_EXPLAINED_ROWS
        phrases = _find_phrases(classifier, text, guess) if is_explained else []
        position = "" if rows.line_numbers is None else str(rows.line_numbers[index])
        if rows.file_indices:
            position = rows.describe_position(index)
        listed.append(ListedRow(position, mark_phrases(text, phrases), [true], [guess], float(scores[index])))
    return listed


def select_rows(texts: Sequence[str], labels: np.ndarray, predicted: np.ndarray, scores: np.ndarray) -> list[int]:
    """Return the indices of the rows that a page lists, in their order; arguments as of `list_rows`."""
    is_wrong = labels != predicted
    order = np.lexsort((np.where(is_wrong, -scores, scores), ~is_wrong))
    cells = labels[order] * (int(predicted.max()) + 1) + predicted[order]
    by_cell = np.argsort(cells, kind="stable")
    starts = np.flatnonzero(np.append(True, np.diff(cells[by_cell]) != 0))
    ranks = np.empty(len(order), np.int64)  # of the rows among those with the same classes
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


def _find_phrases(classifier: Classifier, text: str, label: int) -> list[Phrase]:
    """Return the phrases with the largest shares of a label's score."""
    return [phrase for phrase in Explainer(classifier, text).explain(label).phrases if phrase.share > 0][:NUM_PHRASES]
