"""Report of an evaluation: report.md, evaluation.json, confusion.png and confusions.csv."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cluster.console.csv_output import create_csv_writer
from cluster.console.tables import format_markdown_table, format_text_table
from cluster.storage import write_text
from jobs.evaluation.metrics import list_cells
from jobs.evaluation.reports.figures import BLUE, create_figure, figure_style, save_figure, shorten_label
from jobs.model.checkpoint import Checkpoint

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_ANNOTATED_CLASSES = 30  # with more, the numbers of a confusion matrix are too small to read
NUM_CONFUSED_PAIRS = 10
NUM_PLOTTED_PAIRS = 25
HEAT_MAP_GAMMA = 0.4


@dataclass(frozen=True)
class Evaluation:
    """Metrics of a checkpoint on a test part.

    checkpoint: its path. source: path of the test part; rows: its number of rows. per_class: precision, recall, f1 and
    support, each `(classes,)`. confusion: counts `(classes, classes)`, rows are the true class and columns the
    predicted one.
    """

    checkpoint: str
    source: str
    rows: int
    accuracy: float
    macro_f1: float
    labels: list[str]
    per_class: dict[str, np.ndarray]
    confusion: np.ndarray

    def format_table(self) -> str:
        """Return the metrics as text."""
        return (
            f"{format_text_table(_class_rows(self))}\n"
            f"accuracy {self.accuracy:.4f}   macro F1 {self.macro_f1:.4f}   on {self.rows:,} rows of {self.source}"
        )

    def most_confused(self, count: int | None = NUM_CONFUSED_PAIRS) -> list[tuple[str, str, int]]:
        """Return (true class, predicted class, rows), the most frequent mistakes first; all of them for None."""
        mistakes = self.confusion.copy()
        np.fill_diagonal(mistakes, 0)
        cells = zip(*(values[:count].tolist() for values in list_cells(mistakes)), strict=True)
        return [(self.labels[row], self.labels[column], rows) for row, column, rows in cells]

    def to_json(self) -> dict[str, Any]:
        """Return the evaluation as JSON values."""
        per_class = {name: values.tolist() for name, values in self.per_class.items()}
        return {**vars(self), "per_class": per_class, "confusion": self.confusion.tolist()}


def _class_rows(evaluation: Evaluation) -> list[dict[str, object]]:
    """Return the metrics of each class as table rows."""
    return [
        {
            "class": label,
            **{name: f"{evaluation.per_class[name][index]:.3f}" for name in ("precision", "recall", "f1")},
            "rows": int(evaluation.per_class["support"][index]),
        }
        for index, label in enumerate(evaluation.labels)
    ]


def write_report(folder: Path, evaluation: Evaluation, checkpoint: Checkpoint, sections: Sequence[str] = ()) -> None:
    """Write the report's files into an existing folder, over those of an earlier report.

    Args:
        sections: lines of Markdown that follow the metrics.
    """
    # With many classes most of the file is the confusion matrix, which has three times the size with a line per number.
    layout = {"indent": 1} if len(evaluation.labels) <= MAX_ANNOTATED_CLASSES else {"separators": (",", ":")}
    write_text(str(folder / "evaluation.json"), json.dumps(evaluation.to_json(), ensure_ascii=False, **layout) + "\n")
    plot_confusion_matrix(folder / "confusion.png", evaluation, checkpoint.experiment.name)
    _write_confusions(folder / "confusions.csv", evaluation)
    (folder / "report.md").write_text(_format_markdown(evaluation, checkpoint, sections), encoding="utf-8")


def _write_confusions(path: Path, evaluation: Evaluation) -> None:
    """Write every confused pair of classes, the most frequent first, with the share of the true class's rows."""
    support = dict(zip(evaluation.labels, evaluation.confusion.sum(axis=1), strict=True))
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = create_csv_writer(stream)
        writer.writerow(["true", "predicted", "rows", "share"])
        for true, predicted, rows in evaluation.most_confused(None):
            writer.writerow([true, predicted, rows, f"{rows / support[true]:.4f}"])


