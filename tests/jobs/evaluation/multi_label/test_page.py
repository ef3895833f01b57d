"""HTML page with several labels per text: the order of the rows, and what is marked."""

from pathlib import Path

import numpy as np
import pytest

from jobs.evaluation.multi_label.page import rank_predictions
from jobs.evaluation.reports.html import texts
from jobs.evaluation.reports.html.texts import select_rows
from tests.support.evaluations import render_random_label_evaluation

THRESHOLDS = np.array([0.5, 0.3])
LABELS = np.array([[1, 0], [0, 1], [1, 1], [0, 0], [0, 0], [1, 1]])
PROBABILITIES = np.array([[0.9, 0.1], [0.6, 0.1], [0.4, 0.9], [0.2, 0.8], [0.45, 0.0], [0.1, 0.3]])


def test_wrong_labels_come_first_then_missing_ones_then_the_least_certain_rows() -> None:
    predictions = rank_predictions(LABELS, PROBABILITIES, THRESHOLDS)
    assert select_rows(["x"] * 6, predictions) == [3, 1, 5, 2, 4, 0]
    assert predictions.explained.tolist() == [-1, 0, -1, 1, -1, -1]
    assert predictions.true == [[0], [1], [0, 1], [], [], [0, 1]]
    assert predictions.predicted == [[0], [0], [1], [1], [], [1]]
    assert predictions.scores[3] == [0.8]


def test_of_too_many_rows_each_wrong_or_missing_label_has_some(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "MAX_ROWS", 4)
    assert select_rows(["x"] * 6, rank_predictions(LABELS, PROBABILITIES, THRESHOLDS)) == [3, 1, 5, 4]


def test_the_page_lists_labels_texts_and_slices(tmp_path: Path) -> None:
    page = render_random_label_evaluation(tmp_path / "c", ["<u>a</u>", "b", "c", "d", "e"], 400, ["</script>"])
    assert "All 400 rows." in page
    assert "Rows with a wrong label first" in page
    assert "Mistakes first" not in page
    assert page.count("data-value") == 15  # precision, recall and F1 of each label
    assert page.count('<td class="text"') == 400
    assert "<mark>" in page
    assert 'class="wrong"' in page
    assert 'class="missing"' in page
    assert "<u>" not in page
    assert "One threshold for all labels" in page
    assert ">second<" in page
