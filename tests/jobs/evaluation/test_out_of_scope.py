"""Out-of-scope texts in an evaluation: the values, their intervals, where they are reported, and errors."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jobs.__main__ import main
from jobs.config.experiment import Experiment
from jobs.datasets.readers import DataError, Split
from jobs.evaluation.evaluate import evaluate
from jobs.evaluation.out_of_scope import bootstrap_auroc, measure_out_of_scope
from jobs.model.checkpoint import load_checkpoint, save_checkpoint
from tests.support.checkpoints import checkpoint_of
from tests.support.loops import train_checkpoint
from tests.support.text_formats import encode_rows
from tests.support.torch_network import predict_proba
from tests.support.toy_data import make_toy_rows

TEXTS = Split(["a", "b", "c", "d"], [""] * 4, "others.csv")
THRESHOLD = 0.6


@pytest.fixture
def trained(make_experiment: Callable[..., Experiment], tmp_path: Path) -> str:
    """A checkpoint whose threshold for retention is `THRESHOLD`."""
    experiment = make_experiment(train__epochs=2, train__abstention_thresholds={"retention": THRESHOLD})
    train_checkpoint(experiment, tmp_path / "run" / "checkpoint")
    return str(tmp_path / "run" / "checkpoint")


@pytest.fixture
def others(tmp_path: Path) -> str:
    """Texts without a column of labels, and another delimiter than that of the training file."""
    texts = ["unheard of things", "a great unknown", "nothing", "bread; and butter", "great lovely"]
    (tmp_path / "others.csv").write_text("number;text\n" + "".join(f'{n};"{text}"\n' for n, text in enumerate(texts)))
    return str(tmp_path / "others.csv")


def test_the_shares_are_those_of_the_stored_threshold(tmp_path: Path) -> None:
    """The class of out-of-scope texts is never a label. Without an answer there is no accuracy."""
    labels = np.array([0, 1, 0, 1])
    own = np.array([[0.9, 0.1, 0], [0.7, 0.2, 0.1], [0.5, 0.4, 0.1], [0.2, 0.3, 0.5]])
    other = np.array([[0.8, 0.1, 0.1], [0.5, 0.5, 0], [0.1, 0.1, 0.8], [0.4, 0.3, 0.3]])
    save_checkpoint(tmp_path / "checkpoint", checkpoint_of("rand"))
    checkpoint = load_checkpoint(str(tmp_path / "checkpoint"))
    checkpoint.metrics["abstention"] = {"thresholds": {"retention": THRESHOLD}, "out_of_scope": 2}
    result = measure_out_of_scope(checkpoint, labels, own, TEXTS, other)
    assert (result.source, result.rows, result.threshold) == ("others.csv", 4, THRESHOLD)
    assert (result.recall, result.answered, result.answered_accuracy) == (0.75, 0.5, 0.5)
    # Scores in scope 0.9, 0.7, 0.5 and 0.3, the others 0.8, 0.5, 0.1 and 0.4.
    assert result.auroc == (4 + 3 + 2.5 + 1) / 16
    assert result.recall_interval[0] < 0.75 < result.recall_interval[1]
    assert result.seen_texts is None
    more = measure_out_of_scope(
        checkpoint, np.append(labels, 2), np.append(own, [[0.1, 0.1, 0.8]], axis=0), TEXTS, other
    )
    assert more == result  # a row of that class is not in scope
    with pytest.raises(DataError, match=r"all rows to compare others\.csv with have the label 'out_of_scope'"):
        measure_out_of_scope(checkpoint, np.full(4, 2), own, TEXTS, other)
    checkpoint.metrics["abstention"]["thresholds"]["retention"] = 0.95
    nothing = measure_out_of_scope(checkpoint, labels, own, TEXTS, other)
    assert (nothing.recall, nothing.answered, nothing.answered_accuracy) == (1, 0, None)
    assert nothing.to_rows()[-1] == {"out of scope": "accuracy on these", "value": "-",
                                     "95% confidence": "0.0000 to 1.0000"}  # fmt: skip


def test_the_interval_of_the_auroc_contains_that_of_all_texts_about_as_often_as_it_says() -> None:
    """Of normal scores with means one apart it is known. Perfect order of a few texts is no certainty."""
    random, expected, contained = np.random.default_rng(0), 0.5 * (1 + math.erf(1 / 2)), 0
    for seed in range(60):
        low, high = bootstrap_auroc(random.normal(1, 1, 200), random.normal(0, 1, 100), seed)
        contained += low <= expected <= high
    assert contained >= 54
    assert high - low < 0.15
    low, high = bootstrap_auroc(np.full(20, 0.9), np.full(10, 0.1))
    assert 0.7 < low < 0.95
    assert high == 1
    reversed_low, reversed_high = bootstrap_auroc(np.full(10, 0.1), np.full(20, 0.9))
    assert reversed_low == 0
    assert 0.05 < reversed_high < 0.3
    assert bootstrap_auroc(np.full(2000, 0.9), np.full(1000, 0.1))[0] > 0.99


def test_an_evaluation_reports_out_of_scope_texts(
    trained: str, others: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On the console, in both reports and in the JSON values; the test part is in scope."""
    texts = ["unheard of things", "a great unknown", "nothing", "bread; and butter", "great lovely"]
    scores = predict_proba(load_checkpoint(trained), texts).max(axis=1)
    assert main(["evaluate", trained, "--out-of-scope", others, "--out", str(tmp_path / "out"), "--json"]) == 0
    captured = capsys.readouterr()
    values = json.loads(captured.out.splitlines()[-1])
    own = values["out_of_scope"]
    assert own == json.loads((tmp_path / "out" / "evaluation.json").read_text())["out_of_scope"]
    assert (own["source"], own["rows"], own["threshold"]) == (others, 5, THRESHOLD)
    assert own["recall"] == np.mean(scores < THRESHOLD)
    abstention = json.loads((tmp_path / "out" / "abstention.json").read_text())["objectives"][0]
    assert own["answered"] == pytest.approx(abstention["coverage"])
    assert own["answered_accuracy"] == pytest.approx(abstention["precision"])
    report, page = ((tmp_path / "out" / name).read_text() for name in ("report.md", "report.html"))
    row = "| AUROC of the score | {:.4f} | {:.4f} to {:.4f} |".format(own["auroc"], *own["auroc_interval"])
    assert row in report.split("## Out-of-scope texts")[1]
    assert f"the 5 texts of {others} are not" in report
    assert f"below {THRESHOLD:.4f}, the checkpoint's threshold for 'retention'" in report
    assert "<h3>Out-of-scope texts</h3>" in page
    assert f">{own['auroc']:.4f}<" in page
    evaluation = evaluate(trained, [], str(tmp_path / "out"), baseline=False)
    assert evaluation.to_json()["out_of_scope"] is None
    assert "Out-of-scope" not in (tmp_path / "out" / "report.md").read_text()


