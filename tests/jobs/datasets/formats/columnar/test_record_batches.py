"""Rows of parquet and Arrow files: columns, class names, records, and errors that name file and row."""

import datetime
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from jobs.config.settings import DataSettings
from jobs.datasets.chunks import iter_chunks
from jobs.datasets.formats.rows import InvalidRow, ReadOptions, SourceFile
from jobs.datasets.readers import DataError, Split, iter_rows, read_rows, stream_texts
from tests.support.text_formats import encode_table

HUGGING_FACE = {"info": {"features": {"label": {"names": ["bad", "good"], "_type": "ClassLabel"}}}}


def read_table(folder: Path, table: pa.Table, suffix: str = ".parquet", **settings: object) -> Split:
    (folder / f"a{suffix}").write_bytes(encode_table(table, suffix))
    return read_rows(f"a{suffix}", DataSettings(folder=str(folder), **settings))


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".feather"])
@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (pa.array([3, 1], pa.int8()), ["3", "1"]),
        (pa.array([0.1, 1], pa.float32()), ["0.1", "1"]),
        (pa.array([Decimal("1.00"), Decimal("2.50")]), ["1", "2.50"]),
        (pa.array([" x ", "cafe\u0301"]), ["x", "caf\u00e9"]),
        (pa.array(["x", "y"], pa.large_string()), ["x", "y"]),
        (pa.array(["x", "y"]).dictionary_encode(), ["x", "y"]),
        (pa.array([7, 8]).dictionary_encode(), ["7", "8"]),
    ],
)
def test_labels_of_every_simple_type_are_read(
    tmp_path: Path, suffix: str, labels: pa.Array, expected: list[str]
) -> None:
    """Decimals and floats are spelled with their digits; columns of a dictionary are decoded."""
    texts = pa.array(["a", "b"]).dictionary_encode()
    assert read_table(tmp_path, pa.table({"text": texts, "label": labels}), suffix).labels == expected


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".feather"])
def test_class_numbers_become_names(tmp_path: Path, suffix: str) -> None:
    """If the library `datasets` wrote the file, its class names are in the schema; -1 stands for no class."""
    schema = pa.schema([("text", pa.string()), ("label", pa.int64())], {"huggingface": json.dumps(HUGGING_FACE)})
    table = pa.table({"text": ["a", "b"], "label": [1, 0]}, schema)
    assert read_table(tmp_path, table, suffix).labels == ["good", "bad"]
    table = pa.table({"text": ["a", "b"], "label": [1, -1]}, schema)
    with pytest.raises(DataError, match=rf"a\{suffix}, row 2: the label in 'label' is empty; fill it in"):
        read_table(tmp_path, table, suffix)


