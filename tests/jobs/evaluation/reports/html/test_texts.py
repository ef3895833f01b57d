"""Rows of a report page: their choice and order, and the marked phrases."""

import numpy as np
import pytest

from jobs.evaluation.reports.html import texts
from jobs.evaluation.reports.html.texts import MAX_CHARACTERS, Predictions, mark_phrases, select_rows
from jobs.inference.explanation import Phrase

LABELS = np.array([0, 0, 1, 1, 1, 0])
PREDICTED = np.array([0, 1, 1, 1, 0, 1])
SCORES = np.array([0.9, 0.6, 0.5, 0.8, 0.7, 0.95])
PREDICTIONS = Predictions.of_classes(LABELS, PREDICTED, SCORES)


def test_mistakes_come_first_the_most_confident_one_first_then_the_least_confident_rows() -> None:
    assert select_rows(["x"] * 6, PREDICTIONS) == [5, 4, 1, 2, 3, 0]


def test_of_too_many_rows_each_pair_of_classes_has_some(monkeypatch: pytest.MonkeyPatch) -> None:
    """The order stays; a long text counts as much as is listed of it."""
    monkeypatch.setattr(texts, "MAX_ROWS", 4)
    assert select_rows(["x"] * 6, PREDICTIONS) == [5, 4, 2, 0]
    monkeypatch.setattr(texts, "MAX_TEXT_BYTES", 2 * MAX_CHARACTERS + 1)
    assert select_rows(["é" * 100_000, *"12345"], PREDICTIONS) == [5, 4, 2]


def phrase(text: str, part: str) -> Phrase:
    start = text.index(part)
    return Phrase(part, start, start + len(part), 1.0)


def test_phrases_are_marked() -> None:
    text = "😀 a great film, great"
    parts = mark_phrases(text, [phrase(text, "a great"), phrase(text, "great film")])
    assert parts == [("😀 ", False), ("a great film", True), (", great", False)]
    assert mark_phrases("", []) == []
    assert mark_phrases("whole", [phrase("whole", "whole")]) == [("whole", True)]


def test_of_a_long_text_the_beginning_and_the_phrases_are_listed() -> None:
    text = "start " + "x" * 5000 + " the reason " + "y" * 5000
    parts = mark_phrases(text, [phrase(text, "the reason")])
    assert ("the reason", True) in parts
    assert [part for part, _ in parts].count(" … ") == 2
    assert parts[0][0].startswith("start x")
    assert len("".join(part for part, _ in parts)) < MAX_CHARACTERS
    assert mark_phrases(text, []) == [(text[:MAX_CHARACTERS], False), (" … ", False)]
