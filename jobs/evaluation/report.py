"""What a person keeps of an evaluation: report.md, evaluation.json, and pictures."""

import json
import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cluster.tables import escape_cell
from jobs.model.checkpoint import Checkpoint

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# More classes than this make a confusion matrix that nobody can read number by number.
MAX_ANNOTATED_CLASSES = 20
NUM_CONFUSED_PAIRS = 10
MAX_LABEL_CHARACTERS = 30  # characters in the picture


@dataclass(frozen=True)
class Evaluation:
    """Figures of a checkpoint on a test part.

    per_class: precision, recall, f1 and support, each `(classes,)`; confusion: counts `(classes, classes)`,
    rows the true class and columns the predicted one.
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
        """Return the figures as a text table."""
        width = max(5, *(len(label) for label in self.labels))
        lines = [f"{'class':{width}}  precision  recall      f1    rows"]
        for number, label in enumerate(self.labels):
            precision, recall, f1, support = (self.per_class[key][number] for key in _COLUMNS)
            lines.append(f"{label:{width}}  {precision:9.3f}  {recall:6.3f}  {f1:6.3f}  {support:6d}")
        lines.append(
            f"accuracy {self.accuracy:.4f}   macro F1 {self.macro_f1:.4f}   on {self.rows:,} rows of {self.source}"
        )
        return "\n".join(lines)

    def most_confused(self) -> list[tuple[str, str, int]]:
        """Return (true class, predicted class, rows), the most frequent mistakes first."""
        mistakes = self.confusion.copy()
        np.fill_diagonal(mistakes, 0)
        order = np.argsort(-mistakes, axis=None, kind="stable")[:NUM_CONFUSED_PAIRS]
        places = (np.unravel_index(place, mistakes.shape) for place in order)
        return [(self.labels[row], self.labels[column], int(mistakes[row, column])) for row, column in places
                if mistakes[row, column]]  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """Return the evaluation as JSON values."""
        return {key: _plain(value) for key, value in vars(self).items()}


_COLUMNS = ("precision", "recall", "f1", "support")


def write_report(folder: Path, evaluation: Evaluation, checkpoint: Checkpoint, more: Sequence[str] = ()) -> None:
    """Write the report's files into a folder that exists, over those of an earlier report.

    Args:
        more: lines of Markdown that follow the figures.
    """
    (folder / "evaluation.json").write_text(json.dumps(evaluation.to_json(), indent=1) + "\n", encoding="utf-8")
    plot_confusion_matrix(folder / "confusion.png", evaluation)
    (folder / "report.md").write_text(_markdown(evaluation, checkpoint, more), encoding="utf-8")


def _markdown(evaluation: Evaluation, checkpoint: Checkpoint, more: Sequence[str]) -> str:
    model, metrics = checkpoint.experiment.model, checkpoint.metrics
    validated = "the validation part among them"
    if metrics["accuracy"] is not None:
        validated = f"validation accuracy {metrics['accuracy']:.4f}"
    lines = [
        f"# {checkpoint.experiment.name}: {model.embedding}",
        "",
        f"Test accuracy **{evaluation.accuracy:.4f}**, macro F1 **{evaluation.macro_f1:.4f}**, "
        f"on {evaluation.rows:,} rows of `{evaluation.source}`.",
        "",
        f"Checkpoint `{evaluation.checkpoint}`, epoch {metrics['epoch']}, "
        f"trained on {metrics['rows']:,} rows; {validated}.",
        "",
        "| class | precision | recall | f1 | rows |",
        "|---|---|---|---|---|",
    ]
    for number, label in enumerate(evaluation.labels):
        precision, recall, f1, support = (evaluation.per_class[key][number] for key in _COLUMNS)
        lines.append(f"| {escape_cell(label)} | {precision:.3f} | {recall:.3f} | {f1:.3f} | {support} |")
    lines += ["", "![confusion matrix](confusion.png)", "", "Most frequent mistakes:", ""]
    lines += ["| true | predicted | rows |", "|---|---|---|"]
    lines += [
        f"| {escape_cell(true)} | {escape_cell(said)} | {rows} |" for true, said, rows in evaluation.most_confused()
    ]
    lines += ["", *more, "Settings:", "", "```yaml", checkpoint.experiment.to_yaml().rstrip(), "```", ""]
    lines += [
        "Versions: " + ", ".join(f"{name} {version}" for name, version in metrics["versions"].items()),
        "",
    ]
    return "\n".join(lines)


def plot_confusion_matrix(path: Path, evaluation: Evaluation) -> None:
    """Write the confusion matrix as a picture."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    classes = len(evaluation.labels)
    rows = evaluation.confusion.sum(axis=1, keepdims=True)
    shares = evaluation.confusion / np.maximum(rows, 1)
    side = min(14.0, 2.5 + 0.55 * classes)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="predicted", ylabel="true", title=f"accuracy {evaluation.accuracy:.3f}")
    if classes <= MAX_ANNOTATED_CLASSES:
        labels = [textwrap.shorten(label, MAX_LABEL_CHARACTERS, placeholder="...") for label in evaluation.labels]
        axes.set_xticks(range(classes), labels, rotation=45, ha="right", rotation_mode="anchor", parse_math=False)
        axes.set_yticks(range(classes), labels, parse_math=False)
        for row in range(classes):
            for column in range(classes):
                color = "white" if shares[row, column] > 0.5 else "black"
                axes.text(
                    column,
                    row,
                    evaluation.confusion[row, column],
                    ha="center",
                    va="center",
                    color=color,
                    size=8,
                )
    figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.8)
    save_figure(figure, path)


def save_figure(figure: "Figure", path: Path) -> None:
    """Write a picture."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # the font lacks a label's script
        figure.savefig(path, dpi=110)


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return value
