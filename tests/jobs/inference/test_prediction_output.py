"""Columns of the output of predict: explanations, and a selection of the input's columns."""

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster import UsageError
from jobs.__main__ import main
from jobs.inference.batch_classifier import BatchClassifier
from jobs.inference.classifier import Classifier
from jobs.inference.explanation import Explainer
from jobs.inference.file_prediction import predict_file
from jobs.model.checkpoint import load_checkpoint, save_checkpoint
from tests.support.checkpoints import checkpoint_of
from tests.support.toy_data import read_jsonl

TEXTS = ["word1 word2 word3", "", "naïve word4"]


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    table = {"id": [1, 2, 3], "text": TEXTS, "score": [0.1, 0.2, 0.3], "note": ["x", "y", "z"]}
    pq.write_table(pa.table(table), "in.parquet")


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_explanations_are_those_of_the_service(saved: str, suffix: str) -> None:
    """The shares of the phrases add up to the score; in csv the column is JSON. A pipeline gets the same column."""
    assert main(["predict", saved, "in.parquet", "--out", f"out.{suffix}", "--explain"]) == 0
    if suffix == "parquet":
        rows = pq.read_table("out.parquet").to_pylist()
        assert pq.read_table("out.parquet").equals(BatchClassifier(saved, explain=True)(pq.read_table("in.parquet")))
    elif suffix == "jsonl":
        rows = read_jsonl(Path("out.jsonl"))
    else:
        rows = [*csv.DictReader(Path("out.csv").read_text(encoding="utf-8").splitlines())]
        rows = [row | {"explanation": json.loads(row["explanation"])} for row in rows]
    classifier = Classifier(load_checkpoint(saved), table_dtype="float32", share_table=False)
    for text, row in zip(TEXTS, rows, strict=True):
        assert list(row)[-3:] == ["label", "predicted_score", "explanation"]
        expected = Explainer(classifier, text).explain(classifier.labels.index(row["label"]))
        explanation = row["explanation"]
        assert explanation["label"] == row["label"]
        assert [phrase["text"] for phrase in explanation["phrases"]] == [phrase.text for phrase in expected.phrases]
        total = explanation["bias"] + sum(phrase["share"] for phrase in explanation["phrases"])
        assert total == pytest.approx(explanation["score"]) == pytest.approx(expected.score, abs=1e-5)
        for phrase in explanation["phrases"]:
            assert text[phrase["start"] : phrase["end"]] == phrase["text"]


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_selected_columns_are_written_in_their_order(saved: str, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A column that is left out gives its name to a new one, and is not read from parquet."""
    read: list[object] = []

    class ParquetFile(pq.ParquetFile):
        def iter_batches(self, *arguments: object, columns: object = None, **options: object) -> object:
            read.append(columns)
            return super().iter_batches(*arguments, columns=columns, **options)

    monkeypatch.setattr(pq, "ParquetFile", ParquetFile)
    assert main(["predict", saved, "in.parquet", "--out", f"out.{suffix}", "--columns", "note, id"]) == 0
    assert read[-1] == ["id", "text", "note"]
    if suffix == "parquet":
        rows = pq.read_table("out.parquet").to_pylist()
    elif suffix == "jsonl":
        rows = read_jsonl(Path("out.jsonl"))
    else:
        rows = [*csv.DictReader(Path("out.csv").read_text(encoding="utf-8").splitlines())]
    assert [list(row) for row in rows] == [["note", "id", "label", "score"]] * 3
    assert [(row["note"], int(row["id"])) for row in rows] == [("x", 1), ("y", 2), ("z", 3)]


def test_a_selected_column_must_exist(saved: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match=r"--columns: the input has no column 'nota'; .*; did you mean 'note'"):
        predict_file(saved, "in.parquet", "out.csv", None, columns=["id", "nota"])
    for names in ("id,id", "id,,note"):
        with pytest.raises(SystemExit):
            main(["predict", saved, "in.parquet", "--columns", names])
        assert "must be different names" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_explanations_with_abstention_are_those_of_the_best_class_in_scope(tmp_path: Path, suffix: str) -> None:
    """Also for texts without a label; the columns of the input can be selected at the same time."""
    checkpoint = checkpoint_of("non-static")
    [best] = Classifier(checkpoint, share_table=False).predict_proba(["word1"]).argmax(axis=1).tolist()
    abstention = {"thresholds": {"retention": 1.0}, "rows": 10, "out_of_scope": best}
    save_checkpoint(tmp_path / "c", replace(checkpoint, metrics={**checkpoint.metrics, "abstention": abstention}))
    Path("one.jsonl").write_text('{"id": 7, "text": "word1"}\n')
    command = ["predict", str(tmp_path / "c"), "one.jsonl", "--out", f"out.{suffix}", "--explain", "--abstain"]
    assert main([*command, "--columns", "id"]) == 0
    [row] = pq.read_table("out.parquet").to_pylist() if suffix == "parquet" else read_jsonl(Path("out.jsonl"))
    assert list(row) == ["id", "label", "score", "explanation"]
    assert row["label"] is None
    classifier = Classifier(checkpoint, table_dtype="float32", share_table=False)
    probabilities = classifier.predict_proba(["word1"])[0]
    probabilities[best] = -1
    expected = Explainer(classifier, "word1").explain(int(probabilities.argmax()))
    assert row["explanation"]["label"] == expected.label
    assert row["explanation"]["score"] == pytest.approx(expected.score, abs=1e-5)


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_several_labels_per_text_have_explanations_and_selected_columns_too(tmp_path: Path, suffix: str) -> None:
    """The explanation names its label, the best one."""
    checkpoint = checkpoint_of("non-static")
    several = replace(checkpoint, experiment=checkpoint.experiment.replace({"data.label_separator": ";"}))
    save_checkpoint(tmp_path / "c", several)
    command = ["predict", str(tmp_path / "c"), "in.parquet", "--out", f"out.{suffix}", "--explain"]
    assert main([*command, "--columns", "id"]) == 0
    if suffix == "csv":
        rows = [*csv.DictReader(Path("out.csv").read_text(encoding="utf-8").splitlines())]
    else:
        rows = pq.read_table("out.parquet").to_pylist() if suffix == "parquet" else read_jsonl(Path("out.jsonl"))
    assert [list(row) for row in rows] == [["id", "labels", "scores", "explanation"]] * 3
    explained = [json.loads(row["explanation"]) if suffix == "csv" else row["explanation"] for row in rows]
    best = Classifier(checkpoint, share_table=False).predict(TEXTS)
    assert [explanation["label"] for explanation in explained] == best


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_labels_that_contain_the_separator_are_a_list_in_json(tmp_path: Path, suffix: str) -> None:
    """Rows of jsonl may have such labels. With another separator they are a string."""
    several = checkpoint_of("non-static", **{"data.label_separator": ";", "data.multi_label": True})
    several.metrics["label_thresholds"] = {"values": [0.0] * len(several.labels)}
    for name, is_list in (("a;b", True), ("a,b", False)):
        folder = tmp_path / name
        save_checkpoint(folder, replace(several, labels=[name, *several.labels[1:]]))
        assert main(["predict", str(folder), "in.parquet", "--out", f"out.{suffix}", "--force"]) == 0
        lines = Path(f"out.{suffix}").read_text(encoding="utf-8").splitlines()
        is_tsv = suffix == "tsv"
        reader = csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE) if is_tsv else csv.DictReader(lines)
        for row in reader:
            written = json.loads(row["labels"]) if is_list else row["labels"].split(";")
            assert sorted(written) == sorted([name, *several.labels[1:]])


@pytest.mark.parametrize("source", ["in.parquet", "in.jsonl"])
def test_infinity_and_nan_are_null_in_jsonl(saved: str, source: str) -> None:
    """JSON has no such numbers, though Python reads and writes them. Parquet keeps them."""
    values = [1.5, math.inf, -math.inf]
    pq.write_table(pa.table({"text": TEXTS, "x": values}), "in.parquet")
    lines = [json.dumps({"text": text, "x": value}) for text, value in zip(TEXTS, values, strict=True)]
    Path("in.jsonl").write_text("\n".join(lines).replace("-Infinity", "-1e400").replace("Infinity", "1e400"))
    for suffix in ("jsonl", "parquet"):
        assert main(["predict", saved, source, "--out", f"out.{suffix}"]) == 0
    assert [row["x"] for row in read_jsonl(Path("out.jsonl"))] == [1.5, None, None]
    assert [row["text"] for row in read_jsonl(Path("out.jsonl"))] == TEXTS
    assert pq.read_table("out.parquet").column("x").to_pylist() == values


def test_a_name_with_a_question_mark_is_a_local_file(saved: str) -> None:
    """Only a URI has a query."""
    assert main(["predict", saved, "in.parquet", "--out", "what?.jsonl"]) == 0
    assert len(read_jsonl(Path("what?.jsonl"))) == 3


def test_a_text_with_a_carriage_return_stays_one_row_of_csv(saved: str) -> None:
    """It can be read, and be labelled, again."""
    Path("lines.jsonl").write_text('{"text": "word1\\rword2"}\n{"text": "word3"}\n')
    for source, out in (("lines.jsonl", "once.csv"), ("once.csv", "twice.csv")):
        assert main(["predict", saved, source, "--out", out, "--columns", "text"]) == 0
        with open(out, newline="", encoding="utf-8") as stream:
            assert [row["text"] for row in csv.DictReader(stream)] == ["word1\rword2", "word3"]
