"""Report of an evaluation: report.md, evaluation.json and plots."""

import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cluster.storage import write_json
from cluster.tables import format_markdown_table, format_text_table
from jobs.model.checkpoint import Checkpoint

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_ANNOTATED_CLASSES = 20  # with more, the numbers of a confusion matrix are too small to read
NUM_CONFUSED_PAIRS = 10
MAX_LABEL_CHARACTERS = 30  # in the plot


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

    def most_confused(self) -> list[tuple[str, str, int]]:
        """Return (true class, predicted class, rows), the most frequent mistakes first."""
        mistakes = self.confusion.copy()
        np.fill_diagonal(mistakes, 0)
        order = np.argsort(-mistakes, axis=None, kind="stable")[:NUM_CONFUSED_PAIRS]
        pairs = (np.unravel_index(index, mistakes.shape) for index in order)
        return [
            (self.labels[row], self.labels[column], int(mistakes[row, column]))
            for row, column in pairs
            if mistakes[row, column]
        ]

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
    write_json(str(folder / "evaluation.json"), evaluation.to_json())
    plot_confusion_matrix(folder / "confusion.png", evaluation)
    (folder / "report.md").write_text(_format_markdown(evaluation, checkpoint, sections), encoding="utf-8")


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
    else:
        lines.append("None.")
    lines += ["", *sections, "Settings:", "", "```yaml", checkpoint.experiment.to_yaml().rstrip(), "```", ""]
    lines += ["Versions: " + ", ".join(f"{name} {version}" for name, version in metrics["versions"].items()), ""]
    return "\n".join(lines)


def plot_confusion_matrix(path: Path, evaluation: Evaluation) -> None:
    """Write a plot of the confusion matrix."""
    save_figure(draw_confusion_matrix(evaluation), path)


def draw_confusion_matrix(evaluation: Evaluation) -> "Figure":
    """Return a figure: shares of the true class as colors, and with few classes the counts and labels as text."""
    from matplotlib.figure import Figure

    num_classes = len(evaluation.labels)
    rows = evaluation.confusion.sum(axis=1, keepdims=True)
    shares = evaluation.confusion / np.maximum(rows, 1)
    side = min(14.0, 2.5 + 0.55 * num_classes)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="predicted", ylabel="true", title=f"accuracy {evaluation.accuracy:.3f}")
    if num_classes <= MAX_ANNOTATED_CLASSES:
        labels = [textwrap.shorten(label, MAX_LABEL_CHARACTERS, placeholder="...") for label in evaluation.labels]
        axes.set_xticks(range(num_classes), labels, rotation=45, ha="right", rotation_mode="anchor", parse_math=False)
        axes.set_yticks(range(num_classes), labels, parse_math=False)
        for (row, column), count in np.ndenumerate(evaluation.confusion):
            color = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(count), ha="center", va="center", color=color, size=8)
    figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.8)
    return figure


def save_figure(figure: "Figure", path: Path) -> None:
    """Write a figure as an image file."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # the font lacks a label's script
        figure.savefig(path, dpi=110)
