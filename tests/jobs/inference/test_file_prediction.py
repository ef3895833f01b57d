"""Prediction for files: which rows and columns are written, from which sources, and to where."""

import csv
import datetime
import gzip
import io
import itertools
import json
import os
import re
import subprocess
import sys
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from cluster import UsageError
from cluster.package import REPOSITORY
from jobs.__main__ import main
from jobs.datasets import chunks, readers
from jobs.datasets.formats import text_lines
from jobs.datasets.formats.columnar import record_batches
from jobs.datasets.tokenization import installed
from jobs.inference import file_prediction
from jobs.inference.batch import input_rows, progress_log
from jobs.inference.classifier import Classifier
from jobs.inference.file_prediction import predict_file
from jobs.inference.projection_table import TableDtype
from jobs.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from tests.support.checkpoints import checkpoint_of
from tests.support.commands import run_command
from tests.support.text_formats import encode_rows, encode_table
from tests.support.torch_network import predict_proba
from tests.support.toy_data import read_jsonl


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_all_columns_of_the_input_stay(saved: str, tmp_path: Path, messages: list[str]) -> None:
    """They are in their order, before label and score; the message names file, rows and columns."""
    source = tmp_path / "in.csv"
    source.write_text('id,body,note\n1,"word1, word2",a\n2,,"two\nlines"\n', encoding="utf-8")
    out = str(tmp_path / "out.csv")
    predict_file(saved, str(source), out, "body")
    rows = read_csv(tmp_path / "out.csv")
    assert list(rows[0]) == ["id", "body", "note", "label", "score"]
    assert [row["note"] for row in rows] == ["a", "two\nlines"]
    assert messages == [f"wrote {out}: 2 rows, with the columns label and score added"]
    expected = predict_proba(load_checkpoint(saved), ["word1, word2", ""])
    np.testing.assert_allclose([float(row["score"]) for row in rows], expected.max(axis=1), atol=1e-5)
    assert [row["label"] for row in rows] == [["a", "b", "c"][best] for best in expected.argmax(axis=1)]


@pytest.mark.parametrize(
    ("name", "header", "message"),
    [
        ("in.csv", "text,note,note", "has 2 columns with the name 'note'"),
        ("in.csv", "text, note,note", "has 2 columns with the name 'note'"),
        ("in.csv", "text,,", "has 2 columns without a name"),
        ("in.tsv", "text\tnote\tnote", "has 2 columns with the name 'note'"),
    ],
)
def test_columns_of_the_same_name_are_an_error(
    saved: str, tmp_path: Path, name: str, header: str, message: str
) -> None:
    """The values of all but one would be lost."""
    row = "\t".join("abc") if "\t" in header else "a,b,c"
    (tmp_path / name).write_text(f"{header}\n{row}\n")
    with pytest.raises(UsageError, match=f"{message}; rename or remove"):
        predict_file(saved, str(tmp_path / name), str(tmp_path / "out.csv"), None)
    assert not (tmp_path / "out.csv").exists()


def test_tsv_changes_only_tabs_and_line_ends(saved: str, tmp_path: Path) -> None:
    """Other white space is data."""
    text = " hello  there\u00a0you\u2028"
    (tmp_path / "in.jsonl").write_text(json.dumps({"text": text, "note": "a\tb\r\nc\nd"}) + "\n")
    predict_file(saved, str(tmp_path / "in.jsonl"), str(tmp_path / "out.tsv"), None)
    row = (tmp_path / "out.tsv").read_bytes().decode().split("\n")[1].split("\t")
    assert row[:2] == [text, "a b c d"]


