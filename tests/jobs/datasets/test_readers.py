"""Readers of text files: csv, tsv and jsonl, and errors that name the position."""

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Literal

import pandas
import pytest

from jobs.config.experiment import ExperimentError, load_experiment
from jobs.config.settings import DataSettings
from jobs.datasets.readers import DataError, Split, check_file, read_rows
from tests.support.text_formats import compress, encode_rows

GOOD = "label,text\ngood,a b\nbad,c d\n"


def read_file(tmp_path: Path, name: str, content: bytes | str, **settings: object) -> Split:
    content = content.encode() if isinstance(content, str) else content
    (tmp_path / name).write_bytes(content)
    return read_rows(name, DataSettings(folder=str(tmp_path), **settings))


def test_csv_tsv_and_jsonl_have_the_same_rows(tmp_path: Path) -> None:
    """Files are plain or gzipped, with or without a byte order mark."""
    expected = (['say "hi", now', "it\u2019s"], ["a", "b"])
    csv = 'label,text\na,"say ""hi"", now"\nb,it\u2019s\n'
    tsv = 'label\ttext\na\tsay "hi", now\nb\tit\u2019s\n'
    jsonl = '{"text": "say \\"hi\\", now", "label": "a"}\n\n{"label": "b", "text": "it\u2019s"}\n'
    for name, content in (("a.csv", csv), ("a.tsv", tsv), ("a.jsonl", jsonl)):
        for suffix, data in (("", content.encode()), (".gz", gzip.compress(content.encode()))):
            part = read_file(tmp_path, name + suffix, data)
            assert (part.texts, part.labels) == expected
    assert read_file(tmp_path, "bom.csv", "\ufeff" + csv).texts == expected[0]


def test_columns_and_encoding_are_settings(tmp_path: Path) -> None:
    part = read_file(
        tmp_path,
        "a.csv",
        "id,Klasse,Satz\n1,x,f\u00fcr\n".encode("latin-1"),
        text_column="Satz",
        label_column="Klasse",
        encoding="latin-1",
    )
    assert (part.texts, part.labels) == (["f\u00fcr"], ["x"])


