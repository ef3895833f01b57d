"""Invalid rows of the input of predict: skipped and listed on request, up to a limit."""

import gzip
import io
import json
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster import UsageError
from jobs.__main__ import main
from jobs.inference import sharded_prediction
from jobs.inference.batch import invalid_rows
from jobs.inference.file_prediction import predict_file
from tests.support.toy_data import read_jsonl

GOOD = [f"word{number}" for number in range(5)]
# Lines with an invalid one after the second, the number of the invalid one, and its reason.
CSV = b"text,id\nword0,0\nword1,1\n%s\nword2,2\nword3,3\nword4,4\n"
JSONL = b"".join(b'{"text": "word%d"}\n' % number for number in range(2)) + b"%s\n"
JSONL += b"".join(b'{"text": "word%d"}\n' % number for number in range(2, 5))
CASES = {
    "columns.csv": (CSV % b"a,b,c", 4, "has 3 columns, but the header has 2"),
    "columns.tsv": ((CSV % b"a").replace(b",", b"\t"), 4, "has 1 columns, but the header has 2"),
    "bytes.csv": (CSV % b"\xff\xfe,2", 4, "byte 0xff at position 1 is not utf-8; set data.encoding"),
    "quote.csv": (CSV % b'"a"b,2', 4, "not valid csv: ',' expected after '\"'"),
    "json.jsonl": (JSONL % b'{"text"', 3, "not valid JSON"),
    "object.jsonl": (JSONL % b"[1]", 3, "must be a JSON object, not a list"),
    "key.jsonl": (JSONL % b'{"body": "x"}', 3, "has no 'text' (data.text_column); it has body"),
    "type.jsonl": (JSONL % b'{"text": null}', 3, "'text' must be a string, not None"),
    "surrogate.jsonl": (JSONL % b'{"text": "\\ud800"}', 3, "contains a lone surrogate"),
    "bytes.jsonl": (JSONL % b'{"text": "\xe9"}', 3, "byte 0xe9 at position 11 is not utf-8"),
    "bytes.ft": (b"__label__a word0\nword1\n\xffword\nword2\nword3\nword4\n", 3, "byte 0xff"),
}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sharded_prediction, "PART_BYTES", 24)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("compress", [False, True])
def test_an_invalid_row_is_skipped_and_listed(saved: str, name: str, compress: bool, messages: list[str]) -> None:
    """With its file, its number and the reason; without the option it is an error with the same position."""
    content, number, reason = CASES[name]
    if compress:
        name, content = f"{name}.gz", gzip.compress(content)
    Path(name).write_bytes(content)
    with pytest.raises(UsageError, match=f"line {number}: "):
        predict_file(saved, name, "out.jsonl", None)
    assert not Path("out.jsonl").exists()
    predict_file(saved, name, "out.jsonl", None, max_invalid=0.2)
    assert [row["text"] for row in read_jsonl(Path("out.jsonl"))] == GOOD
    [row] = read_jsonl(Path("out.jsonl.invalid.jsonl"))
    assert (row["file"], row["line"]) == (name, number)
    assert str(row["reason"]).startswith(reason)
    assert "5 rows, with the columns" in messages[-1]
    assert messages[-1].endswith("; 1 invalid rows are in out.jsonl.invalid.jsonl")


@pytest.mark.parametrize("out", ["out.jsonl", "out.parquet"])
def test_a_row_of_parquet_without_a_text_is_invalid(saved: str, out: str) -> None:
    """Its number counts the rows of the file, in later parts and batches too."""
    pq.write_table(pa.table({"text": [*GOOD[:4], None, GOOD[4]]}), "in.parquet", row_group_size=3)
    predict_file(saved, "in.parquet", out, None, max_invalid=0.5)
    predict_file(saved, "in.parquet", "parts/", None, max_invalid=0.5, workers=1)
    rows = read_jsonl(Path(out)) if out.endswith("jsonl") else pq.read_table(out).to_pylist()
    assert [row["text"] for row in rows] == GOOD
    expected = {"file": "in.parquet", "row": 5, "reason": "the text in 'text' is null; fill it in or remove the row"}
    assert read_jsonl(Path(f"{out}.invalid.jsonl")) == [expected]
    assert [row for path in sorted(Path("parts/_invalid").iterdir()) for row in read_jsonl(path)] == [expected]


def test_a_quote_without_an_end_is_an_error(saved: str) -> None:
    """It may have swallowed any number of valid rows."""
    Path("in.csv").write_bytes(CSV % b'"a,2')
    with pytest.raises(UsageError, match="line 7: not valid csv"):
        predict_file(saved, "in.csv", "out.jsonl", None, max_invalid=1.0)


def test_an_invalid_header_is_an_error(saved: str) -> None:
    for content, message in (
        (b"te\xffxt,text\nword1,2\n", "line 1: byte 0xff"),
        (b'"text"a,id\nx,2\n', "not valid csv"),
    ):
        Path("in.csv").write_bytes(content)
        with pytest.raises(UsageError, match=message):
            predict_file(saved, "in.csv", "out.jsonl", None, max_invalid=1.0)


