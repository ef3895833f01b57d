"""Evaluation: which rows are measured, what is logged and written, and the warning about rows of the training part."""

import csv
import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cluster.storage import StorageError
from jobs.__main__ import main
from jobs.config.experiment import Experiment
from jobs.datasets.dataset import load_dataset
from jobs.datasets.readers import DataError
from jobs.evaluation import evaluate as evaluate_module
from jobs.evaluation.evaluate import evaluate
from jobs.model.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from jobs.training.run_files.run_folder import BestCheckpoint, resolve_run_folder
from tests.support.commands import run_command
from tests.support.label_sets import make_label_set_rows, write_label_sets
from tests.support.loops import train_checkpoint
from tests.support.step_bars import record_steps
from tests.support.stored_checkpoints import publish
from tests.support.text_formats import encode_rows
from tests.support.toy_data import make_test_corpus, make_toy_rows


@pytest.fixture
def trained(make_experiment: Callable[..., Experiment], tmp_path: Path) -> str:
    """A checkpoint of the toy data, in a run folder of its own."""
    train_checkpoint(make_experiment(train__epochs=8, train__learning_rate=0.03), tmp_path / "run" / "checkpoint")
    return str(tmp_path / "run" / "checkpoint")


def write_rows(path: Path, rows: list[tuple[str, str]], header: str = "label,text") -> str:
    path.write_text(header + "\n" + "".join(f'{label},"{text}"\n' for label, text in rows))
    return str(path)


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_any_labelled_file_is_measured_with_the_checkpoint_alone(
    trained: str, toy_csv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The training data may be deleted; the file has columns of its own, and may follow the options."""
    rows = make_toy_rows(40, seed=7)
    other = write_rows(tmp_path / "other.csv", rows, "class,body")
    toy_csv.unlink()
    options = ["--text-column", "body", "--label-column", "class"]
    assert main(["evaluate", trained, other, *options]) == 0
    first = capsys.readouterr().out
    assert main(["evaluate", trained, *options, other]) == 0
    assert capsys.readouterr().out == first
    assert f"on 40 rows of {other}" in first
    comparison = first.partition("metric ")[2].splitlines()
    assert comparison[0].split() == ["model", "95%", "confidence", "network", "alone", "always", "'bad'"]
    assert [line.split()[0] for line in comparison[1:5]] == ["accuracy", "macro", "balanced", "Matthews"]
    assert "no comparison with TF-IDF and a linear SVC, which needs the training rows" in first
    assert main(["evaluate", trained, other]) == 2
    assert "has no column 'text'" in capsys.readouterr().err
    assert main(["evaluate", trained, other, "second.csv"]) == 2
    assert "2 files to evaluate" in capsys.readouterr().err
    evaluation = evaluate(trained, ["data.text_column=body", "data.label_column=class", f"data.test={other}"], None)
    assert evaluation.rows == 40


def test_the_steps_that_run_are_reported(
    trained: str, toy_csv: Path, make_experiment: Callable[..., Experiment], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Neither an SVC without training rows nor a network alone without a linear classifier is counted."""
    steps = record_steps(evaluate_module, monkeypatch)
    evaluate(trained, [], None)
    assert steps == [(step, 0) for step in evaluate_module.STEPS]
    plain = make_experiment(train__epochs=1, model__linear="none")
    train_checkpoint(plain, tmp_path / "plain" / "checkpoint")
    other = write_rows(tmp_path / "other.csv", make_toy_rows(10, seed=7))
    toy_csv.write_text("text,label\n")
    for path, skipped in (
        (trained, {evaluate_module.TRAINING_SVC}),
        (str(tmp_path / "plain" / "checkpoint"), {evaluate_module.TRAINING_SVC, evaluate_module.SCORING_ALONE}),
    ):
        for baseline in (True, False):
            steps.clear()
            evaluate(path, [], None, other, baseline=baseline)
            assert steps == [(step, 0) for step in evaluate_module.STEPS if step not in skipped]


def test_the_share_of_the_labels_that_have_an_svc_is_reported(
    make_experiment: Callable[..., Experiment], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = record_steps(evaluate_module, monkeypatch)
    rows = write_label_sets(tmp_path / "several.jsonl", make_label_set_rows(120))
    several = make_experiment(data__train=str(rows), data__multi_label=True, train__metric="micro_f1")
    train_checkpoint(several, tmp_path / "several" / "checkpoint", epochs=1)
    evaluate(str(tmp_path / "several" / "checkpoint"), [], None)
    assert list(dict.fromkeys(step for step, _ in steps)) == list(evaluate_module.STEPS)
    assert [share for step, share in steps if step == evaluate_module.TRAINING_SVC] == [0, 0, 1 / 3, 2 / 3]


def test_no_correct_prediction_is_a_report(trained: str, tmp_path: Path) -> None:
    """All counts are whole numbers, also those of classes without rows."""
    other = write_rows(tmp_path / "wrong.csv", [("bad", "great great lovely")])
    evaluation = evaluate(trained, [], str(tmp_path / "out"), other)
    assert (evaluation.accuracy, evaluation.macro_f1) == (0, 0)
    values = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert values["per_class"]["support"] == [1, 0]
    assert isinstance(values["per_class"]["support"][0], int)
    assert values["accuracy_interval"][0] == 0
    assert "Test accuracy **0.0000**" in (tmp_path / "out" / "report.md").read_text()


def test_rows_that_were_trained_on_are_counted(
    trained: str, make_experiment: Callable[..., Experiment], tmp_path: Path, messages: list[str]
) -> None:
    """White space and letter case do not matter; the accuracy on the other rows is reported."""
    seen = load_dataset(make_experiment()).train
    copies = [(seen.labels[index], f"  {seen.texts[index].upper()} ") for index in range(5)]
    other = write_rows(tmp_path / "mixed.csv", [*copies, ("bad", "a great great movie"), ("good", "unheard of")])
    evaluation = evaluate(trained, [], str(tmp_path / "out"), other)
    assert evaluation.seen_texts == 5
    assert evaluation.unseen_accuracy in (0, 0.5, 1)
    assert any("5 of 7 texts have the same words as a training text; accuracy on the other 2" in m for m in messages)
    assert "5 of 7 texts" in (tmp_path / "out" / "report.md").read_text()
    only = write_rows(tmp_path / "only.csv", copies)
    assert evaluate(trained, [], str(tmp_path / "out"), only).unseen_accuracy is None
    assert any("the metrics show nothing about new texts" in m for m in messages)
    fresh = write_rows(tmp_path / "fresh.csv", [("good", "great unheard words")])
    assert evaluate(trained, [], str(tmp_path / "out"), fresh).seen_texts == 0
    save_checkpoint(tmp_path / "old" / "checkpoint", load_checkpoint(trained))
    assert evaluate(str(tmp_path / "old" / "checkpoint"), [], str(tmp_path / "out"), other).seen_texts is None


def test_each_file_has_a_report_of_its_own(trained: str, tmp_path: Path) -> None:
    """The report on the test part is not overwritten, nor one on other rows with the same file name."""
    run = Path(trained).parent
    evaluate(trained, [], None)
    write_rows(tmp_path / "new rows.csv", make_toy_rows(8, seed=3))
    for rows in (8, 6, 8):
        evaluate(trained, [], None, write_rows(tmp_path / "new rows.csv", make_toy_rows(rows, seed=3)))
    names = sorted(path.name for path in run.glob("report*"))
    assert names[0] == "report"
    assert [name.rpartition("-")[0] for name in names[1:]] == ["report-new-rows", "report-new-rows"]
    sizes = {json.loads((run / name / "evaluation.json").read_text())["rows"] for name in names}
    assert {6, 8} < sizes


def test_errors_are_shown_with_their_phrases_and_every_prediction_is_written(
    trained: str, tmp_path: Path, messages: list[str]
) -> None:
    """The most confident error is first; the phrase that causes it is named."""
    rows = [("good", "a great film"), ("bad", "the film was great"), ("bad", "great great great lovely | fine")]
    evaluation = evaluate(trained, [], str(tmp_path / "out"), write_rows(tmp_path / "x.csv", rows))
    assert evaluation.accuracy == pytest.approx(1 / 3)
    predictions = read_csv(tmp_path / "out" / "predictions.csv")
    assert [row["line"] for row in predictions] == ["2", "3", "4"]
    assert [(row["label"], row["text"]) for row in predictions] == rows
    assert {row["predicted"] for row in predictions} == {"good"}
    assert all(0.5 < float(row["score"]) <= 1 for row in predictions)
    report = (tmp_path / "out" / "report.md").read_text()
    table = report.split("## Most confident errors")[1].split("Every row")[0].strip().splitlines()
    assert table[0] == "| text | true | predicted | score | because of |"
    scores = [float(line.split(" | ")[-2]) for line in table[2:]]
    assert scores == sorted(scores, reverse=True)
    assert len(scores) == 2
    assert all("great" in line.split(" | ")[-1] or "lovely" in line.split(" | ")[-1] for line in table[2:])
    assert any("most confident errors" in message and "the film was great" in message for message in messages)
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert page.count('<td class="text"') == 3
    assert re.search("<mark>[^<]*(great|lovely)", page)
    assert messages[-1] == f"report: {tmp_path}/out/report.html; report.md has it as Markdown"


def test_the_file_that_is_measured_is_not_overwritten(trained: str, tmp_path: Path) -> None:
    path = tmp_path / "predictions.csv"
    content = write_rows(path, [("good", "great")])
    with pytest.raises(StorageError, match="is the input file"):
        evaluate(trained, [], str(tmp_path), content)
    assert path.read_text() == 'label,text\ngood,"great"\n'


def test_a_console_without_utf_8_is_no_error(trained: str, tmp_path: Path) -> None:
    """What the console cannot print is printed as an escape sequence; the report has the characters."""
    other = write_rows(tmp_path / "größe.csv", [("bad", "great lovely naïve 東京")])
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    result = run_command("python", "-m", "jobs", "evaluate", trained, other, env=environment)
    assert result.returncode == 0, result.stderr
    assert "gr\\xf6\\xdfe.csv" in result.stdout
    assert "\\u6771" in result.stdout
    [report] = (tmp_path / "run").glob("report-*/report.md")
    assert "東京" in report.read_text(encoding="utf-8")


def test_unknown_labels_and_metrics_are_errors(trained: str, tmp_path: Path) -> None:
    """The error names the line of the row, or the value that a checkpoint lacks."""
    with pytest.raises(
        DataError, match=r"x\.csv, line 3: the checkpoint has no label 'so-so'; its labels are bad, good"
    ):
        evaluate(trained, [], None, write_rows(tmp_path / "x.csv", [("good", "a"), ("so-so", "b")]))
    checkpoint = load_checkpoint(trained)
    del checkpoint.metrics["rows"], checkpoint.metrics["versions"]
    save_checkpoint(tmp_path / "other", checkpoint)
    with pytest.raises(CheckpointError, match=r"metrics\.json: lacks rows, versions"):
        evaluate(str(tmp_path / "other"), [], None)


def test_the_test_part_that_was_named_last_is_measured(
    make_experiment: Callable[..., Experiment], toy_csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another data.test does not train again: the run is the same, and best.json names the file."""
    monkeypatch.chdir(tmp_path)
    for name, rows in (("one.csv", 4), ("two.csv", 6), ("three.csv", 8)):
        write_rows(tmp_path / name, make_toy_rows(rows, seed=rows))
    first = make_experiment(data__folder=str(tmp_path), data__test="one.csv")
    second = make_experiment(data__folder=str(tmp_path), data__test="two.csv")
    run = resolve_run_folder("train", first, make_test_corpus(first))
    train_checkpoint(first, Path(run.path, "epoch-0001"), epochs=1)
    best = BestCheckpoint("epoch-0001", "accuracy", {"epoch": 1})
    experiment_folder = os.path.dirname(publish(run, best))
    assert evaluate(experiment_folder, [], None).rows == 4
    again = resolve_run_folder("train", second, make_test_corpus(second))
    assert again.path == run.path
    again.publish(best)
    assert evaluate(experiment_folder, [], None).source == str(tmp_path / "two.csv")
    assert evaluate(os.path.join(experiment_folder, "best.json"), [], None).rows == 6
    assert evaluate(experiment_folder, ["data.test=three.csv"], None).rows == 8
    assert evaluate(os.path.join(run.path, "epoch-0001"), [], None).rows == 4


def test_a_test_part_of_several_files_is_measured(
    make_experiment: Callable[..., Experiment], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list in the experiment is published as a list; the command accepts folders and patterns in other formats."""
    (tmp_path / "parts").mkdir()
    for number in range(3):
        content = encode_rows(make_toy_rows(4, seed=number), ".parquet")
        (tmp_path / "parts" / f"{number}.parquet").write_bytes(content)
    sources = ["parts/0.parquet", "parts/[12].parquet"]
    experiment = make_experiment(data__folder=str(tmp_path), data__test=sources)
    run = resolve_run_folder("train", experiment, make_test_corpus(experiment))
    train_checkpoint(experiment, Path(run.path, "epoch-0001"), epochs=1)
    folder = os.path.dirname(publish(run, BestCheckpoint("epoch-0001", "accuracy", {"epoch": 1})))
    assert json.loads(Path(folder, "best.json").read_text())["test"] == [f"{tmp_path}/{source}" for source in sources]
    assert evaluate(folder, [], None).rows == 12
    monkeypatch.chdir(tmp_path)
    for file in ("parts", "parts/*.parquet", f"file://{tmp_path}/parts"):
        assert main(["evaluate", folder, file, "--out", str(tmp_path / "out")]) == 0
    predictions = read_csv(tmp_path / "out" / "predictions.csv")
    assert [(Path(row["file"]).name, row["line"]) for row in predictions[3:5]] == [
        ("0.parquet", "4"),
        ("1.parquet", "1"),
    ]
    assert evaluate(folder, ["data.test=[parts/1.parquet]"], None).rows == 4
    (tmp_path / "parts" / "3.parquet").write_bytes(encode_rows([("good", "a"), ("ugly", "b")], ".parquet"))
    with pytest.raises(DataError, match=r"parts/3\.parquet, row 2: the checkpoint has no label 'ugly'"):
        evaluate(folder, [], None, "parts")


def test_a_checkpoint_of_an_earlier_version_has_its_own_spelling_of_labels(
    make_experiment: Callable[..., Experiment], tmp_path: Path
) -> None:
    """Then 1.0 in csv was another class than 1."""
    (tmp_path / "rows.csv").write_text("label,text\n" + "".join(f"{n % 2}.0,word{n % 2} a\n" for n in range(20)))
    train_checkpoint(make_experiment(data__train=str(tmp_path / "rows.csv")), tmp_path / "new", epochs=1)
    checkpoint = load_checkpoint(str(tmp_path / "new"))
    assert checkpoint.labels == ["0", "1"]
    save_checkpoint(tmp_path / "old", replace(checkpoint, labels=["0.0", "1.0"]))
    assert evaluate(str(tmp_path / "old"), [], None, str(tmp_path / "rows.csv")).labels == ["0.0", "1.0"]


def test_the_delimiter_is_that_of_training_or_of_the_command(
    make_experiment: Callable[..., Experiment], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The published test part was read with that of training; another file has the one that is named, or any."""
    monkeypatch.chdir(tmp_path)
    rows = make_toy_rows(6, seed=1)
    for name, delimiter in (("test.csv", "^"), ("comma.csv", ",")):
        lines = [delimiter.join(f'"{field}"' for field in row) for row in [("label", "text"), *rows]]
        (tmp_path / name).write_text("\n".join(lines) + "\n")
    train_checkpoint(make_experiment(), tmp_path / "checkpoint", epochs=1)
    checkpoint = load_checkpoint(str(tmp_path / "checkpoint"))
    experiment = checkpoint.experiment.replace({"data.delimiter": "^", "data.test": str(tmp_path / "test.csv")})
    save_checkpoint(tmp_path / "run" / "epoch-0001", replace(checkpoint, experiment=experiment))
    best = {"checkpoint": "epoch-0001", "test": str(tmp_path / "test.csv")}
    (tmp_path / "run" / "best.json").write_text(json.dumps(best))
    assert evaluate("run", [], None).rows == 6
    assert evaluate("run", [], None, "comma.csv").rows == 6
    assert evaluate("run", ["data.delimiter=^"], None, "test.csv").rows == 6


def test_probabilities_are_those_of_the_torch_network(trained: str) -> None:
    """The metrics of training and of the evaluation are the same."""
    from jobs.inference.file_prediction import build_classifier
    from tests.support.torch_network import predict_proba

    checkpoint = load_checkpoint(trained)
    texts = [text for _, text in make_toy_rows(50, seed=5)] + ["", "naïve great"]
    expected = predict_proba(checkpoint, texts)
    for num_texts in (1, 10_000):
        actual = build_classifier(checkpoint, num_texts).predict_proba(texts)
        np.testing.assert_allclose(actual, expected, atol=1e-5)