@pytest.mark.parametrize("names", [2, "bad", ["bad", 1], {"0": "bad"}])
def test_invalid_class_names_are_an_error(tmp_path: Path, names: object) -> None:
    features = {"label": {"names": names, "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    schema = pa.schema([("text", pa.string()), ("label", pa.int64())], metadata)
    with pytest.raises(DataError, match=r"a\.parquet: the class names of the column 'label' .* not a list of strings"):
        read_table(tmp_path, pa.table({"text": ["a", "b"], "label": [1, 0]}, schema))


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".feather"])
@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"Text": ["a"], "label": ["x"]},
            "has no column 'text' (data.text_column); it has Text, label; did you mean 'Text'?",
        ),
        (
            {"text": ["a"], "lable": ["x"]},
            "has no column 'label' (data.label_column); it has text, lable; did you mean",
        ),
        (
            {"text": ["a", None], "label": ["x", "y"]},
            ", row 2: the text in 'text' is null; fill it in or remove the row",
        ),
        ({"text": ["a"] * 120, "label": ["x"] * 119 + [None]}, ", row 120: the label in 'label' is empty; fill it in"),
        ({"text": ["a", "b"], "label": [1.0, float("nan")]}, ", row 2: the label in 'label' is empty"),
        ({"text": ["a", "b"], "label": [1.0, float("inf")]}, ", row 2: the label in 'label' is Infinity; it must be"),
        ({"text": ["a"], "label": [["x"]]}, "the column 'label' (data.label_column) holds list<"),
        ({"text": ["a"], "label": [{"x": 1}]}, "holds struct<x: int64>, neither strings nor numbers nor booleans"),
        ({"text": ["a"], "label": [datetime.date(2020, 1, 1)]}, "holds date32[day], neither strings nor numbers"),
        ({"text": [1], "label": ["x"]}, "the column 'text' (data.text_column) holds int64, not strings"),
        ({"text": pa.array([], pa.string()), "label": pa.array([], pa.string())}, ": has no rows"),
    ],
)
def test_errors_name_file_row_and_setting(
    tmp_path: Path, suffix: str, columns: Mapping[str, object], message: str
) -> None:
    with pytest.raises(DataError) as error:
        read_table(tmp_path, pa.table(columns), suffix)
    assert f"{tmp_path}/a{suffix}" in str(error.value)
    assert message in str(error.value)
    if "list<" in message:
        assert "data.multi_label=true" in str(error.value)


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".feather"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.9, 0.99])
def test_a_truncated_file_is_an_error(tmp_path: Path, suffix: str, share: float) -> None:
    """Never a file with fewer rows."""
    numbers = range(1000)
    table = pa.table({"text": [f"text {n}" for n in numbers], "label": [str(n % 3) for n in numbers]})
    content = encode_table(table, suffix)
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match=rf"a\{suffix}(, after row \d+)?: cannot be read as .*damaged or incomplete"):
        read_rows(str(path), DataSettings())


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".feather"])
def test_texts_that_are_not_utf_8_are_an_error(tmp_path: Path, suffix: str) -> None:
    """Pyarrow does not check them when it reads a file."""
    offsets, content = pa.py_buffer(np.array([0, 1, 3], np.int32)), pa.py_buffer(b"ab\xff")
    table = pa.table({"text": pa.StringArray.from_buffers(2, offsets, content), "label": ["x", "y"]})
    file = SourceFile(str(tmp_path / f"a{suffix}"), "parquet" if suffix == ".parquet" else "arrow")
    Path(file.path).write_bytes(encode_table(table, suffix))
    options = ReadOptions(DataSettings(), labelled=False, with_records=True)
    readers: list[Callable[[], object]] = [
        lambda: read_rows(file.path, DataSettings()),
        lambda: list(iter_rows(file, options)),
        lambda: list(iter_chunks([file], options, as_batches=True)),
    ]
    for read in readers:
        with pytest.raises(DataError, match=rf"a\{suffix}, row 2: the text in 'text' is not UTF-8: invalid start byte"):
            read()
    invalid: list[InvalidRow] = []
    options = replace(options, on_invalid_row=invalid.append)
    assert [text for _, text, _, _ in iter_rows(file, options)] == ["a"]
    assert [[*chunk.texts] for chunk in iter_chunks([file], options, as_batches=True)] == [["a"]]
    assert [row.number for row in invalid] == [2, 2]


@pytest.mark.parametrize("as_batches", [False, True])
def test_other_columns_that_are_not_utf_8_are_invalid_rows_too(tmp_path: Path, as_batches: bool) -> None:
    offsets, content = pa.py_buffer(np.array([0, 1, 3], np.int32)), pa.py_buffer(b"ab\xff")
    other = pa.StringArray.from_buffers(2, offsets, content)
    (tmp_path / "a.parquet").write_bytes(encode_table(pa.table({"text": ["one", "two"], "other": other}), ".parquet"))
    file, invalid = SourceFile(str(tmp_path / "a.parquet"), "parquet"), list[InvalidRow]()
    options = ReadOptions(DataSettings(), labelled=False, with_records=True, on_invalid_row=invalid.append)
    assert [[*chunk.texts] for chunk in iter_chunks([file], options, as_batches=as_batches)] == [["one"]]
    assert [(row.number, row.reason) for row in invalid] == [
        (2, "the value in 'other' is not UTF-8: invalid start byte")
    ]


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (pa.string_view(), "x"),
        (pa.binary_view(), "x"),
        (pa.list_(pa.string_view()), ["x"]),
        (pa.large_list(pa.binary_view()), ["x"]),
        (pa.list_(pa.string_view(), 1), ["x"]),
        (pa.struct({"a": pa.string_view()}), {"a": "x"}),
    ],
)
def test_columns_of_views_are_read(tmp_path: Path, kind: pa.DataType, value: object) -> None:
    """Arrow cannot filter them: rows without a text, and those that are not selected."""
    texts = pa.array(["a", None, "b"], pa.string_view())
    table = pa.table({"text": texts, "other": pa.array([value] * 3, kind), "label": texts})
    (tmp_path / "a.arrow").write_bytes(encode_table(table, ".arrow"))
    options = ReadOptions(DataSettings(), labelled=False, with_records=True, on_invalid_row=lambda row: None)
    [chunk] = iter_chunks([SourceFile(str(tmp_path / "a.arrow"), "arrow")], options, as_batches=True)
    selected = chunk.select([1])
    assert (selected.texts, selected.batch["text"].to_pylist()) == (["b"], ["b"])
    assert pa.array(selected.batch["other"].to_pylist(), kind).to_pylist() == pa.array([value], kind).to_pylist()


