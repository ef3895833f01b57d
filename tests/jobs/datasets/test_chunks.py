"""Columns of jsonl: the fast scan finds what the reader finds, or leaves the file to it. Selected rows of a chunk."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from cluster import UsageError
from jobs.config.settings import DataSettings
from jobs.datasets import chunks
from jobs.datasets.chunks import Chunk, scan_columns
from jobs.datasets.formats.columnar.encoded_texts import EncodedTexts
from jobs.datasets.formats.rows import ReadOptions, SourceFile
from tests.support.text_formats import encode_table

OPTIONS = ReadOptions(DataSettings(text_column="text"), labelled=False, with_records=True)


def scan(path: Path, content: str) -> chunks.ColumnTypes:
    path.write_text(content, encoding="utf-8")
    return scan_columns([SourceFile(str(path), "jsonl")], OPTIONS)


@pytest.mark.parametrize(
    ("rows", "is_regular"),
    [
        (['{"text": "a", "n": 1}', '{"n": 2.5, "text": "", "cafe\\u0301": [1], "big": 12345678901234567890}'], True),
        (['{"text": "a", "n": null}', '{"text": "b", "n": true, "m": {"x": 1}}', '{"text": "c", "n": "x"}'], True),
        (["", '{"text": "a"}', " \t\u3000", '{"text": "b", "n": 1}', ""], True),
        (['{"text": "a"}', '{"text": "b", "n": NaN}', '{"text": "c", "m": 1e400}'], False),
        (['{"text": "a", "caf\\u00e9": 1}', '{"text": "b", "cafe\\u0301": 2.5}'], False),
    ],
)
def test_both_scans_find_the_same_columns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: list[str], is_regular: bool
) -> None:
    """Names in NFC, in the order of their occurrence, with the types of all rows."""
    path = tmp_path / "in.jsonl"
    columns = scan(path, "\n".join([*rows, ""]))
    file = SourceFile(str(path), "jsonl")
    assert (chunks._scan_regular_lines(file, OPTIONS) is not None) == is_regular
    monkeypatch.setattr(chunks, "_scan_regular_lines", lambda *_: None)
    expected = scan_columns([file], OPTIONS)
    assert columns == expected
    assert [*columns] == [*expected]
    assert {"text"} < {*columns}


@pytest.mark.parametrize("line", ['{"text": 1}', "[]", "{", '{"txt": "a"}', json.dumps({"text": "\ud800"})])
def test_an_invalid_line_is_an_error_of_the_reader(tmp_path: Path, line: str) -> None:
    with pytest.raises(UsageError, match=r"in\.jsonl, line 2: "):
        scan(tmp_path / "in.jsonl", f'{{"text": "a"}}\n{line}\n')


def test_only_selected_texts_are_decoded() -> None:
    """The text that is left out is not UTF-8, so that decoding it would fail."""
    texts = EncodedTexts(b"one\xfftwo", np.array([0, 3, 4, 7]))
    batch = pa.RecordBatch.from_pydict({"id": [1, 2, 3]})
    chunk = Chunk(texts, (), batch).select([0, 2])
    assert chunk.batch is not None
    assert (chunk.texts, chunk.records, chunk.batch.to_pydict()) == (["one", "two"], (), {"id": [1, 3]})
    records = [{"id": 1}, {"id": 2}]
    assert Chunk(["one", "two"], records).select([1]) == Chunk(["two"], records[1:])


@pytest.mark.parametrize("form", ["parquet", "arrow"])
def test_types_of_parquet_and_arrow_do_not_depend_on_the_first_row(tmp_path: Path, form: str) -> None:
    """It may be null, or a smaller number than others."""
    table = pa.table({
        "text": ["a", "b"], "n": pa.array([None, 2], pa.int32()), "f": pa.array([None, 0.5], pa.float32()),
        "big": pa.array([1, 2**64 - 1], pa.uint64()), "yes": pa.array([None, True]), "cafe\u0301": [1, 2],
        "coded": pa.array([1, 2]).dictionary_encode(),
    })  # fmt: skip
    (tmp_path / f"in.{form}").write_bytes(encode_table(table, f".{form}"))
    types = scan_columns([SourceFile(str(tmp_path / f"in.{form}"), form)], OPTIONS)
    assert types == {
        "text": {str},
        "n": {int},
        "f": {float},
        "big": {object},
        "yes": {bool},
        "caf\u00e9": {int},
        "coded": {int},
    }
