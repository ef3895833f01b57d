"""Baselines of an evaluation, and the columns by whose values it is divided."""

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC

from jobs.__main__ import main
from jobs.config.experiment import Experiment
from jobs.datasets.dataset import load_dataset, merge_validation
from jobs.datasets.readers import DataError, Split, read_rows
from jobs.datasets.tokenizer import tokenize
from jobs.evaluation.baselines import (
    RowsUnavailable,
    SvcBaseline,
    compute_metrics,
    load_training_rows,
    measure_majority,
    measure_svc,
)
from jobs.evaluation.evaluate import evaluate
from jobs.model.checkpoint import load_checkpoint, save_checkpoint
from jobs.training.corpus import build_corpus
from jobs.training.loop import create_loop
from jobs.training.run_files.snapshot import capture
from tests.support.checkpoints import checkpoint_of
from tests.support.loops import train_checkpoint
from tests.support.text_formats import encode_rows
from tests.support.toy_data import make_toy_rows


@pytest.fixture
def experiment(make_experiment: Callable[..., Experiment], tmp_path: Path) -> Experiment:
    """An experiment whose file has a column more, `source`; every third row is from "mail"."""
    rows = make_toy_rows(90, seed=4)
    lines = [f'{label},"{text}",{"mail" if number % 3 == 0 else "web"}' for number, (label, text) in enumerate(rows)]
    (tmp_path / "rows.csv").write_text("\n".join(["label,text,source", *lines]) + "\n")
    return make_experiment(data__train=str(tmp_path / "rows.csv"), train__epochs=1)


@pytest.fixture
def trained(experiment: Experiment, tmp_path: Path) -> str:
    """A checkpoint of this experiment."""
    train_checkpoint(experiment, tmp_path / "run" / "checkpoint")
    return str(tmp_path / "run" / "checkpoint")


def test_the_majority_class_is_as_accurate_as_its_share() -> None:
    """It has no correlation with the classes, and this is undefined if there is one class only."""
    majority = measure_majority(np.array([0, 2, 2, 1, 2]), ["a", "b", "c"])
    assert majority.label == "c"
    metrics = majority.metrics
    assert (metrics.accuracy, metrics.macro_f1) == (pytest.approx(0.6), pytest.approx(0.25))
    assert (metrics.balanced_accuracy, metrics.matthews_correlation) == (pytest.approx(1 / 3), 0)
    assert compute_metrics(np.array([1, 1]), np.array([1, 0])).matthews_correlation is None


def test_the_model_is_compared_with_an_svc_that_is_trained_on_the_same_rows(
    trained: str, experiment: Experiment, tmp_path: Path, messages: list[str]
) -> None:
    """Its metrics are those of scikit-learn's on these rows, in the report, its JSON values and on the console."""
    dataset = load_dataset(experiment)
    vectorizer = TfidfVectorizer(tokenizer=tokenize, token_pattern=None, lowercase=False, ngram_range=(1, 2))
    model = make_pipeline(vectorizer, LinearSVC(random_state=0))
    model.fit(dataset.train.texts, dataset.train.labels)
    expected = model.score(dataset.test.texts, dataset.test.labels)
    evaluation = evaluate(trained, [], str(tmp_path / "out"))
    svc = evaluation.linear_svc
    assert svc is not None
    assert svc.training_rows == len(dataset.train)
    assert svc.metrics.accuracy == pytest.approx(expected)
    assert svc.accuracy_difference == pytest.approx(evaluation.accuracy - expected)
    values = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert values["linear_svc"]["metrics"]["accuracy"] == svc.metrics.accuracy
    assert values["majority"]["metrics"]["accuracy"] == max(values["per_class"]["support"]) / values["rows"]
    for metric in ("accuracy", "macro_f1", "balanced_accuracy", "matthews_correlation"):
        low, high = values[f"{metric}_interval"]
        assert low <= values[metric] <= high
    report = (tmp_path / "out" / "report.md").read_text()
    assert "| metric | model | 95% confidence | network alone | TF-IDF, linear SVC | always '" in report
    assert svc.describe_difference() in report
    assert svc.describe_difference() in messages


