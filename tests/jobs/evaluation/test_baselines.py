"""Baselines of an evaluation, the network alone among them, and the columns by whose values it is divided."""

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
from jobs.datasets.label_sets import encode_labels
from jobs.datasets.readers import DataError, Split, read_rows
from jobs.datasets.tokenization.text_tokens import tokenize_texts
from jobs.datasets.tokenizer import encode, tokenize
from jobs.evaluation.baselines import (
    NetworkDifference,
    RowsUnavailable,
    SvcBaseline,
    compute_metrics,
    has_network_alone,
    load_training_dataset,
    measure_majority,
    predict_network_alone,
)
from jobs.evaluation.evaluate import evaluate
from jobs.evaluation.metrics import accuracy_difference_interval
from jobs.inference.classifier import Classifier
from jobs.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from jobs.training.corpora.building import build_corpus
from jobs.training.loop import create_loop
from jobs.training.run_files.snapshot import capture
from tests.support.checkpoints import WORDS, checkpoint_of
from tests.support.loops import train_checkpoint
from tests.support.text_formats import encode_rows
from tests.support.torch_network import build_network, predict_logits, predict_proba
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


def test_a_comparison_is_a_verdict_only_if_the_interval_excludes_zero() -> None:
    metrics = compute_metrics(np.array([0, 1]), np.array([0, 1]))
    texts = [
        SvcBaseline(metrics, 9, mean, interval).describe_difference()
        for mean, interval in ((0.1, (0.05, 0.15)), (-0.1, (-0.2, -0.01)), (0.1, (-0.01, 0.21)))
    ]
    assert [text.partition(":")[0] for text in texts] == [
        "The model is better", "The SVC is better", "Cannot tell which of the two is better"
    ]  # fmt: skip
    assert texts[0].endswith("is +0.1000, 95% confidence +0.0500 to +0.1500")
    texts = [
        NetworkDifference("accuracy", mean, interval).describe_difference()
        for mean, interval in ((0.1, (0.05, 0.15)), (-0.1, (-0.2, -0.01)), (0.1, (-0.01, 0.21)))
    ]
    assert [text.partition(":")[0] for text in texts] == [
        "The linear classifier improves the network",
        "The linear classifier makes the network worse",
        "Cannot tell whether the linear classifier improves the network",
    ]


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
        load_training_dataset(load_checkpoint(trained))


def test_training_rows_without_a_word_are_not_available(trained: str, experiment: Experiment) -> None:
    """Scikit-learn would raise an error of its own."""
    rows = Split(["", " "], ["bad", "good"], "rows.csv")
    with pytest.raises(RowsUnavailable, match=r"rows\.csv: no training row has a word"):
        load_training_dataset(load_checkpoint(trained), replace(load_dataset(experiment), train=rows))


