"""Slices of an evaluation: by length, unknown words and class, and by the values of a column."""

import numpy as np

from jobs.datasets.tokenizer import Vocabulary, encode
from jobs.evaluation.slices import MAX_VALUES, SMALL_SLICE, slice_by_column, slice_by_properties


def test_rows_are_divided_by_length_unknown_words_and_class() -> None:
    """Only slices with rows are listed, in their order."""
    texts = [["a"] * 5, ["a"] * 6, ["x", *["a"] * 9], ["x", "a"], ["x"]]
    correct = np.array([True, True, False, True, False])
    slices = slice_by_properties(
        encode(texts, Vocabulary(["a"]), 1000), np.array([1, 1, 1, 0, 0]), ["bad", "good", "none"], correct
    )
    assert [(item.by, item.value, item.rows, round(item.accuracy, 3)) for item in slices] == [
        ("words", "1 to 5", 3, 0.667),
        ("words", "6 to 10", 2, 0.5),
        ("unknown words", "0 %", 2, 1),
        ("unknown words", "up to 10 %", 1, 0),
        ("unknown words", "up to 50 %", 1, 1),
        ("unknown words", "more than 50 %", 1, 0),
        ("class", "bad", 2, 0.5),
        ("class", "good", 3, 0.667),
    ]
    assert all(item.interval[0] <= item.accuracy <= item.interval[1] for item in slices)


def test_texts_without_words_and_very_long_ones_are_slices() -> None:
    tokens = encode([[], ["a"] * 600], Vocabulary(["a"]), 1000)
    slices = slice_by_properties(tokens, np.array([0, 0]), ["only"], np.array([True, True]))
    assert [item.value for item in slices if item.by == "words"] == ["none", "more than 500"]
    assert [(item.value, item.rows) for item in slices if item.by == "unknown words"] == [("0 %", 1)]


def test_small_slices_are_marked() -> None:
    values = ["large"] * SMALL_SLICE + ["small"] * (SMALL_SLICE - 1)
    large, small = slice_by_column("source", values, np.ones(len(values), bool))
    assert large.to_row() == {
        "source": "large", "rows": "30", "accuracy": "1.000", "95% confidence": "0.886 to 1.000", "note": ""
    }  # fmt: skip
    assert small.to_row()["note"] == "few rows"


def test_the_values_of_a_column_are_in_order() -> None:
    """Numbers by their value, then other values by their name."""
    values = ["10", "9", "b", "(empty)", "a", "9"]
    correct = np.array([True, True, False, False, True, False])
    slices = slice_by_column("year", values, correct)
    assert [(item.value, item.rows, item.accuracy) for item in slices] == [
        ("9", 2, 0.5), ("10", 1, 1), ("(empty)", 1, 0), ("a", 1, 1), ("b", 1, 0)
    ]  # fmt: skip


def test_a_column_with_the_name_of_a_property_has_slices_of_its_own() -> None:
    """In a table the two would be mixed."""
    for column in ("words", "unknown words", "class", "note", "rows", "accuracy", "micro F1", "95% confidence"):
        assert {item.by for item in slice_by_column(column, ["a", "b"], np.ones(2, bool))} == {f"column '{column}'"}


def test_many_numbers_are_divided_into_ranges_and_many_values_into_the_most_frequent_ones() -> None:
    numbers = [str(number) for number in range(100)]
    slices = slice_by_column("price", numbers, np.arange(100) < 30)
    assert [(item.value, item.rows) for item in slices] == [
        ("0 to 24", 25), ("25 to 49", 25), ("50 to 74", 25), ("75 to 99", 25)
    ]  # fmt: skip
    assert [item.accuracy for item in slices] == [1, 0.2, 0, 0]
    values = [*numbers, *["author 1"] * 7, *["author 2"] * 5]
    slices = slice_by_column("author", values, np.ones(112, bool))
    assert len(slices) == MAX_VALUES
    assert [(item.value, item.rows) for item in slices[:2]] == [("author 1", 7), ("author 2", 5)]
    assert (slices[-1].value, slices[-1].rows) == ("other values (83)", 83)
    slices = slice_by_column("price", ["(empty)", *numbers, "(empty)"], np.ones(102, bool))
    assert [(item.value, item.rows) for item in slices[2:]] == [("50 to 74", 25), ("75 to 99", 25), ("(empty)", 2)]
    skewed = ["0"] * 90 + numbers
    assert sum(item.rows for item in slice_by_column("price", skewed, np.ones(190, bool))) == 190