def test_a_column_with_the_name_of_a_new_one_stays(saved: str, tmp_path: Path, messages: list[str]) -> None:
    """The true label of a labelled file is not replaced."""
    (tmp_path / "in.jsonl").write_text(
        '{"text": "word1", "label": "mine", "tags": ["x", 1]}\n{"text": "word2", "label": "yours", "extra": null}\n'
    )
    predict_file(saved, str(tmp_path / "in.jsonl"), str(tmp_path / "out.jsonl"), None)
    rows = read_jsonl(tmp_path / "out.jsonl")
    assert [row["label"] for row in rows] == ["mine", "yours"]
    assert rows[0]["tags"] == ["x", 1]
    assert rows[0]["predicted_label"] in "abc"
    assert 0 < rows[0]["score"] <= 1
    assert "columns predicted_label and score added" in messages[0]
    predict_file(saved, str(tmp_path / "in.jsonl"), str(tmp_path / "out.csv"), None)
    first, second = read_csv(tmp_path / "out.csv")
    assert (first["tags"], second["tags"], second["extra"]) == ('["x", 1]', "", "")


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".csv.gz", ".JSONL.gz"])
@pytest.mark.parametrize("root", ["{}", "file://{}", "~"])
def test_files_are_written_anywhere_in_any_format(
    saved: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, root: str
) -> None:
    """A path, a URI and the home folder; gzipped if the name says so, and readable as input."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    Path("in.csv").write_text("text\nword1 naïve\nword2\n", encoding="utf-8")
    out = f"{root.format(tmp_path)}/new/out{suffix}"
    predict_file(saved, "in.csv", out, None)
    written = tmp_path / "new" / f"out{suffix}"
    assert (written.read_bytes()[:2] == b"\x1f\x8b") == suffix.endswith(".gz")
    content = gzip.decompress(written.read_bytes()) if suffix.endswith(".gz") else written.read_bytes()
    assert "word1 naïve" in content.decode()
    assert sorted(os.listdir(tmp_path)) == ["in.csv", "new"]


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("in.csv", "is the input file"),
        ("~/in.csv", "is the input file"),
        ("link.csv", "is the input file"),
        ("nosuch://bucket/x.csv", "nosuch://bucket/x.csv: the storage cannot be opened"),
        ("x.pdf", "must end in"),
        ("~nobody-of-this-name/x.csv", "nobody-of-this-name"),
        ("folder.csv", "is a folder"),
    ],
)
def test_an_output_that_cannot_be_written_is_an_error_before_the_work(
    saved: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    out: str,
    message: str,
) -> None:
    """The input is unchanged, and nothing is created."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    Path("in.csv").write_text("text\nword1\n")
    Path("link.csv").symlink_to("in.csv")
    Path("folder.csv").mkdir()
    before = sorted(os.listdir())
    monkeypatch.setattr(file_prediction, "load_checkpoint", lambda path: pytest.fail("the checkpoint was read"))
    assert main(["predict", saved, "in.csv", "--out", out]) == 2
    assert message in capsys.readouterr().err
    assert sorted(os.listdir()) == before
    assert Path("in.csv").read_text() == "text\nword1\n"


