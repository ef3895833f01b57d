"""Sizes of the classes."""

from jobs.data_checks.classes import check_classes, count_classes
from tests.support.data_checks import make_rows


def test_rows_are_counted_by_class_and_part() -> None:
    rows = make_rows([("a", "x"), ("b", "y"), ("c", "x")], [("d", "x")], [("e", "y"), ("f", "y")])
    assert count_classes(rows).tolist() == [[2, 1, 0], [1, 0, 2]]
    message = check_classes(rows)[0].message
    assert message == "6 rows (3 training, 1 validation, 2 test) of 2 classes with 1 to 2 training rows"


def test_small_and_unequal_classes_are_found() -> None:
    train = [("a", "large")] * 41 + [("b", "small")] * 4 + [("c", "middle")] * 5
    _, few, unequal = check_classes(make_rows(train, [("d", "small")]))
    assert few.name == "small classes"
    assert [row.index for row in few.rows] == [41, 42, 43, 44]
    assert "1 of 3 classes have fewer than 5 training rows, such as 'small'" in few.message
    assert "'large' has 41 training rows, 'small' 4" in unequal.message


def test_equal_classes_are_no_finding() -> None:
    assert len(check_classes(make_rows([("a", "x")] * 50 + [("b", "y")] * 5))) == 1