def _format_markdown(evaluation: Evaluation, checkpoint: Checkpoint, sections: Sequence[str]) -> str:
    metrics = checkpoint.metrics
    validation = "including the validation part"
    if metrics["accuracy"] is not None:
        validation = f"validation accuracy {metrics['accuracy']:.4f}"
    lines = [
        f"# {checkpoint.experiment.name}: {checkpoint.experiment.model.embedding}",
        "",
        f"Test accuracy **{evaluation.accuracy:.4f}**, macro F1 **{evaluation.macro_f1:.4f}**, "
        f"on {evaluation.rows:,} rows of `{evaluation.source}`.",
        "",
        f"Checkpoint `{evaluation.checkpoint}`, epoch {metrics['epoch']}, "
        f"trained on {metrics['rows']:,} rows; {validation}.",
        "",
        *format_markdown_table(_class_rows(evaluation)),
        "",
        "![confusion matrix](confusion.png)",
        "",
        "Most frequent mistakes:",
        "",
    ]
    mistakes = evaluation.most_confused()
    if mistakes:
        lines += format_markdown_table(
            [{"true": true, "predicted": predicted, "rows": rows} for true, predicted, rows in mistakes]
        )
        lines += ["", "Every pair: [confusions.csv](confusions.csv)."]
    else:
        lines.append("None.")
    lines += ["", *sections, "Settings:", "", "```yaml", checkpoint.experiment.to_yaml().rstrip(), "```", ""]
    lines += ["Versions: " + ", ".join(f"{name} {version}" for name, version in metrics["versions"].items()), ""]
    return "\n".join(lines)


def plot_confusion_matrix(path: Path, evaluation: Evaluation, name: str) -> None:
    """Write a plot of the confusion matrix; `name` is the experiment's."""
    draw = draw_confusion_matrix if len(evaluation.labels) <= MAX_ANNOTATED_CLASSES else draw_confused_pairs
    save_figure(draw(evaluation, name), path)


@figure_style()
def draw_confusion_matrix(evaluation: Evaluation, name: str) -> "Figure":
    """Return a figure of few classes: shares of the true class as colors, with the counts and labels as text."""
    num_classes = len(evaluation.labels)
    side = min(14.0, 2.5 + 0.55 * num_classes)
    figure = create_figure(max(6.0, side + 1), max(4.0, side), _figure_title(evaluation, name))
    axes = figure.add_subplot()
    shares = _draw_matrix(figure, axes, evaluation)
    labels = [shorten_label(label) for label in evaluation.labels]
    axes.set_xticks(range(num_classes), labels, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(num_classes), labels)
    for (row, column), count in np.ndenumerate(evaluation.confusion):
        color = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, f"{count:,}", ha="center", va="center", color=color, size=8, in_layout=False)
    return figure


@figure_style()
def draw_confused_pairs(evaluation: Evaluation, name: str) -> "Figure":
    """Return a figure of many classes: the most confused pairs as bars, and the matrix without labels."""
    pairs = evaluation.most_confused(None)
    if not pairs:
        figure = create_figure(7.5, 7, _figure_title(evaluation, name))
        _draw_matrix(figure, figure.add_subplot(), evaluation, gamma=HEAT_MAP_GAMMA)
        return figure
    figure = create_figure(15, 7, _figure_title(evaluation, name))
    left, right = figure.subplots(1, 2)
    top = pairs[:NUM_PLOTTED_PAIRS]
    bars = left.barh(range(len(top)), [rows for _, _, rows in top], color=BLUE)
    support = dict(zip(evaluation.labels, evaluation.confusion.sum(axis=1), strict=True))
    left.bar_label(bars, [f"{rows:,} of {support[true]:,}" for true, _, rows in top], padding=3, size=8)
    left.set_yticks(
        range(len(top)), [f"{shorten_label(true)} → {shorten_label(predicted)}" for true, predicted, _ in top], size=8
    )
    left.invert_yaxis()
    left.xaxis.get_major_locator().set_params(integer=True)
    left.margins(x=0.12, y=0.01)
    left.set(xlabel="test rows of the true class with this prediction", ylabel="true class → predicted class")
    left.set_title(f"Most frequent mistakes: {len(top)} of {len(pairs):,} pairs")
    _draw_matrix(figure, right, evaluation, gamma=HEAT_MAP_GAMMA)
    right.set_title(f"All {len(evaluation.labels):,} classes, in alphabetical order")
    return figure


def _figure_title(evaluation: Evaluation, name: str) -> str:
    return (
        f"{shorten_label(name)}: predicted classes of {evaluation.rows:,} test rows\n"
        f"accuracy {evaluation.accuracy:.3f}, macro F1 {evaluation.macro_f1:.3f}"
    )


def _draw_matrix(figure: "Figure", axes: "Axes", evaluation: Evaluation, gamma: float = 1.0) -> np.ndarray:
    """Draw the matrix without labels and return its shares of the true class, `(classes, classes)`.

    Args:
        gamma: exponent of the color scale; below 1, small shares are easier to see.
    """
    from matplotlib.colors import PowerNorm

    shares: np.ndarray = evaluation.confusion / np.maximum(evaluation.confusion.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(shares, cmap="Blues", norm=PowerNorm(gamma, 0, 1), interpolation="nearest")
    axes.set(xlabel="predicted class", ylabel="true class", xticks=[], yticks=[])
    axes.spines[:].set_visible(True)
    figure.colorbar(
        image, ax=axes, label="share of the true class's rows" + ("" if gamma == 1 else ", power scale"), shrink=0.8
    )
    return shares
