"""Blocks of rows of parquet and Arrow files: those of the readers, from the bytes of the columns, or their errors."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.config.formats import FormatName
from jobs.config.settings import DataSettings
from tests.support.row_blocks import check_blocks, count_fast_rows
from tests.support.text_formats import encode_table

pytestmark = pytest.mark.usefixtures("small_blocks")

FORMATS: list[tuple[FormatName, str]] = [("parquet", ".parquet"), ("arrow", ".arrow"), ("arrow", ".feather")]
STRINGS = [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())]
TEXTS = st.sampled_from(["", "a b", "é", "e\u0301", "\U0001f600", "\ufeffa", "a\nb", "a\0"])
NAMES = st.sampled_from(["x", " x ", "y", "1.0", "1", "TRUE", "true", "é", "e\u0301"])
LABELS: list[tuple[pa.DataType, st.SearchStrategy[Any]]] = [
    *((kind, NAMES) for kind in STRINGS),
    (pa.int64(), st.integers(-1, 3)),
    (pa.uint8(), st.integers(0, 3)),
    (pa.dictionary(pa.int32(), pa.int64()), st.integers(-1, 3)),
    (pa.bool_(), st.booleans()),
    (pa.float64(), st.sampled_from([0.0, -0.0, 0.1, 1.0, 1e300, float("nan"), float("inf")])),
    (pa.float32(), st.sampled_from([0.0, -0.0, 0.1, 1.0])),
    (pa.decimal128(4, 1), st.sampled_from([Decimal("1.0"), Decimal("-0.5")])),
    (pa.null(), st.none()),
]
CLASS_NAMES = {"info": {"features": {"label": {"_type": "ClassLabel", "names": ["no", "yes", " 2.0"]}}}}


@settings(deadline=None, max_examples=250)  # the first call compiles
@given(data=st.data(), number=st.integers(0, 40), is_named=st.booleans(), file_format=st.sampled_from(FORMATS))
def test_rows_and_errors_are_those_of_the_reader(
    path: Path, data: st.DataObject, number: int, is_named: bool, file_format: tuple[FormatName, str]
) -> None:
    """Of every type of texts and labels, with nulls, names of classes and invalid labels."""
    kind, values = data.draw(st.sampled_from(LABELS))
    rarely_null = st.sampled_from([False] * 60 + [True])
    nulls = data.draw(st.lists(st.tuples(rarely_null, rarely_null), min_size=number, max_size=number))
    texts = [None if is_null else data.draw(TEXTS) for is_null, _ in nulls]
    labels = [None if is_null else data.draw(values) for _, is_null in nulls]
    text_type = data.draw(st.sampled_from(STRINGS))
    table = pa.table(
        {"label": pa.array(labels, kind), "other": pa.array([1] * number), "text": pa.array(texts, text_type)}
    )
    if is_named:
        table = table.replace_schema_metadata({"huggingface": json.dumps(CLASS_NAMES)})
    name, suffix = file_format
    path.write_bytes(encode_table(table, suffix))
    check_blocks(path, name, DataSettings())


@pytest.mark.parametrize(("kind", "suffix"), FORMATS)
@pytest.mark.parametrize(
    ("texts", "labels", "message"),
    [
        (["a", None], ["x", "y"], "row 8: the text in 'text' is null; fill it in or remove the row"),
        (["a", "b"], ["x", None], "row 8: the label in 'label' is empty; fill it in or remove the row"),
        (["a", "b"], ["x", "  "], "row 8: the label in 'label' is empty; fill it in or remove the row"),
        (["a", "b"], [["x"], ["y"]], "the column 'label' (data.label_column) holds list"),
        (["a", "b"], [b"x", b"y"], "the column 'label' (data.label_column) holds binary, neither strings nor"),
        ([1, 2], ["x", "y"], "the column 'text' (data.text_column) holds int64, not strings"),
    ],
)
def test_errors_name_the_file_and_the_row(
    path: Path, kind: FormatName, suffix: str, texts: list[Any], labels: list[Any], message: str
) -> None:
    table = pa.table({"label": [labels[0]] * 6 + labels, "text": [texts[0]] * 6 + texts})
    path.write_bytes(encode_table(table, suffix))
    assert message in check_blocks(path, kind, DataSettings())


@pytest.mark.parametrize("column", ["text", "label"])
@pytest.mark.parametrize(("kind", "suffix"), FORMATS)
def test_invalid_utf8_is_reported(path: Path, kind: FormatName, suffix: str, column: str) -> None:
    content, offsets = pa.py_buffer(b"abcdefgh\xff"), pa.py_buffer(np.arange(10, dtype=np.int32))
    columns = {"label": pa.array(["x"] * 9), "text": pa.array(["a"] * 9)}
    columns[column] = pa.Array.from_buffers(pa.string(), 9, [None, offsets, content])
    path.write_bytes(encode_table(pa.table(columns), suffix))
    noun = "text" if column == "text" else "value"
    assert f", row 9: the {noun} in '{column}' is not UTF-8" in check_blocks(path, kind, DataSettings())


@pytest.mark.parametrize(("kind", "suffix"), FORMATS)
def test_damaged_files_are_reported(path: Path, kind: FormatName, suffix: str) -> None:
    content = encode_table(pa.table({"label": ["x", "y"] * 200, "text": ["a b", "c"] * 200}), suffix)
    for cut in (4, len(content) // 2):
        path.write_bytes(content[:-cut])
        assert "may be damaged or incomplete" in check_blocks(path, kind, DataSettings())


@pytest.mark.parametrize("label", [pa.string(), pa.dictionary(pa.int8(), pa.string()), pa.int64(), pa.bool_()], ids=str)
@pytest.mark.parametrize("text", STRINGS[:2], ids=str)
@pytest.mark.parametrize(("kind", "suffix"), FORMATS)
def test_columns_are_read_without_objects_of_rows(
    path: Path, kind: FormatName, suffix: str, text: pa.DataType, label: pa.DataType
) -> None:
    """The reader in Python is not called for usual columns."""
    values = pa.array([0, 1] * 50).cast(label if not pa.types.is_dictionary(label) else pa.string()).cast(label)
    path.write_bytes(encode_table(pa.table({"label": values, "text": pa.array(["a", "é"] * 50, text)}), suffix))
    assert count_fast_rows(path, kind) == 100
    check_blocks(path, kind, DataSettings())
