"""Lines of fastText: labels, texts, and errors that name the line."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from jobs.config.settings import DataSettings
from jobs.datasets.readers import DataError, read_rows


def test_a_label_may_stand_anywhere_in_its_line(tmp_path: Path) -> None:
    """As in fastText, between spaces; blank lines are ignored, and the names of the columns."""
    path = tmp_path / "a.txt"
    lines = "\ufeff__label__x a b\r\n\n  \na __label__y\tb\nx__label__c d __label__z\n__label__w x__label__\n"
    path.write_text(lines, encoding="utf-8")
    rows = read_rows(str(path), DataSettings(text_column="body", label_column="class"))
    assert rows.labels == ["x", "y", "z", "w"]
    assert [text.split() for text in rows.texts] == [["a", "b"], ["a", "b"], ["x__label__c", "d"], ["x__label__"]]
    assert rows.line_numbers == [1, 4, 5, 6]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a b", "has no label; a line of fastText starts with __label__NAME"),
        ("__label__x __label__y a", "has 2 labels, x, y; one label per text is expected"),
        ("__label__ a", "the label in '__label__' is empty"),
    ],
)
def test_errors_name_the_line(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "a.ft").write_text(f"__label__x a\n{line}\n")
    with pytest.raises(DataError) as error:
        read_rows(str(tmp_path / "a.ft"), DataSettings())
    assert f"{tmp_path}/a.ft, line 2: {message}" in str(error.value)


def test_texts_without_labels_are_read_for_prediction(tmp_path: Path) -> None:
    """A line is a text, also a blank one; labels are kept in the record."""
    (tmp_path / "a.txt").write_text("__label__x a\n b c \n\n__label__x __label__y d\n")
    records: list[Mapping[str, object]] = []
    rows = read_rows(str(tmp_path / "a.txt"), DataSettings(), labelled=False, records=records)
    assert rows.texts == ["a", " b c ", "", "d"]
    assert records == [{"text": "a", "label": "x"}, {"text": " b c "}, {"text": ""}, {"text": "d", "label": "x y"}]
