"""HTML page of an evaluation: classes, confusion matrix, risk-coverage curve, size."""

import re
from pathlib import Path

import numpy as np
import pytest

from jobs.evaluation.metrics import share_interval
from jobs.evaluation.reports.html import evaluation_page
from jobs.evaluation.reports.html.evaluation_page import (
    MAX_TABLE_CLASSES,
    build_class_rows,
    build_matrix,
    estimate_f1,
)
from tests.support.evaluations import STORED_THRESHOLD, render_random_evaluation

CONFUSION = np.array([[2, 1, 0], [0, 2, 0], [1, 0, 0]])


def test_the_table_of_classes_has_estimates_with_intervals() -> None:
    """A class without predictions has a precision of 0 that may be anything."""
    first, _, last = build_class_rows(
        ["a", "b", "c"], CONFUSION.diagonal(), CONFUSION.sum(axis=1), CONFUSION.sum(axis=0)
    )
    assert (first.rows, first.precision.value, first.recall.value) == (3, 2 / 3, 2 / 3)
    assert (first.recall.low, first.recall.high) == share_interval(2, 3)
    assert (last.precision.value, last.precision.low, last.precision.high) == (0, 0, 1)
    assert last.f1.value == 0


def test_the_interval_of_f1_contains_it_and_covers_the_true_value() -> None:
    """With 50 rows of a class in samples, in about 95 % of them."""
    generator = np.random.default_rng(0)
    covered = []
    for correct, missed, wrong, _ in generator.multinomial(200, [0.2, 0.05, 0.1, 0.65], 500):
        estimate = estimate_f1(int(correct), int(2 * correct + missed + wrong))
        assert estimate.low <= estimate.value <= estimate.high
        covered.append(estimate.low <= 0.4 / 0.55 <= estimate.high)
    assert 0.92 <= np.mean(covered) <= 0.98


def test_few_classes_are_a_table_and_many_are_a_map(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a map the most frequent cells are drawn; the most frequent mistake is first."""
    matrix = build_matrix(CONFUSION)
    assert matrix.is_table
    assert [[cell.rows for cell in row] for row in matrix.rows] == CONFUSION.tolist()
    assert [(cell.label, cell.predicted, cell.rows) for cell in matrix.mistakes] == [(0, 1, 1), (2, 0, 1)]
    assert [cell.style for cell in matrix.rows[0]] == ["good s7", "bad s3", "bad s0"]
    many = 9 * np.eye(MAX_TABLE_CLASSES + 1, dtype=int)
    many[3, 7] = 4
    matrix = build_matrix(many)
    assert not matrix.is_table
    assert len(matrix.cells) == MAX_TABLE_CLASSES + 2
    assert (matrix.mistakes[0].rows, matrix.left_out) == (4, "")
    monkeypatch.setattr(evaluation_page, "MAX_CELLS", 5)
    assert (len(build_matrix(many).cells), build_matrix(many).left_out) == (
        5, f"The 5 most frequent of {MAX_TABLE_CLASSES + 2} cells with rows."
    )  # fmt: skip


@pytest.mark.parametrize("num_classes", [2, 20, 150])
def test_a_page_of_many_rows_is_small_and_says_what_it_lists(num_classes: int, tmp_path: Path) -> None:
    page = render_random_evaluation(tmp_path / "c", [f"class {number}" for number in range(num_classes)], 6000)
    assert len(page.encode()) < 1_000_000
    listed = re.search(r"([\d,]+) of 6,000 rows, some of each pair of classes", page)
    assert listed
    assert page.count('<td class="text"') == int(listed[1].replace(",", ""))
    assert "<mark>" in page


def test_rows_of_few_texts_are_all_listed(tmp_path: Path) -> None:
    page = render_random_evaluation(tmp_path / "c", ["a", "b"], 30)
    assert "All 30 rows." in page
    assert page.count('<td class="text"') == 30


def test_the_stored_thresholds_come_before_those_of_the_measured_rows(tmp_path: Path) -> None:
    """`predict --abstain` uses the stored ones; the others are chosen on the rows that measure them."""
    page = render_random_evaluation(tmp_path / "c", ["a", "b"], 30)
    stored, _, others = page.partition("Thresholds of the checkpoint")[2].partition("Answering only confident texts")
    assert re.findall("<td[^>]*>([^<]*)</td>", stored)[:2] == ["retention", f"{STORED_THRESHOLD:.4f}"]
    assert "The thresholds are chosen on these rows." in others