@pytest.mark.parametrize(
    "word", ["new.cvs", "rows.csvv", "rows.json", "./missing", "/nowhere/rows", "../x", "~/nowhere", "missing/"]
)
def test_a_mistyped_path_is_no_text(saved: str, word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", saved, word, "--out", "o.csv"]) == 2
    assert "there is no such file" in capsys.readouterr().err
    assert not Path("o.csv").exists()


def test_a_text_and_lines_of_standard_input_are_classified(
    saved: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Lines that are empty are texts too; the text of an argument may be in any script, or look like an address."""
    assert main(["predict", saved, "word1 word2"]) == 0
    [row] = map(json.loads, capsys.readouterr().out.splitlines())
    assert row["text"] == "word1 word2"
    assert row["label"] in "abc"
    for text in (
        "这部电影很好",
        "wow!",
        "and/or",
        "Great.Product",
        "ok.thx",
        "see https://a.org for word1",
        "word1 " * 2000,
    ):
        assert main(["predict", saved, text]) == 0
        assert json.loads(capsys.readouterr().out)["text"] == text
    lines = "\ufeffword1\r\n\nnaïve\x0bword2"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines.encode())))
    assert main(["predict", saved, "-"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["text"] for row in rows] == ["word1", "", "naïve\x0bword2"]
    for content, message in ((b"", "has no lines"), (b"word1\n\xff\n", "standard input, line 2: is not UTF-8")):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        assert main(["predict", saved, "-"]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "source", ["reviews.csv", "my reviews.jsonl.gz", "data/reviews.tsv", "x.parquet", "none://x/y"]
)
def test_a_file_that_does_not_exist_is_not_a_text(saved: str, source: str) -> None:
    """A mistyped name is an error."""
    with pytest.raises(UsageError):
        predict_file(saved, source, None, None)


def test_the_delimiter_may_be_named(saved: str, tmp_path: Path) -> None:
    """The detected ones are common ones only."""
    (tmp_path / "in.csv").write_text("id^text\n1^word1, word2\n")
    out = tmp_path / "out.jsonl"
    assert main(["predict", saved, str(tmp_path / "in.csv"), "--delimiter", "^", "--out", str(out)]) == 0
    assert [row["text"] for row in read_jsonl(out)] == ["word1, word2"]
    with pytest.raises(UsageError, match=r"data\.delimiter: must be a single character"):
        predict_file(saved, str(tmp_path / "in.csv"), None, None, "^^")


@pytest.mark.parametrize(
    ("name", "content", "out", "first_line"),
    [
        ("in.csv", '\ufeff"id; 1";text\n1;word1\n', "out.csv", '"id; 1";text;label;score'),
        ("in.csv", '\n"id; 1";text\n1;word1, word2\n', "out.csv", '"id; 1";text;label;score'),
        ("in.CSV.gz", "id|text\n1|word1\n", "out.csv", "id|text|label|score"),
        ("in.csv", "text\nword1; word2\n", "out.csv", "text,label,score"),
        ("in.csv", "id;text\n1;word1\n", "out.tsv", "id\ttext\tlabel\tscore"),
        ("in.tsv", "id\ttext\n1\tword1\n", "out.tsv", "id\ttext\tlabel\tscore"),
        ("in.tsv", "id\ttext\n1\tword1\n", "out.csv", "id,text,label,score"),
        ("in.jsonl", '{"id": 1, "text": "word1"}\n', "out.csv", "id,text,label,score"),
    ],
)
def test_csv_keeps_its_delimiter(
    saved: str, tmp_path: Path, name: str, content: str, out: str, first_line: str
) -> None:
    """So the program that wrote the file reads the output; another suffix decides otherwise."""
    path = tmp_path / name
    path.write_bytes(gzip.compress(content.encode()) if name.endswith(".gz") else content.encode())
    predict_file(saved, str(path), str(tmp_path / out), None)
    assert (tmp_path / out).read_text().splitlines()[0] == first_line


@pytest.mark.parametrize(
    ("source", "header"),
    [
        ("file://{}/a.csv/1.csv", "id;text;label;score"),
        ("file://{}/a.csv", "id;text;label;score"),
        ("file://{}/b/*.csv", "id,text,label,score"),
        ("{}/b/*.csv", "id,text,label,score"),
    ],
)
def test_the_delimiter_of_folders_and_patterns(saved: str, tmp_path: Path, source: str, header: str) -> None:
    """Csv output has that of the only file that is read, and commas if there are several."""
    for path in ("a.csv/1.csv", "b/1.csv", "b/2.csv"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text("id;text\n1;word1\n")
    predict_file(saved, source.format(tmp_path), str(tmp_path / "out.csv"), None)
    assert (tmp_path / "out.csv").read_text().splitlines()[0] == header


def test_a_named_delimiter_is_kept(saved: str, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("id^text\n1^word1\n")
    predict_file(saved, str(tmp_path / "in.csv"), str(tmp_path / "out.csv"), None, "^")
    assert (tmp_path / "out.csv").read_text().splitlines()[0] == "id^text^label^score"


def test_a_file_may_have_another_encoding_than_that_of_training(tmp_path: Path) -> None:
    """UTF-8 is recognized, or a text would be read as other letters without an error; else it is that of training.

    Also if invalid rows are skipped.
    """
    checkpoint = checkpoint_of("non-static")
    experiment = checkpoint.experiment.replace({"data.encoding": "cp1252"})
    save_checkpoint(tmp_path / "checkpoint", replace(checkpoint, experiment=experiment))
    contents = {"csv": "text\nfür word1\n", "jsonl": '{"text": "für word1"}\n', "ft": "__label__x für word1\n"}
    out = str(tmp_path / "out.csv")
    for encoding, (suffix, content) in itertools.product(("utf-8", "cp1252"), contents.items()):
        (tmp_path / f"in.{suffix}").write_text(content, encoding=encoding)
        for limit in (None, 0.5):
            predict_file(str(tmp_path / "checkpoint"), str(tmp_path / f"in.{suffix}"), out, None, max_invalid=limit)
            assert [row["text"] for row in read_csv(tmp_path / "out.csv")] == ["für word1"], (encoding, suffix, limit)


@pytest.mark.parametrize(
    ("suffix", "encoding", "count"),
    [(".csv", "utf-8", 1), (".csv", "cp1252", 2), (".jsonl", "utf-8", 2), (".ft", "cp1252", 2)],
)
def test_a_text_file_is_read_once_or_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, encoding: str, count: int
) -> None:
    """For its rows, and before for its columns or, unless it must be UTF-8, its encoding."""
    save_checkpoint(tmp_path / "checkpoint", checkpoint_of("non-static", **{"data.encoding": encoding}))
    num_lines = 0

    class CountedStream(io.BufferedReader):
        def __next__(self) -> bytes:
            nonlocal num_lines
            line = super().__next__()
            num_lines += 1
            return line

        def read(self, size: int | None = -1, /) -> bytes:
            nonlocal num_lines
            content = super().read(size)
            num_lines += content.count(b"\n")
            return content

    def open_counted(path: str, *arguments: object) -> io.BufferedReader:
        return CountedStream(io.FileIO(path))

    (tmp_path / f"in{suffix}").write_bytes(encode_rows([("a", "word1")] * 100, suffix))
    for module in (readers.input_files, text_lines):
        monkeypatch.setattr(module, "open_decompressed", open_counted)
    predict_file(str(tmp_path / "checkpoint"), str(tmp_path / f"in{suffix}"), str(tmp_path / "out.jsonl"), None)
    assert len(read_jsonl(tmp_path / "out.jsonl")) == 100
    assert 100 * count <= num_lines <= 100 * count + 4  # a header, and the first row


@pytest.mark.parametrize("source", ["a.parquet", "in", "in/", "in/*.parquet", "in/[ab]*", "file://{}/in", "lines.txt"])
def test_every_format_and_source_that_training_reads_is_labelled(
    saved: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    """All columns are written; a line without a label is a text."""
    monkeypatch.chdir(tmp_path)
    table = pyarrow.table({"text": ["word1", "word2"], "day": [datetime.date(2020, 1, 2), None]})
    Path("in").mkdir()
    for path in ("a.parquet", "in/a.parquet", "in/b.parquet"):
        Path(path).write_bytes(encode_table(table, ".parquet"))
    Path("lines.txt").write_text("word1\nword2\n")
    predict_file(saved, source.format(tmp_path), "out.csv", None)
    rows = read_csv(tmp_path / "out.csv")
    assert [row["text"] for row in rows] == ["word1", "word2"] * (1 if source in ("a.parquet", "lines.txt") else 2)
    if source != "lines.txt":
        assert [row["day"] for row in rows[:2]] == ["2020-01-02", ""]


def test_no_file_of_a_folder_is_overwritten(saved: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.csv").write_text("text\nword1\n")
    with pytest.raises(UsageError, match=r"a\.csv: is the input file"):
        predict_file(saved, str(tmp_path / "in"), str(tmp_path / "in" / "a.csv"), None)
    assert (tmp_path / "in" / "a.csv").read_text() == "text\nword1\n"


def test_a_missing_column_names_the_option(saved: str, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("body\nword1\n")
    with pytest.raises(UsageError, match=r"has no column 'text'.* name it with --text-column"):
        predict_file(saved, str(tmp_path / "in.csv"), None, None)


def test_the_table_does_not_change_the_scores(saved: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has the words of all texts, or the whole vocabulary; no file is shared with other processes."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "in.csv").write_text("text\n" + "".join(f"word{n} word{n + 1} unseen\n" for n in range(50)))
    scores = []
    num_words = []

    def count_words(checkpoint: Checkpoint, *, table_dtype: TableDtype) -> Classifier:
        num_words.append(len(checkpoint.words))
        return build(checkpoint, table_dtype=table_dtype)

    build = file_prediction.build_classifier
    monkeypatch.setattr(file_prediction, "build_classifier", count_words)
    for limit in (0, 1):
        monkeypatch.setattr(file_prediction, "NUM_CHUNKS_TO_SCAN", limit)
        predict_file(saved, str(tmp_path / "in.csv"), str(tmp_path / "out.jsonl"), None)
        scores.append([row["score"] for row in read_jsonl(tmp_path / "out.jsonl")])
    np.testing.assert_allclose(scores[0], scores[1], atol=2e-6)
    assert num_words == [200, 51]
    assert not (tmp_path / "tmp").exists()


def test_an_installed_tokenizer_divides_many_texts_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes longer than the projection table of all words, which a second pass would make smaller."""
    calls: list[str] = []
    monkeypatch.setattr(installed, "load_tokenizer", lambda name: lambda text: calls.append(text) or text.split())
    save_checkpoint(tmp_path / "checkpoint", checkpoint_of("non-static", **{"text.tokenizer": "any"}))
    texts = [f"word1 text{number}" for number in range(file_prediction.MIN_TEXTS_FOR_TABLE)]
    (tmp_path / "texts.csv").write_text("\n".join(["text", *texts]) + "\n")
    predict_file(str(tmp_path / "checkpoint"), str(tmp_path / "texts.csv"), str(tmp_path / "out.csv"), None)
    assert [text for text in calls if "text" in text] == texts


def test_a_typing_error_is_read_as_a_word_that_the_file_does_not_have(tmp_path: Path) -> None:
    checkpoint = checkpoint_of("rand", **{"text.max_edit_distance": 1})
    checkpoint = replace(checkpoint, words=["parcel", "invoice", *checkpoint.words[2:]])
    save_checkpoint(tmp_path / "model", checkpoint)
    (tmp_path / "in.csv").write_text("text\nparcl invoicee\n")
    predict_file(str(tmp_path / "model"), str(tmp_path / "in.csv"), str(tmp_path / "out.jsonl"), None)
    correct, wrong = Classifier(checkpoint, share_table=False).predict_proba(["parcel invoice", "unknown words"])
    assert read_jsonl(tmp_path / "out.jsonl")[0]["score"] == pytest.approx(correct.max(), abs=1e-4)
    assert abs(correct.max() - wrong.max()) > 0.01


def test_a_console_without_utf_8_receives_valid_json(saved: str) -> None:
    """Characters that the encoding lacks are escapes of JSON; so is half of a surrogate pair in a file."""
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    result = run_command("python", "-m", "jobs", "predict", saved, "word1 naïve 東京", env=environment)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["text"] == "word1 naïve 東京"


def test_half_a_character_in_another_column_is_written_as_it_was(saved: str, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"text": "word1", "other": "\\ud800"}\n')
    predict_file(saved, str(tmp_path / "in.jsonl"), str(tmp_path / "out.jsonl"), None)
    assert read_jsonl(tmp_path / "out.jsonl")[0]["other"] == "\ud800"


def test_predict_and_evaluate_do_not_import_torch() -> None:
    """Torch takes longer to import than a small file to classify."""
    script = (
        "import sys\n"
        "import jobs.evaluation.evaluate, jobs.inference.file_prediction\n"
        "print({'torch', 'gensim', 'sklearn', 'matplotlib', 'ray'} & set(sys.modules))\n"
    )
    process = subprocess.run(
        [sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=300
    )
    assert process.stdout == "set()\n", process.stderr


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("source", ["in.csv", "in.jsonl", "in.parquet", "-"])
def test_rows_are_written_in_chunks(
    saved: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, source: str
) -> None:
    """Of every input and output; the rows are those of a single chunk."""
    monkeypatch.chdir(tmp_path)
    rows = [("x", f"word{number} word{number + 1}") for number in range(50)]
    if source != "-":
        Path(source).write_bytes(encode_rows(rows, Path(source).suffix))
    outputs = []
    for limit in (7, 1000):
        monkeypatch.setattr(chunks, "MAX_ROWS", limit)
        monkeypatch.setattr(record_batches, "SLICE_ROWS", limit)
        lines = "".join(f"{text}\n" for _, text in rows)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines.encode())))
        predict_file(saved, source, f"out{suffix}", None)
        outputs.append(Path(f"out{suffix}").read_bytes())
    assert outputs[0] == outputs[1]