def test_without_a_valid_row_the_first_error_is_raised(saved: str) -> None:
    for line, message in ((b'{"body": "x"}\n', "has no 'text'"), (b'{"text": "\xe9"}\n', "byte 0xe9")):
        Path("in.jsonl").write_bytes(line * 3)
        with pytest.raises(UsageError, match=f"line 1: {message}"):
            predict_file(saved, "in.jsonl", "out.jsonl", None, max_invalid=1.0)


def test_above_the_limit_there_is_no_output_but_the_list(
    saved: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is one sentence. A list of an earlier run is removed if all rows are valid."""
    Path("in.csv").write_bytes(CSV % b"a,b,c")
    command = ["predict", saved, "in.csv", "--out", "out.csv"]
    assert main([*command, "--skip-invalid"]) == 2
    error = capsys.readouterr().err
    assert (
        "1 of 6 rows are invalid, 16.67%, which is above the limit of 1.00% (--max-invalid): out.csv.invalid.jsonl "
        "lists them, the first is in.csv, line 4: has 3 columns"
    ) in error
    assert not Path("out.csv").exists()
    assert len(read_jsonl(Path("out.csv.invalid.jsonl"))) == 1
    assert main([*command, "--max-invalid", "20"]) == 0
    assert len(Path("out.csv").read_text().splitlines()) == 6
    Path("in.csv").write_bytes(CSV % b"a,b")
    assert main([*command, "--max-invalid", "20%", "--force"]) == 0
    assert not Path("out.csv.invalid.jsonl").exists()
    assert main(["predict", saved, "in.csv", "--skip-invalid"]) == 2
    assert "name one with --out" in capsys.readouterr().err


def test_many_invalid_rows_end_the_command_early(saved: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest of the input is not read."""
    monkeypatch.setattr(invalid_rows, "MIN_ROWS", 10)
    Path("in.csv").write_text("text,id\n" + "word1,1\n" * 5 + "word1\n" * 5 + "word1,1\n" * 100_000)
    with pytest.raises(UsageError, match="5 of 16,389 rows"):  # of the first chunk
        predict_file(saved, "in.csv", "out.csv", None, max_invalid=0.0001)
    monkeypatch.setattr(sharded_prediction, "PART_BYTES", 100)
    Path("in.csv").write_text("text,id\n" + "word1,1\n" * 5 + "word1\n" * 5 + "word1,1\n" * 1000)
    with pytest.raises(UsageError, match=r"5 of \d\d rows"):
        predict_file(saved, "in.csv", "out/", None, max_invalid=0.01, workers=1)
    assert len([*Path("out").glob("part-*")]) == 1


def test_the_share_counts_the_parts_of_earlier_commands(saved: str, messages: list[str]) -> None:
    """Complete parts stay when the limit is exceeded, and when the option is added after an error."""
    rows = [*(f"word{number},1\n" for number in range(20)), "bad\n", *(f"word{number},1\n" for number in range(79))]
    Path("in.csv").write_text("text,id\n" + "".join(rows))
    with pytest.raises(UsageError, match=r"in\.csv, line 22: has 1 columns"):
        predict_file(saved, "in.csv", "out/", None, workers=1)
    strict = {path: path.stat().st_mtime_ns for path in Path("out").glob("part-*")}
    assert strict
    for _ in range(2):  # the second finds all parts complete
        with pytest.raises(UsageError, match=r"1 of \d\d rows are invalid.*out/_invalid lists them"):
            predict_file(saved, "in.csv", "out/", None, workers=1, max_invalid=0.001)
    written = {path: path.stat().st_mtime_ns for path in Path("out").glob("part-*")}
    assert strict.items() <= written.items()
    predict_file(saved, "in.csv", "out/", None, workers=1, max_invalid=0.05)
    assert {path: path.stat().st_mtime_ns for path in Path("out").glob("part-*")} == written
    assert messages[-1].endswith("; 1 invalid rows are in out/_invalid")
    predict_file(saved, "in.csv", "out/", None, workers=1, max_invalid=0.05, restart=True)
    names = [path.name for path in Path("out/_invalid").iterdir()]
    assert len(names) == len(written)
    assert sum(pq.read_metadata(path).num_rows for path in written) == 99


def test_an_invalid_line_of_standard_input_is_listed(saved: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"word1\n\xff\nword2\n")))
    predict_file(saved, "-", "out.jsonl", None, max_invalid=0.5)
    assert [row["text"] for row in read_jsonl(Path("out.jsonl"))] == ["word1", "word2"]
    [row] = map(json.loads, Path("out.jsonl.invalid.jsonl").read_text().splitlines())
    assert (row["file"], row["line"]) == ("standard input", 2)