def test_json_labels_may_be_numbers_and_booleans(tmp_path: Path) -> None:
    assert read_file(tmp_path, "a.jsonl", '{"text": "a", "label": 1}\n{"text": "b", "label": true}').labels == [
        "1",
        "true",
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "", r"a\.csv: is empty"),
        ("a.csv", "label,text\n", r"a\.csv: has no rows"),
        ("a.csv", "label,body\nx,y\n", r"a\.csv: has no column 'text' \(data.text_column\); it has label, body"),
        ("a.csv", "text\nx\n", r"has no column 'label' \(data.label_column\)"),
        ("a.csv", "Text,label\nx,y\n", r"it has Text, label; .* by commas \(data.delimiter\); did you mean 'Text'\?$"),
        ("a.csv", ",".join(f"c{n}" for n in range(30)), r"it has c0, c1, .*, c19 and 10 more; they are separated"),
        ("a.jsonl", '{"body": "a", "labels": "x"}', r"has no 'text' \(data.text_column\); it has body, labels$"),
        ("a.csv", "label,text\nx,a\ny\n", r"a\.csv, line 3: has 1 columns, but the header has 2"),
        ("a.csv", 'label,text\nx,"a\n', r"a\.csv, line 2: not valid csv"),
        ("a.csv", "label,text\n,a\n", r"a\.csv, line 2: the label in 'label' is empty"),
        (
            "a.tsv",
            b"label\ttext\nx\ta\ny\t\xff\xfe\n",
            r"a\.tsv, line 3: byte 0xff at position 3 is not utf-8; set data.encoding",
        ),
        ("a.jsonl", '{"text": "a", "label": "x"}\n{"text"', r"a\.jsonl, line 2: not valid JSON"),
        ("a.jsonl", "[1]", r"line 1: must be a JSON object, not a list"),
        ("a.jsonl", '{"label": "x"}', r"line 1: has no 'text' \(data.text_column\); it has label"),
        ("a.jsonl", '{"text": 5, "label": "x"}', r"line 1: 'text' must be a string, not 5"),
        ("a.jsonl", '{"text": "a", "label": null}', r"line 1: the label in 'label' is empty"),
        ("a.jsonl", "[" * 100_000, r"line 1: not valid JSON"),
        ("a.jsonl", '{"text": "\\ud800", "label": "x"}', r"line 1: contains a lone surrogate"),
        ("a.jsonl", '{"text": "a", "label": ' + "9" * 5000 + "}", r"line 1: not valid JSON"),
        ("a.csv.gz", b"\x1f\x8bnot gzip", r"a\.csv\.gz: cannot be read"),
        ("a.xlsx", "x", r"must end in .csv, .tsv, .jsonl"),
        (
            "a.csv",
            "label;body\nx;y\n",
            r"has no column 'text' .*; it has label, body; they are separated by semicolons",
        ),
        ("a.csv", "text,label,text\nx,y,z\n", r"a\.csv: has the column 'text' \(data.text_column\) twice"),
        ("a.csv", "\n\nlabel,text\nx,a\n,b\n", r"a\.csv, line 5: the label in 'label' is empty"),
        ("a.csv", '\nlabel,text\nx,"a\n', r"a\.csv, line 3: not valid csv"),
        ("a.csv", "\nlabel,text\nx\n", r"a\.csv, line 3: has 1 columns, but the header has 2; .* separated by commas"),
        ("a.csv", "label,text\rx,a\r", r"a\.csv, line \d: not valid csv"),
        ("a.tsv", 'label\ttext\nx\t"a\nb\n', r"a\.tsv, line 3: has 1 columns"),
        ("a.jsonl", '{"text": "a", "label": ["x"]}', r'a\.jsonl, line 1: the label in \'label\' is a list, \["x"\]'),
        ("a.jsonl", '{"text": "a", "label": {"x": 1}}', r'line 1: the label in \'label\' is {"x": 1}; it must be'),
        ("a.jsonl", '{"text": "a", "label": NaN}', r"line 1: the label in 'label' is empty"),
        ("a.jsonl", '{"text": "a", "label": -Infinity}', r"line 1: the label in 'label' is -Infinity; it must be"),
        (
            "a.jsonl",
            '{"text": "a", "label": "x", "text": "b"}',
            r"line 1: not valid JSON: an object has a key twice: text$",
        ),
    ],
)
def test_errors_name_file_line_and_setting(tmp_path: Path, name: str, content: bytes | str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_file(tmp_path, name, content)


def test_equal_numbers_are_the_same_label(tmp_path: Path) -> None:
    content = "".join(f'{{"text": "a", "label": {value}}}\n' for value in ("1", "1.0", '"1"', "1e0", "-0.0", "1.5"))
    assert read_file(tmp_path, "a.jsonl", content).labels == ["1", "1", "1", "1", "0", "1.5"]


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl"])
def test_unicode_spellings_of_a_label_or_a_column_are_the_same(tmp_path: Path, name: str) -> None:
    """Composed or decomposed, in the file and in the settings."""
    rows = [("texte\u0301", "caf\u00e9"), ("a", "cafe\u0301"), ("b", "caf\u00e9 ")]
    if name == "a.jsonl":
        content = "".join(json.dumps({"te\u0301": text, "e\u0301": label}) + "\n" for text, label in rows)
    else:
        mark = "\t" if name == "a.tsv" else ","
        content = "".join(f"{text}{mark}{label}\n" for text, label in [("te\u0301", "e\u0301"), *rows])
    part = read_file(tmp_path, name, content, text_column="t\u00e9", label_column="e\u0301")
    assert part.labels == ["caf\u00e9"] * 3


@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
def test_the_delimiter_of_csv_is_detected(tmp_path: Path, mark: str) -> None:
    """By the header; other delimiters may be in the texts. Blank lines before the header are ignored."""
    rows = [["id", "label", "text"], ["1", "x", "a, b; c\td|e"], ["2", "y", "f"]]
    stream = io.StringIO()
    stream.write("\n \n")
    csv.writer(stream, delimiter=mark).writerows(rows)
    part = read_file(tmp_path, "A.CSV", "\ufeff" + stream.getvalue(), encoding="utf-8-sig")
    assert part.texts == ["a, b; c\td|e", "f"]
    assert part.labels == ["x", "y"]
    assert part.line_numbers == [4, 5]


def test_the_delimiter_is_a_setting(tmp_path: Path) -> None:
    content = "label^text\nx^a,b\n"
    assert read_file(tmp_path, "a.csv", content, delimiter="^").texts == ["a,b"]
    assert read_file(tmp_path, "a.tsv", content, delimiter="^").texts == ["a,b"]
    assert DataSettings(delimiter="tab").delimiter == DataSettings(delimiter=r"\t").delimiter == "\t"
    with pytest.raises(ExperimentError, match=r"data.delimiter: must be a single character"):
        load_experiment(None, ["data.delimiter=ab"])


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
@pytest.mark.parametrize("label_first", [True, False])
def test_tsv_of_pandas_is_read(tmp_path: Path, quoting: Literal[0, 1], label_first: bool) -> None:
    """Fields with quotes, tabs or line feeds are quoted, or all fields are."""
    texts = ['say "hi"', "a\tb", 'one\ntwo\n"three"', "plain", '"quoted"', "", "it's", '"', "a\r\nb"]
    columns = ["label", "text"][:: 1 if label_first else -1]
    pandas.DataFrame({"text": texts, "label": ["x"] * len(texts)})[columns].to_csv(
        tmp_path / "a.tsv", sep="\t", index=False, quoting=quoting
    )
    part = read_rows(str(tmp_path / "a.tsv"), DataSettings())
    assert part.texts == texts
    assert part.line_numbers is not None
    assert part.line_numbers[-1] == len((tmp_path / "a.tsv").read_bytes().splitlines())


def test_quotes_in_other_tsv_are_part_of_the_text(tmp_path: Path) -> None:
    """At the start, at both ends or unbalanced."""
    texts = ['"Hello" he said', '"Quoted"', '"open', 'clos"', '"and" "again"', '"', '""', 'a "b" c']
    part = read_file(tmp_path, "a.tsv", "text\tlabel\n" + "".join(f"{text}\tx\n" for text in texts))
    assert part.texts == texts
    part = read_file(tmp_path, "b.tsv", "label\ttext\n" + "".join(f"x\t{text}\n" for text in texts))
    assert part.texts == texts
    assert part.line_numbers == list(range(2, 2 + len(texts)))


def test_the_start_of_a_file_is_checked_without_reading_it_all(tmp_path: Path) -> None:
    data = DataSettings(folder=str(tmp_path))
    (tmp_path / "a.csv").write_text("label,text\nx,a\n,b\n")
    check_file("a.csv", data)
    (tmp_path / "b.csv").write_text("label,text\n")
    for name, message in (("b.csv", "has no rows"), ("c.csv", "no such file"), ("d.txt", "no such file")):
        with pytest.raises(DataError, match=message):
            check_file(name, data)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".txt"])