def test_out_of_scope_texts_are_a_table_on_the_console(
    trained: str, others: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Other rows may be in scope; texts of the training part are counted."""
    rows = tmp_path / "rows.csv"
    rows.write_bytes(encode_rows(make_toy_rows(30, seed=8), ".csv"))
    assert main(["evaluate", trained, str(rows), "--out-of-scope", others, "--no-baseline"]) == 0
    table = capsys.readouterr().out.partition("out of scope ")[2].splitlines()
    assert table[0].split() == ["value", "95%", "confidence"]
    assert [line.split("  ")[0] for line in table[1:5]] == [
        "AUROC of the score", "out-of-scope texts without a label", "rows in scope with a label", "accuracy on these"
    ]  # fmt: skip
    assert "training text" not in table[5]
    assert main(["evaluate", trained, str(rows), "--out-of-scope", str(tmp_path / "toy.csv"), "--no-baseline"]) == 0
    assert "of the texts have the same words as a training text." in capsys.readouterr().out


def test_a_dry_run_lists_the_out_of_scope_texts(trained: str, others: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", trained, "--out-of-scope", others, "--dry-run"]) == 0
    reads, _, starts = capsys.readouterr().out.partition("starts:")
    assert starts
    assert others in reads


def test_what_cannot_be_measured_is_an_error(
    trained: str, others: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It names the file, or why the checkpoint has no threshold, before anything is written."""

    def fail(checkpoint: str, file: str) -> str:
        assert main(["evaluate", checkpoint, "--out-of-scope", file, "--out", str(tmp_path / "out")]) == 2
        return capsys.readouterr().err

    (tmp_path / "empty.csv").write_text("text\n")
    (tmp_path / "other.csv").write_text("body\nx\n")
    assert "empty.csv: has no rows" in fail(trained, str(tmp_path / "empty.csv"))
    assert "other.csv: has no column 'text'" in fail(trained, str(tmp_path / "other.csv"))
    checkpoint = load_checkpoint(trained)
    abstention = checkpoint.metrics.pop("abstention")
    save_checkpoint(tmp_path / "old", checkpoint)
    assert f"{tmp_path}/old: --out-of-scope: the checkpoint has no thresholds of abstention" in fail(
        str(tmp_path / "old"), others
    )
    several = replace(checkpoint, metrics=checkpoint.metrics | {"label_thresholds": {"values": [0.5, 0.5]}})
    several = replace(several, experiment=checkpoint.experiment.replace({"data.multi_label": True}))
    save_checkpoint(tmp_path / "several", several)
    assert "the checkpoint has several labels per text" in fail(str(tmp_path / "several"), others)
    assert abstention["thresholds"] == {"retention": THRESHOLD}
    assert not (tmp_path / "out").exists()