def test_a_type_that_arrow_cannot_filter_is_an_error(tmp_path: Path) -> None:
    """It is not said that the file is damaged."""
    kind = pa.run_end_encoded(pa.int32(), pa.string())
    table = pa.table({"text": ["a", None], "other": pa.array(["x", "y"], kind)})
    (tmp_path / "a.arrow").write_bytes(encode_table(table, ".arrow"))
    options = ReadOptions(DataSettings(), labelled=False, with_records=True, on_invalid_row=lambda row: None)
    with pytest.raises(DataError, match=r"a\.arrow: cannot be read as arrow: .*run_end_encoded(?!.*damaged)"):
        list(iter_chunks([SourceFile(str(tmp_path / "a.arrow"), "arrow")], options, as_batches=True))


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_dates_after_the_year_9999(tmp_path: Path, suffix: str) -> None:
    """Python has none; records have them as Arrow spells them, and a column of weights does without other columns."""
    day = pa.array([10**7], pa.int32()).cast(pa.date32())
    table = pa.table({"text": ["a"], "label": ["x"], "weight": [2.5], "day": day})
    length = pa.array([1 << 60], pa.duration("s"))
    table = table.append_column("days", pa.array([[10**7, 1]], pa.list_(pa.int32())).cast(pa.list_(pa.date32())))
    table = table.append_column("nested", pa.StructArray.from_arrays([day, length], ["day", "length"]))
    records: list[Mapping[str, object]] = []
    path = tmp_path / f"a{suffix}"
    path.write_bytes(encode_table(table, suffix))
    read_rows(str(path), DataSettings(), records=records)
    expected = {"text": "a", "label": "x", "weight": 2.5, "day": "29349-01-26", "days": ["29349-01-26", "1970-01-02"]}
    assert records == [{**expected, "nested": {"day": "29349-01-26", "length": f"{1 << 60} s"}}]
    union = pa.UnionArray.from_dense(pa.array([0], pa.int8()), pa.array([0], pa.int32()), [day])
    if suffix == ".arrow":
        path.write_bytes(encode_table(table.append_column("union", union), suffix))
    assert read_rows(str(path), DataSettings(weight_column="weight"), weighted=True).weights == [2.5]


def test_times_that_python_lacks(tmp_path: Path) -> None:
    """Nanoseconds stay; a time in a zone that the machine does not know is in UTC."""
    table = pa.table({"text": ["a", "b"], "label": ["x", "y"]})
    table = table.append_column("time", pa.array([3_600_000_000_001, None], pa.time64("ns")))
    table = table.append_column("mars", pa.array([1_000_000, None], pa.timestamp("us", tz="Mars/Phobos")))
    records: list[Mapping[str, object]] = []
    (tmp_path / "a.parquet").write_bytes(encode_table(table, ".parquet"))
    read_rows(str(tmp_path / "a.parquet"), DataSettings(), records=records)
    assert [(row["time"], row["mars"]) for row in records] == [
        ("01:00:00.000000001", "1970-01-01 00:00:01+00:00"),
        (None, None),
    ]


def test_a_class_number_without_a_name_stays_a_number(tmp_path: Path) -> None:
    """As a string in a batch, whose column holds names."""
    schema = pa.schema([("text", pa.string()), ("label", pa.int64())], {"huggingface": json.dumps(HUGGING_FACE)})
    table = pa.table({"text": ["a"] * 3, "label": [1, 7, -1]}, schema)
    (tmp_path / "a.parquet").write_bytes(encode_table(table, ".parquet"))
    options = ReadOptions(DataSettings(), labelled=False, with_records=True)
    [chunk] = iter_chunks([SourceFile(str(tmp_path / "a.parquet"), "parquet")], options, as_batches=True)
    assert chunk.batch is not None
    assert chunk.batch.column("label").to_pylist() == ["good", "7", None]


def test_a_stream_that_ends_between_two_batches_is_an_error(tmp_path: Path) -> None:
    """As the writer leaves it that is killed."""
    table = pa.table({"text": ["a"] * 100, "label": ["x"] * 100})
    content = encode_table(table, ".arrow")
    (tmp_path / "a.arrow").write_bytes(content[:-8])
    with pytest.raises(
        DataError, match=r"a\.arrow, after row 100: cannot be read as arrow: the stream has no end marker"
    ):
        read_rows(str(tmp_path / "a.arrow"), DataSettings())