def test_the_comparison_with_the_svc_is_a_verdict_only_if_the_interval_excludes_zero() -> None:
    metrics = compute_metrics(np.array([0, 1]), np.array([0, 1]))
    texts = [
        SvcBaseline(metrics, 9, mean, interval).describe_difference()
        for mean, interval in ((0.1, (0.05, 0.15)), (-0.1, (-0.2, -0.01)), (0.1, (-0.01, 0.21)))
    ]
    assert [text.partition(":")[0] for text in texts] == [
        "The model is better", "The SVC is better", "Cannot tell which of the two is better"
    ]  # fmt: skip
    assert texts[0].endswith("is +0.1000, 95% confidence +0.0500 to +0.1500")


def test_changed_or_missing_training_rows_are_a_message(
    trained: str, tmp_path: Path, messages: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """One line; the other metrics are reported. Without the baseline the rows are not read."""
    other = tmp_path / "other.csv"
    other.write_bytes(encode_rows(make_toy_rows(8, seed=1), ".csv"))
    text = (tmp_path / "rows.csv").read_text()
    (tmp_path / "rows.csv").write_text(text.replace("great", "fine"))
    assert evaluate(trained, [], None, str(other)).linear_svc is None
    [message] = [message for message in messages if message.startswith("no comparison")]
    assert message.endswith("rows.csv: its rows or labels are not those of training")
    assert main(["evaluate", trained, str(other), "--no-baseline"]) == 0
    assert "no comparison" not in capsys.readouterr().out
    (tmp_path / "rows.csv").unlink()
    with pytest.raises(RowsUnavailable, match=r"rows\.csv: no such file"):
        load_training_rows(load_checkpoint(trained))


def test_training_rows_without_a_word_have_no_svc() -> None:
    """Scikit-learn raises an error of its own."""
    rows, labels = Split(["", " "], ["bad", "good"], "rows.csv"), np.array([0, 1])
    checkpoint = replace(checkpoint_of("static"), labels=["bad", "good"])
    with pytest.raises(RowsUnavailable, match=r"rows\.csv: no training row has a word"):
        measure_svc(rows, checkpoint, [["a"], ["b"]], labels, labels)


def test_the_rows_of_a_refit_include_the_validation_part(experiment: Experiment, tmp_path: Path) -> None:
    """They are recognized by their number; a checkpoint without digests of its texts has no rows."""
    dataset = merge_validation(load_dataset(experiment))
    loop = create_loop(experiment, build_corpus(experiment, dataset, use_pretrained=False))
    capture(experiment, loop.corpus, loop, resumable=False)(tmp_path / "refit")
    checkpoint = load_checkpoint(str(tmp_path / "refit"))
    assert load_training_rows(checkpoint).texts == dataset.train.texts
    save_checkpoint(tmp_path / "old", replace(checkpoint, path=""))
    with pytest.raises(RowsUnavailable, match="no digests"):
        load_training_rows(load_checkpoint(str(tmp_path / "old")))


def test_the_accuracy_is_listed_by_the_values_of_any_column(
    trained: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the part that was drawn, and of another file, which may be in any format; small slices are marked.

    The files are read once more, whatever the number of columns.
    """
    reader = Mock(wraps=read_rows)
    monkeypatch.setattr("jobs.evaluation.slices.read_rows", reader)
    with (tmp_path / "rows.csv").open(newline="") as stream:
        source = {row["text"]: row["source"] for row in csv.DictReader(stream)}
    evaluation = evaluate(trained, [], str(tmp_path / "out"), by=["source", "label"])
    assert reader.call_count == 1
    test = load_dataset(load_checkpoint(trained).experiment).test
    expected = {kind: sum(source[text] == kind for text in test.texts) for kind in ("mail", "web")}
    assert {item.value: item.rows for item in evaluation.slices if item.by == "source"} == expected
    values = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert {item["by"] for item in values["slices"]} == {"words", "unknown words", "class", "source", "label"}
    report = (tmp_path / "out" / "report.md").read_text()
    assert f"| mail | {expected['mail']} | " in report.split("## Slices")[1]
    rows = [{"label": label, "text": text, "year": 2020 + index % 2} for index, (label, text) in
            enumerate(make_toy_rows(70, seed=9))]  # fmt: skip
    (tmp_path / "other.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    assert main(["evaluate", trained, str(tmp_path / "other.jsonl"), "--by", "year"]) == 0
    table = capsys.readouterr().out.partition("year ")[2].splitlines()
    assert [line.split()[:2] for line in table[1:3]] == [["2020", "35"], ["2021", "35"]]
    with pytest.raises(DataError, match=r"has no column 'sorce' \(--by\); it has label, text, source; did you mean"):
        evaluate(trained, [], None, by=["sorce"])
