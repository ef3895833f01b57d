"""Report of an evaluation: text table, Markdown, JSON values and confusion matrix."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from jobs.config.experiment import Experiment
from jobs.evaluation.metrics import per_class_metrics
from jobs.evaluation.report import MAX_ANNOTATED_CLASSES, Evaluation, draw_confusion_matrix, write_report
from jobs.model.checkpoint import Checkpoint

LABELS = np.array([0, 0, 0, 1, 1, 2])
PREDICTED = np.array([0, 0, 1, 1, 1, 0])


@pytest.fixture
def evaluation() -> Evaluation:
    confusion = np.array([[2, 1, 0], [0, 2, 0], [1, 0, 0]])
    per_class = per_class_metrics(LABELS, PREDICTED, 3)
    return Evaluation("run/epoch-0003", "test.csv", 6, 4 / 6, 0.4889, ["bad", "good", "a|b"], per_class, confusion)


@pytest.fixture
def checkpoint() -> Checkpoint:
    metrics = {"accuracy": 0.75, "epoch": 3, "rows": 1200, "versions": {"torch": "2.0"}}
    return Checkpoint(Experiment(name="tickets"), ["bad", "good", "a|b"], [], {}, metrics)


def test_the_text_table_has_a_row_per_class_and_the_totals(evaluation: Evaluation) -> None:
    lines = [line.split() for line in evaluation.format_table().splitlines()]
    assert lines[0] == ["class", "precision", "recall", "f1", "rows"]
    assert lines[1] == ["bad", "0.667", "0.667", "0.667", "3"]
    assert lines[3] == ["a|b", "0.000", "0.000", "0.000", "1"]
    assert lines[4] == ["accuracy", "0.6667", "macro", "F1", "0.4889", "on", "6", "rows", "of", "test.csv"]


def test_most_confused_classes_come_first(evaluation: Evaluation) -> None:
    """Correct predictions and pairs that do not occur are not listed."""
    more = dataclasses.replace(evaluation, confusion=np.array([[2, 1, 0], [0, 2, 5], [1, 0, 0]]))
    assert more.most_confused() == [("good", "a|b", 5), ("bad", "good", 1), ("a|b", "bad", 1)]


def test_the_report_has_every_figure(evaluation: Evaluation, checkpoint: Checkpoint, tmp_path: Path) -> None:
    write_report(tmp_path, evaluation, checkpoint, ["## More", ""])
    lines = (tmp_path / "report.md").read_text().splitlines()
    assert "Test accuracy **0.6667**, macro F1 **0.4889**, on 6 rows of `test.csv`." in lines
    expected = "Checkpoint `run/epoch-0003`, epoch 3, trained on 1,200 rows; validation accuracy 0.7500."
    assert expected in lines
    assert "| class | precision | recall | f1 | rows |" in lines
    assert "| good | 0.667 | 1.000 | 0.800 | 2 |" in lines
    assert "| a\\|b | bad | 1 |" in lines
    assert "## More" in lines
    assert "name: tickets" in lines
    assert "Versions: torch 2.0" in lines
    values = json.loads((tmp_path / "evaluation.json").read_text())
    assert list(values) == [
        "checkpoint", "source", "rows", "accuracy", "macro_f1", "labels", "per_class", "confusion"
    ]  # fmt: skip
    assert values["confusion"] == [[2, 1, 0], [0, 2, 0], [1, 0, 0]]
    assert values["per_class"]["support"] == [3, 2, 1]
    assert (tmp_path / "confusion.png").read_bytes().startswith(b"\x89PNG")


def test_the_report_says_when_there_was_no_validation_part_or_no_mistake(
    evaluation: Evaluation, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    perfect = dataclasses.replace(evaluation, confusion=np.diag([3, 2, 1]))
    metrics = checkpoint.metrics | {"accuracy": None}
    write_report(tmp_path, perfect, dataclasses.replace(checkpoint, metrics=metrics))
    text = (tmp_path / "report.md").read_text()
    assert "trained on 1,200 rows; including the validation part." in text
    assert "Most frequent mistakes:\n\nNone.\n" in text


def test_the_confusion_matrix_shows_shares_counts_and_labels(evaluation: Evaluation) -> None:
    """Colors are shares of the true class; a class without rows is not divided by zero."""
    unseen = dataclasses.replace(evaluation, confusion=np.array([[2, 1, 0], [0, 2, 0], [0, 0, 0]]))
    axes, colorbar = draw_confusion_matrix(unseen).axes
    [image] = axes.images
    np.testing.assert_allclose(image.get_array(), [[2 / 3, 1 / 3, 0], [0, 1, 0], [0, 0, 0]])
    counts = {text.get_position(): text.get_text() for text in axes.texts}
    assert counts[1, 0] == "1"  # column, row
    assert counts[0, 1] == "0"
    assert len(counts) == 9
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        assert [label.get_text() for label in labels] == ["bad", "good", "a|b"]
    assert colorbar.get_ylabel() == "share of the true class"


def test_a_confusion_matrix_of_many_classes_has_no_text(evaluation: Evaluation) -> None:
    classes = MAX_ANNOTATED_CLASSES + 1
    many = dataclasses.replace(
        evaluation, labels=[str(n) for n in range(classes)], confusion=np.eye(classes, dtype=int)
    )
    axes = draw_confusion_matrix(many).axes[0]
    assert not axes.texts
    np.testing.assert_allclose(axes.images[0].get_array(), np.eye(classes))