@pytest.mark.parametrize("kind", [pa.float16(), pa.float32(), pa.float64()])
def test_records_have_none_for_numbers_that_json_lacks(tmp_path: Path, kind: pa.DataType) -> None:
    """Also inside lists and dictionaries: `predict` writes null, and empty fields of csv."""
    numbers = [0.5, float("nan"), float("inf"), float("-inf"), None]
    column = pa.array(numbers, pa.float64()).cast(kind)
    columns = {"text": ["a"] * 5, "x": column, "y": pa.array([[number] for number in numbers])}
    (tmp_path / "a.arrow").write_bytes(encode_table(pa.table(columns), ".arrow"))
    records: list[Mapping[str, object]] = []
    read_rows(str(tmp_path / "a.arrow"), DataSettings(), labelled=False, records=records)
    assert [record["x"] for record in records] == [0.5, None, None, None, None]
    assert [record["y"] for record in records] == [[0.5], [None], [None], [None], [None]]


def test_only_the_columns_of_texts_and_labels_are_read(tmp_path: Path) -> None:
    """Another column of the parquet file may be damaged."""
    path = tmp_path / "a.parquet"
    path.write_bytes(
        encode_table(pa.table({"other": ["b"] * 100, "text": ["a"] * 100, "label": ["x"] * 100}), ".parquet")
    )
    content = bytearray(path.read_bytes())
    start = pyarrow.parquet.read_metadata(path).row_group(1).column(0).dictionary_page_offset
    content[start : start + 20] = bytes(20)
    path.write_bytes(content)
    assert len(read_rows(str(path), DataSettings())) == 100
    with pytest.raises(
        DataError, match=r"a\.parquet: cannot be read as parquet: .*; the file may be damaged or incomplete$"
    ):
        read_rows(str(path), DataSettings(), records=[])


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".feather"])
def test_records_have_all_columns_as_json(tmp_path: Path, suffix: str) -> None:
    """Class names instead of numbers, strings instead of dates, decimals and bytes; the label is not read."""
    metadata = {"huggingface": json.dumps(HUGGING_FACE)}
    columns = {
        "text": pa.array(["a", "b"]),
        "label": pa.array([0, -1]),
        "share": pa.array([0.1, None], pa.float32()),
        "day": pa.array([datetime.date(2020, 1, 2), None]),
        "price": pa.array([Decimal("1.50"), None]),
        "image": pa.array([{"bytes": b"\xff", "tags": ["x"]}, None]),
        "kind": pa.array(["x", "y"]).dictionary_encode(),
    }
    table = pa.table(columns).replace_schema_metadata(metadata)
    (tmp_path / f"a{suffix}").write_bytes(encode_table(table, suffix))
    records: list[Mapping[str, object]] = []
    rows = read_rows(str(tmp_path / f"a{suffix}"), DataSettings(), labelled=False, records=records)
    assert rows.labels == ["", ""]
    image = {"bytes": "/w==", "tags": ["x"]}
    first = {
        "text": "a",
        "label": "bad",
        "share": 0.1,
        "day": "2020-01-02",
        "price": "1.50",
        "image": image,
        "kind": "x",
    }
    assert records[0] == first
    assert list(records[1].values()) == ["b", None, None, None, None, None, "y"]


def test_columns_of_the_same_name_are_an_error(tmp_path: Path) -> None:
    """Of the texts, always; others only if all columns are wanted."""
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["x"]), pa.array(["y"])], ["text", "label", "label"])
    with pytest.raises(DataError, match=r"a\.arrow: has the column 'label' \(data\.label_column\) twice"):
        read_table(tmp_path, table, ".arrow")
    table = pa.Table.from_arrays([pa.array(["a"]), *[pa.array(["x"])] * 3], ["text", "label", "note", "note"])
    assert read_table(tmp_path, table, ".arrow").labels == ["x"]
    with pytest.raises(DataError, match=r"a\.arrow: has 2 columns with the name 'note'"):
        read_rows(str(tmp_path / "a.arrow"), DataSettings(), records=[])


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".feather"])
def test_bytes_are_counted_while_texts_are_streamed(tmp_path: Path, suffix: str) -> None:
    """For a progress bar: in several steps, near the size of the file at the end."""
    table = pa.table({"text": [f"text {n}" for n in range(20_000)], "label": ["x"] * 20_000})
    content = encode_table(table, suffix)
    (tmp_path / f"a{suffix}").write_bytes(content)
    sizes: list[int] = []
    texts = list(stream_texts(str(tmp_path / f"a{suffix}"), DataSettings(), sizes.append))
    assert len(texts) == 20_000
    assert len(sizes) > 1
    assert sum(sizes) == pytest.approx(len(content), rel=0.5)