def test_memory_does_not_grow_with_the_file(saved: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At no time are there more chunks than those that decide about the projection table."""
    monkeypatch.setattr(chunks, "MAX_ROWS", 10)
    monkeypatch.setattr(file_prediction, "NUM_CHUNKS_TO_SCAN", 2)
    references: list[weakref.ref[chunks.Chunk]] = []
    counts = []

    def follow(*arguments: Any, **options: Any) -> Iterator[chunks.Chunk]:
        for chunk in iter_chunks(*arguments, **options):
            references.append(weakref.ref(chunk))
            counts.append(sum(reference() is not None for reference in references))
            yield chunk

    iter_chunks = input_rows.iter_chunks
    monkeypatch.setattr(input_rows, "iter_chunks", follow)
    (tmp_path / "in.csv").write_text("text\n" + "word1\n" * 1000)
    predict_file(saved, str(tmp_path / "in.csv"), str(tmp_path / "out.csv"), None)
    assert len(counts) == 100
    assert max(counts) <= 5


def test_parquet_has_the_types_of_the_input(saved: str, tmp_path: Path) -> None:
    """Those of Arrow, with the names of classes; of jsonl numbers, booleans and strings, and JSON for other values."""
    day = datetime.date(2020, 1, 2)
    features = {"info": {"features": {"kind": {"names": ["good", "bad"], "_type": "ClassLabel"}}}}
    table = pyarrow.table({"text": ["word1", "word2"], "day": [day, None], "kind": [1, -1]})
    table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    (tmp_path / "in.arrow").write_bytes(encode_table(table, ".arrow"))
    predict_file(saved, str(tmp_path / "in.arrow"), str(tmp_path / "out.parquet"), None)
    written = pyarrow.parquet.read_table(tmp_path / "out.parquet")
    assert [str(kind) for kind in written.schema.types] == ["string", "date32[day]", "string", "string", "float"]
    assert [row["kind"] for row in written.to_pylist()] == ["bad", None]
    assert [row["day"] for row in written.to_pylist()] == [day, None]
    rows = [
        {"text": "word1", "a": 1, "b": 2, "c": True, "d": [1], "e": "x", "f": 1 << 70},
        {"text": "word2", "b": 0.5, "d": None, "e": "\ud800", "g": None},
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    predict_file(saved, str(tmp_path / "in.jsonl"), str(tmp_path / "out.parquet"), None)
    first, second = pyarrow.parquet.read_table(tmp_path / "out.parquet").to_pylist()
    assert list(first) == ["text", "a", "b", "c", "d", "e", "f", "g", "label", "score"]
    assert list(first.values())[:7] == ["word1", 1, 2.0, True, "[1]", "x", str(1 << 70)]
    assert list(second.values())[:8] == ["word2", None, 0.5, None, None, "\\ud800", None, None]


@pytest.mark.parametrize("texts", [["word1"] * 120, ["word1"] * 40 + ["word2"] * 50 + ["word1"] * 30])
def test_batches_without_selected_rows_have_the_types_of_the_others(
    saved: str, tmp_path: Path, texts: list[str]
) -> None:
    """They are of 50 rows each; here none or the second one has selected rows."""
    days = [datetime.date(2020, 1, 2)] * 120
    table = pyarrow.table({"text": texts, "n": pyarrow.array(range(120), pyarrow.int32()), "day": days})
    (tmp_path / "in.arrow").write_bytes(encode_table(table, ".arrow"))
    scores = predict_proba(load_checkpoint(saved), ["word1", "word2"])
    label = int((scores[1] - scores[0]).argmax())
    limit = float(scores[:, label].mean())
    out = tmp_path / "out.parquet"
    predict_file(saved, str(tmp_path / "in.arrow"), str(out), None, min_scores={"abc"[label]: limit})
    written = pyarrow.parquet.read_table(out)
    assert written.column("text").to_pylist() == [text for text in texts if text == "word2"]
    assert [str(kind) for kind in written.schema.types][:3] == ["string", "int32", "date32[day]"]


def test_the_name_of_a_column_may_be_decomposed(saved: str, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("text,caf\u00e9,n\nword1,x,1\n", encoding="utf-8")
    options = ["--columns", "cafe\u0301,caf\u00e9", "--out", str(tmp_path / "out.csv")]
    assert main(["predict", saved, str(tmp_path / "in.csv"), *options]) == 0
    assert [*read_csv(tmp_path / "out.csv")[0]] == ["caf\u00e9", "label", "score"]


def test_files_with_different_columns_are_not_one_parquet_file(saved: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        table = pyarrow.table({"text": ["word1"], name: [1]})
        (tmp_path / "in" / f"{name}.parquet").write_bytes(encode_table(table, ".parquet"))
    with pytest.raises(
        UsageError, match=r"different columns: text, a, label, score; text, b,.* write parquet into a folder"
    ):
        predict_file(saved, str(tmp_path / "in"), str(tmp_path / "out.parquet"), None)
    assert not (tmp_path / "out.parquet").exists()
    predict_file(saved, str(tmp_path / "in"), str(tmp_path / "out.jsonl"), None)
    assert [row.get("b") for row in read_jsonl(tmp_path / "out.jsonl")] == [None, 1]


@pytest.mark.parametrize(
    ("column", "columns", "message"),
    [
        (pyarrow.array([0], pyarrow.timestamp("s")), ["text", "other"], "a file of the input has no column 'other'"),
        (
            pyarrow.DictionaryArray.from_arrays([0], pyarrow.array([{"a": 1}])),
            None,
            "Writing DictionaryArray with nested dictionary type not yet supported; leave the column out",
        ),
    ],
)
def test_what_cannot_be_written_as_parquet_is_an_error(
    saved: str, tmp_path: Path, column: pyarrow.Array, columns: list[str] | None, message: str
) -> None:
    (tmp_path / "in").mkdir()
    tables = [pyarrow.table({"text": ["word1"], "other": ["x"]}), pyarrow.table({"text": ["word1"], "odd": column})]
    for number, table in enumerate(tables if columns else tables[1:]):
        (tmp_path / "in" / f"{number}.arrow").write_bytes(encode_table(table, ".arrow"))
    with pytest.raises(UsageError, match=message):
        predict_file(saved, str(tmp_path / "in"), str(tmp_path / "out.parquet"), None, columns=columns)
    assert os.listdir(tmp_path) == ["in"]


def test_a_type_that_parquet_lacks_is_an_error_before_all_rows_are_scored(saved: str, tmp_path: Path) -> None:
    """Without the column, the rows are written."""
    column = pyarrow.array([(1, 2, 3)] * 9, pyarrow.month_day_nano_interval())
    table = pyarrow.table({"text": ["word1"] * 9, "interval": column})
    (tmp_path / "in.arrow").write_bytes(encode_table(table, ".arrow"))
    command = str(tmp_path / "in.arrow"), str(tmp_path / "out.parquet"), None
    with pytest.raises(UsageError, match=r"nano_interval; leave the column out with --columns, or write jsonl"):
        predict_file(saved, *command)
    assert not (tmp_path / "out.parquet").exists()
    predict_file(saved, *command, columns=["text"])
    assert len(pyarrow.parquet.read_table(tmp_path / "out.parquet")) == 9


@pytest.mark.parametrize(("option", "count"), [(["--top-k", "2"], 2), (["--scores"], 3), (["--top-k", "9"], 3)])
def test_scores_of_several_classes(
    saved: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: list[str], count: int
) -> None:
    """The best first, as the service responds; in csv as JSON."""
    (tmp_path / "in.csv").write_text("text\nword1\nword2 word3\n")
    for suffix in (".jsonl", ".csv", ".parquet"):
        out = str(tmp_path / f"out{suffix}")
        assert main(["predict", saved, str(tmp_path / "in.csv"), "--out", out, *option]) == 0
        assert "with the columns label, score and scores added" in capsys.readouterr().out
    rows = read_jsonl(tmp_path / "out.jsonl")
    expected = predict_proba(load_checkpoint(saved), ["word1", "word2 word3"])
    for row, probabilities in zip(rows, expected, strict=True):
        assert [pair["label"] for pair in row["scores"]] == ["abc"[i] for i in np.argsort(-probabilities)[:count]]
        scores = [pair["score"] for pair in row["scores"]]
        np.testing.assert_allclose(scores, np.sort(probabilities)[::-1][:count], atol=2e-6)
        assert row["scores"][0] == {"label": row["label"], "score": row["score"]}
    assert [json.loads(row["scores"]) for row in read_csv(tmp_path / "out.csv")] == [row["scores"] for row in rows]
    for row, other in zip(pyarrow.parquet.read_table(tmp_path / "out.parquet").to_pylist(), rows, strict=True):
        assert [pair["label"] for pair in row["scores"]] == [pair["label"] for pair in other["scores"]]
        np.testing.assert_allclose(
            [pair["score"] for pair in row["scores"]], [pair["score"] for pair in other["scores"]], atol=1e-6
        )


def test_a_column_of_a_later_row_does_not_collide_with_a_new_one(saved: str, tmp_path: Path) -> None:
    """All lines of JSON and of fastText are read for their columns; new columns are the last ones of csv."""
    (tmp_path / "in.jsonl").write_text('{"text": "word1"}\n' * 20 + '{"text": "word1", "label": "mine"}\n')
    predict_file(saved, str(tmp_path / "in.jsonl"), str(tmp_path / "out.csv"), None)
    rows = read_csv(tmp_path / "out.csv")
    assert list(rows[0]) == ["text", "label", "predicted_label", "score"]
    assert [row["label"] for row in rows] == [""] * 20 + ["mine"]
    (tmp_path / "in.txt").write_text("word1\n__label__x word2\n")
    predict_file(saved, str(tmp_path / "in.txt"), str(tmp_path / "out.csv"), None)
    assert list(read_csv(tmp_path / "out.csv")[1]) == ["text", "label", "predicted_label", "score"]


def test_progress_is_logged(saved: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, messages: list[str]) -> None:
    """Rows, their rate and the remaining time; not where the rows are on standard output."""
    monkeypatch.setattr(chunks, "MAX_ROWS", 10)
    monkeypatch.setattr(progress_log, "LOG_INTERVAL_S", 0)
    (tmp_path / "in.csv").write_text("text\n" + "word1\n" * 30)
    predict_file(saved, str(tmp_path / "in.csv"), str(tmp_path / "out.csv"), None)
    assert len(messages) == 4
    assert re.fullmatch(r"labelled 10 rows, [\d,]+ rows a second, \d+% done, \d+ s remaining", messages[0])
    messages.clear()
    predict_file(saved, str(tmp_path / "in.csv"), None, None)
    assert messages == []


@pytest.mark.parametrize(
    ("suffix", "limit", "cores", "is_faster"),
    [(".csv", 1000, 4, True), (".csv", 1000, 1, False), (".csv", 10_000, 4, False), (".csv.gz", 10, 4, False)],
)
def test_a_folder_is_suggested_for_a_large_input(
    saved: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    messages: list[str],
    suffix: str,
    limit: int,
    cores: int,
    is_faster: bool,
) -> None:
    """Once, where several processes can divide it; a single file is written by one."""
    monkeypatch.setattr(file_prediction, "LARGE_INPUT_BYTES", limit)
    monkeypatch.setattr(file_prediction, "count_cpus", lambda: cores)
    content = b"text\n" + b"word1\n" * 300
    (tmp_path / f"in{suffix}").write_bytes(gzip.compress(content) if suffix.endswith(".gz") else content)
    hint = "one process writes a single file; 4 write into a folder, as with --out labelled/"
    predict_file(saved, str(tmp_path / f"in{suffix}"), str(tmp_path / "out.csv"), None)
    assert messages.count(hint) == is_faster
    messages.clear()
    predict_file(saved, str(tmp_path / f"in{suffix}"), f"{tmp_path}/out/", None, workers=1)
    assert hint not in messages


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_abstention_leaves_the_label_out_and_the_scores_in(tmp_path: Path, suffix: str) -> None:
    """The threshold is that of the checkpoint; the class of out-of-scope texts is never the label."""
    texts = [f"word{number} word{number + 1}" for number in range(40)]
    (tmp_path / "in.csv").write_text("text\n" + "".join(f"{text}\n" for text in texts))
    checkpoint = checkpoint_of("non-static")
    probabilities = predict_proba(checkpoint, texts)
    in_scope = probabilities[:, :2].max(axis=1)
    abstention = {"thresholds": {"retention": 0.0, "precision": float(np.median(in_scope))}, "out_of_scope": 2}
    save_checkpoint(tmp_path / "c", replace(checkpoint, metrics={"abstention": abstention}))
    out = tmp_path / f"out{suffix}"
    options = ["predict", str(tmp_path / "c"), str(tmp_path / "in.csv"), "--out", str(out), "--scores"]
    assert main([*options, "--objective", "precision"]) == 0
    if suffix == ".csv":
        rows: list[dict[str, Any]] = [row | {"label": row["label"] or None} for row in read_csv(out)]
    else:
        rows = read_jsonl(out) if suffix == ".jsonl" else pyarrow.parquet.read_table(out).to_pylist()
    expected = ["ab"[best] if score >= np.median(in_scope) else None
                for best, score in zip(probabilities[:, :2].argmax(axis=1), in_scope, strict=True)]  # fmt: skip
    assert [row["label"] for row in rows] == expected
    assert 0 < expected.count(None) < 40
    np.testing.assert_allclose([float(row["score"]) for row in rows], in_scope, atol=1e-5)
    if suffix != ".csv":
        assert all(len(row["scores"]) == 3 for row in rows)
    content = out.read_bytes()
    assert main([*options, "--objective", "precision", "--abstain", "--force"]) == 0
    assert out.read_bytes() == content
    assert main([*options, "--abstain", "--force"]) == 0
    content = out.read_bytes()
    if suffix == ".csv":
        assert b",," not in content


def test_abstention_without_thresholds_is_an_error(
    saved: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", saved, "word1", "--abstain"]) == 2
    assert "has no thresholds of abstention" in capsys.readouterr().err


def test_files_of_another_threshold_are_not_completed(
    saved: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder that was begun without abstention is not continued with it."""
    (tmp_path / "in.csv").write_text("text\nword1\n")
    rule = {"abstention": {"thresholds": {"retention": 1.0}}}
    save_checkpoint(tmp_path / "c", replace(checkpoint_of("non-static"), metrics=rule))
    options = ["predict", str(tmp_path / "c"), str(tmp_path / "in.csv"), "--out", f"{tmp_path}/out/", "--workers", "1"]
    assert main(options) == 0
    assert main([*options, "--abstain"]) == 2
    assert "another content or other options" in capsys.readouterr().err
