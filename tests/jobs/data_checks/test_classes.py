"""Sizes of the classes."""

import tracemalloc

from jobs.data_checks.classes import check_classes
from jobs.data_checks.rows import collect_rows
from jobs.datasets.dataset import Dataset
from jobs.datasets.readers import Split
from jobs.datasets.tokenizer import DEFAULT_SETTINGS
from tests.support.data_checks import make_rows


def test_rows_are_counted_by_class_and_part() -> None:
    rows = make_rows([("a", "x"), ("b", "y"), ("c", "x")], [("d", "x")], [("e", "y"), ("f", "y")])
    assert rows.class_sizes.tolist() == [[2, 1, 0], [1, 0, 2]]
    message = check_classes(rows)[0].message
    assert message == "6 rows (3 training, 1 validation, 2 test) of 2 classes with 1 to 2 training rows"


def test_counts_take_no_cell_for_each_row_and_class() -> None:
    """A matrix of these rows and classes would take 5 MB, one of a million rows of 1,000 classes 1 GB."""
    rows = make_rows([("x", str(number)) for number in range(1000)] * 5)
    tracemalloc.start()
    try:
        assert rows.class_sizes.tolist() == [[5, 0, 0]] * 1000
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()
    assert rows.class_sizes is rows.class_sizes


def test_rows_with_several_labels_are_counted_for_each() -> None:
    parts = [Split(["t"] * len(own), [str(labels) for labels in own], "x", label_sets=own)
             for own in ([("a", "b"), (), ("b",)], [("a",)], [()])]  # fmt: skip
    rows = collect_rows(Dataset(*parts, ["a", "b"], []), DEFAULT_SETTINGS)  # type: ignore[arg-type]
    assert rows.class_sizes.tolist() == [[1, 1, 0], [2, 0, 0]]


def test_small_and_unequal_classes_are_found() -> None:
    train = [("a", "large")] * 41 + [("b", "small")] * 4 + [("c", "middle")] * 5
    _, few, unequal = check_classes(make_rows(train, [("d", "small")]))
    assert few.name == "small classes"
    assert [row.index for row in few.rows] == [41, 42, 43, 44]
    assert "1 of 3 classes has fewer than 5 training rows, such as 'small'" in few.message
    assert "'large' has 41 training rows, 'small' 4" in unequal.message


def test_equal_classes_are_no_finding() -> None:
    assert len(check_classes(make_rows([("a", "x")] * 50 + [("b", "y")] * 5))) == 1
