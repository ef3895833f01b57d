"""Report of an evaluation: text table, Markdown, JSON values and confusion matrix."""

import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from jobs.config.experiment import Experiment
from jobs.evaluation.metrics import per_class_metrics
from jobs.evaluation.reports import report
from jobs.evaluation.reports.report import (
    MAX_ANNOTATED_CLASSES,
    NUM_PLOTTED_PAIRS,
    Evaluation,
    draw_confused_pairs,
    draw_confusion_matrix,
    write_report,
)
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


def test_many_classes_take_no_object_of_each_pair(
    evaluation: Evaluation, checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the pairs that occur are sorted; a number of the matrix in evaluation.json takes two bytes, not eight."""
    classes = 400
    labels, zeros = [str(index) for index in range(classes)], np.zeros(classes)
    confusion = np.eye(classes, dtype=np.int64)
    confusion[3, 7], confusion[7, 3] = 2, 5
    per_class = dict.fromkeys(("precision", "recall", "f1", "support"), zeros)
    many = dataclasses.replace(evaluation, labels=labels, per_class=per_class, confusion=confusion)
    monkeypatch.setattr(np, "unravel_index", None)
    monkeypatch.setattr(report, "plot_confusion_matrix", lambda *_: None)
    assert many.most_confused(None) == many.most_confused() == [("7", "3", 5), ("3", "7", 2)]
    write_report(tmp_path, many, checkpoint)
    path = tmp_path / "evaluation.json"
    assert json.loads(path.read_text())["confusion"] == confusion.tolist()
    assert path.stat().st_size < 2.2 * classes**2


def test_every_confused_pair_is_in_a_csv(evaluation: Evaluation, checkpoint: Checkpoint, tmp_path: Path) -> None:
    """The most frequent first, with the share of the true class's rows; the report links it."""
    many = dataclasses.replace(evaluation, confusion=np.array([[2, 1, 1], [0, 2, 3], [1, 0, 0]]))
    write_report(tmp_path, many, checkpoint)
    lines = (tmp_path / "confusions.csv").read_text().splitlines()
    assert lines == [
        "true,predicted,rows,share",
        "good,a|b,3,0.6000",
        "bad,good,1,0.2500",
        "bad,a|b,1,0.2500",
        "a|b,bad,1,1.0000",
    ]
    assert "Every pair: [confusions.csv](confusions.csv)." in (tmp_path / "report.md").read_text()


def test_the_confusion_matrix_shows_shares_counts_and_labels(evaluation: Evaluation) -> None:
    """Colors are shares of the true class; a class without rows is not divided by zero."""
    unseen = dataclasses.replace(evaluation, confusion=np.array([[2, 1, 0], [0, 2, 0], [0, 0, 0]]))
    figure = draw_confusion_matrix(unseen, "tickets")
    axes, colorbar = figure.axes
    assert figure.get_suptitle() == "tickets: predicted classes of 6 test rows\naccuracy 0.667, macro F1 0.489"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted class", "true class")
    [image] = axes.images
    np.testing.assert_allclose(image.get_array(), [[2 / 3, 1 / 3, 0], [0, 1, 0], [0, 0, 0]])
    counts = {text.get_position(): text.get_text() for text in axes.texts}
    assert counts[1, 0] == "1"  # column, row
    assert counts[0, 1] == "0"
    assert len(counts) == 9
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        assert [label.get_text() for label in labels] == ["bad", "good", "a|b"]
    assert colorbar.get_ylabel() == "share of the true class's rows"


def many_classes(evaluation: Evaluation, confusion: np.ndarray) -> Evaluation:
    return dataclasses.replace(evaluation, labels=[f"class {n}" for n in range(len(confusion))], confusion=confusion)


def test_many_classes_are_shown_as_their_most_frequent_mistakes(evaluation: Evaluation) -> None:
    """Bars of the most confused pairs, with names that are readable, next to the whole matrix without labels."""
    count = 150
    confusion = 30 * np.eye(count, dtype=int)
    confusion[3, 7], confusion[9, 2] = 12, 10
    confusion[20:50, 0] = 1
    figure = draw_confused_pairs(many_classes(evaluation, confusion), "clinc150")
    bars, matrix, _ = figure.axes
    assert bars.get_title() == f"Most frequent mistakes: {NUM_PLOTTED_PAIRS} of 32 pairs"
    labels = bars.get_yticklabels()
    assert [label.get_text() for label in labels][:2] == ["class 3 → class 7", "class 9 → class 2"]
    assert [bar.get_width() for bar in bars.patches][:3] == [12, 10, 1]
    assert [text.get_text() for text in bars.texts][:2] == ["12 of 42", "10 of 40"]
    figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in labels]
    assert not any(box.overlaps(other) for box, other in itertools.pairwise(boxes))
    assert not matrix.texts
    assert len(matrix.get_xticks()) == len(matrix.get_yticks()) == 0
    np.testing.assert_allclose(matrix.images[0].get_array()[3], confusion[3] / 42)


def test_many_classes_without_a_mistake_have_only_the_matrix(evaluation: Evaluation) -> None:
    figure = draw_confused_pairs(many_classes(evaluation, np.eye(40, dtype=int)), "perfect")
    assert [len(axes.patches) for axes in figure.axes if axes.images] == [0]


@pytest.mark.parametrize("num_classes", [MAX_ANNOTATED_CLASSES, MAX_ANNOTATED_CLASSES + 1])
def test_the_plot_depends_on_the_number_of_classes(
    num_classes: int, evaluation: Evaluation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The labels of the largest matrix with labels do not overlap."""
    figures: list[Figure] = []
    monkeypatch.setattr(report, "save_figure", lambda figure, path: figures.append(figure))
    report.plot_confusion_matrix(Path("x.png"), many_classes(evaluation, np.ones((num_classes,) * 2, int)), "x")
    axes = figures[0].axes[0]
    assert bool(axes.images) == (num_classes == MAX_ANNOTATED_CLASSES)
    figures[0].draw_without_rendering()
    boxes = [label.get_window_extent() for label in axes.get_yticklabels()]
    assert not any(box.overlaps(other) for box, other in itertools.pairwise(boxes))