@pytest.mark.parametrize("compression", [".gz", ".zst"])
def test_a_truncated_file_is_an_error(tmp_path: Path, suffix: str, compression: str) -> None:
    """The message names the last line that was read."""
    rows = [("x", f"text {number}") for number in range(5000)]
    content = compress(encode_rows(rows, suffix), compression)
    for size in (len(content) // 2, len(content) - 1):
        name = f"a{suffix}{compression}"
        with pytest.raises(DataError, match=rf"{name}(, after line \d+)?: cannot be read: .*damaged or incomplete"):
            read_file(tmp_path, name, content[:size])


def test_a_broken_gzip_is_an_error(tmp_path: Path) -> None:
    """zlib's own exception does not reach the caller."""
    content = bytearray(gzip.compress(b"label,text\n" + b"good,a fine film\n" * 99))
    content[15:25] = bytes(10)
    path = tmp_path / "rows.csv.gz"
    path.write_bytes(content)
    with pytest.raises(DataError, match="cannot be read"):
        read_rows(str(path), DataSettings())


def test_null_is_a_label_in_csv(tmp_path: Path) -> None:
    """In JSON, unlike in csv, null is no label."""
    path = tmp_path / "rows.csv"
    path.write_text("label,text\nnull,a\n")
    assert read_rows(str(path), DataSettings()).labels == ["null"]


def test_an_encoding_with_other_line_ends_is_an_error(tmp_path: Path) -> None:
    """Lines are split before they are decoded."""
    path = tmp_path / "rows.csv"
    path.write_text("label,text\ngood,a\n", encoding="utf-16")
    with pytest.raises(DataError, match="utf-16 is not supported; convert"):
        read_rows(str(path), DataSettings(encoding="utf-16"))
    for unknown in ("undefined", "a\0b"):
        with pytest.raises(DataError, match=r"data\.encoding: unknown encoding"):
            read_rows(str(path), DataSettings(encoding=unknown))


def test_a_missing_file_and_an_unknown_encoding_are_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_rows("none.csv", DataSettings(folder=str(tmp_path)))
    with pytest.raises(DataError, match="unknown encoding 'klingon'"):
        read_file(tmp_path, "a.csv", GOOD, encoding="klingon")