def test_the_rows_of_a_refit_include_the_validation_part(experiment: Experiment, tmp_path: Path) -> None:
    """They are recognized by their number; a checkpoint without digests of its texts has no rows."""
    dataset = merge_validation(load_dataset(experiment))
    loop = create_loop(experiment, build_corpus(experiment, dataset, use_pretrained=False))
    capture(experiment, loop.corpus, loop, resumable=False)(tmp_path / "refit")
    checkpoint = load_checkpoint(str(tmp_path / "refit"))
    assert load_training_dataset(checkpoint).train.texts == dataset.train.texts
    save_checkpoint(tmp_path / "old", replace(checkpoint, path=""))
    with pytest.raises(RowsUnavailable, match="no digests"):
        load_training_dataset(load_checkpoint(str(tmp_path / "old")))


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
    rows: list[dict[str, object]] = [{"label": label, "text": text} for label, text in make_toy_rows(70, seed=9)]
    for index, row in enumerate(rows[1:]):
        row["ann\u00e9e"] = 2020 + index % 2
    (tmp_path / "other.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    assert main(["evaluate", trained, str(tmp_path / "other.jsonl"), "--by", "anne\u0301e"]) == 0
    table = capsys.readouterr().out.partition("ann\u00e9e ")[2].splitlines()
    assert {tuple(line.split()[:2]) for line in table[1:4]} == {("2020", "35"), ("2021", "34"), ("(empty)", "1")}
    with pytest.raises(DataError, match=r"has no column 'sorce' \(--by\); it has label, text, source; did you mean"):
        evaluate(trained, [], None, by=["sorce"])


def score_without_linear(checkpoint: Checkpoint, texts: list[str]) -> np.ndarray:
    """Return the logits of the torch network without the linear classifier, divided by the temperature."""
    network = build_network(checkpoint)
    network.linear = None
    tokens = encode(tokenize_texts(texts), checkpoint.vocabulary, 1000)
    return predict_logits(network, tokens).numpy() / checkpoint.temperature


@pytest.mark.parametrize("embedding", ["multichannel", "rand"])
def test_the_scores_are_those_of_the_network_without_the_linear_classifier(embedding: str) -> None:
    checkpoint = checkpoint_of(embedding, **{"model.linear": "words-and-pairs"})
    checkpoint.metrics["temperature"] = 1.7
    texts = [" ".join(words) for words in np.random.default_rng(0).choice([*WORDS, "unheard"], (50, 6))]
    classifier = Classifier(checkpoint, table_dtype="float32")
    own = predict_network_alone(classifier, [*texts, ""])
    logits = score_without_linear(checkpoint, [*texts, ""])
    np.testing.assert_allclose(own, np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), atol=1e-5)


def test_a_checkpoint_without_a_linear_classifier_has_no_network_alone() -> None:
    assert has_network_alone(checkpoint_of("rand", **{"model.linear": "words-and-pairs"}), None)
    assert not has_network_alone(checkpoint_of("rand"), None)


def test_the_evaluation_compares_the_sum_with_the_network_alone(
    make_experiment: Callable[..., Experiment], tmp_path: Path, messages: list[str]
) -> None:
    """Its metrics are a column, and a sentence has the interval of the difference of the accuracy, paired by rows."""
    experiment = make_experiment(train__epochs=1, train__linear_weight=2.0)
    train_checkpoint(experiment, tmp_path / "checkpoint")
    checkpoint, test = load_checkpoint(str(tmp_path / "checkpoint")), load_dataset(experiment).test
    labels = encode_labels(test, checkpoint.labels)
    predicted = score_without_linear(checkpoint, test.texts).argmax(axis=1)
    expected = np.mean(predicted == labels)
    evaluation = evaluate(str(tmp_path / "checkpoint"), [], str(tmp_path / "out"), baseline=False)
    assert evaluation.network_alone is not None
    assert evaluation.network_alone.accuracy == expected
    assert evaluation.accuracy > expected  # the network had one epoch
    difference = evaluation.network_alone_difference
    assert difference is not None
    assert difference.value == pytest.approx(evaluation.accuracy - expected)
    own = predict_proba(checkpoint, test.texts).argmax(axis=1)
    assert difference.interval == accuracy_difference_interval(labels, own, predicted)
    values = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert values["network_alone"]["accuracy"] == expected
    assert values["network_alone_difference"]["interval"] == [*difference.interval]
    report, page = ((tmp_path / "out" / name).read_text() for name in ("report.md", "report.html"))
    assert "| metric | model | 95% confidence | network alone | always '" in report
    assert ">network alone</th>" in page
    sentence = difference.describe_difference()
    assert f"accuracy of the model minus that of the network alone is {difference.value:+.4f}" in sentence
    assert sentence in messages
    assert f"{sentence}." in report
    assert f"{sentence}." in page
    train_checkpoint(make_experiment(train__epochs=1, model__linear="none"), tmp_path / "none")
    assert evaluate(str(tmp_path / "none"), [], str(tmp_path / "out"), baseline=False).network_alone is None
    assert "network alone" not in (tmp_path / "out" / "report.md").read_text()
