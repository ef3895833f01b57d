"""HTML page of an evaluation: metrics, classes, confusion matrix, texts, confidence and slices.

A section whose values are missing is left out.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from jobs.datasets.readers import Split
from jobs.evaluation.abstention import Abstention, RiskCoverage
from jobs.evaluation.calibration import Curve, describe_bins, name_axes
from jobs.evaluation.measurement import INTERVALS_NOTE, METRIC_NAMES, MeasuredEvaluation
from jobs.evaluation.metrics import list_cells, share_interval
from jobs.evaluation.reports.html.charts import Chart, Scale, Series
from jobs.evaluation.reports.html.page import render_page
from jobs.evaluation.reports.html.texts import Predictions, list_rows
from jobs.evaluation.slices import describe_slices, tabulate_slices
from jobs.inference.classifier import Classifier
from jobs.model.checkpoint import Checkpoint

MAX_TABLE_CLASSES = 30  # with more, the numbers of a confusion matrix do not fit on a screen
MAX_CELLS = 3000  # of the confusion matrix of many classes
MAX_MISTAKES = 50
NUM_SHADES = 10
NUM_CURVE_POINTS = 100
COVERAGES = (1.0, 0.95, 0.9, 0.8, 0.5)


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class ClassRow:
    """Row of the table of classes. number: index of the class; rows: with it as true class. threshold: score from which
    a text gets the label; None with one label per text."""

    number: int
    label: str
    rows: int
    precision: Estimate
    recall: Estimate
    f1: Estimate
    threshold: float | None = None


@dataclass(frozen=True)
class Cell:
    """Cell of the confusion matrix. share: of the rows of the true class; style: classes of the style sheet."""

    label: int
    predicted: int
    rows: int
    share: float

    @property
    def style(self) -> str:
        """Return the color, which depends on the share and on whether the prediction is correct."""
        return f"{'good' if self.label == self.predicted else 'bad'} s{round(NUM_SHADES * self.share)}"


@dataclass(frozen=True)
class Matrix:
    """Confusion matrix. rows: all cells, of few classes. cells: those with rows, of many classes; mistakes: the most
    frequent ones of `num_mistakes`; left_out: which cells are missing."""

    mistakes: list[Cell]
    num_mistakes: int
    rows: list[list[Cell]] = field(default_factory=list)
    cells: list[Cell] = field(default_factory=list)
    left_out: str = ""

    @property
    def is_table(self) -> bool:
        """True if the matrix is shown with its numbers."""
        return bool(self.rows)


def render_evaluation(
    evaluation: MeasuredEvaluation,
    checkpoint: Checkpoint,
    classifier: Classifier,
    rows: Split,
    labels: np.ndarray,
    probabilities: np.ndarray,
    reliability: Sequence[Curve],
    abstention: Abstention,
) -> str:
    """Return the page.

    Args:
        rows: the measured ones. labels: their class indices, `(rows,)`. probabilities: `(rows, classes)`.
        reliability: as of `compute_curves`. abstention: as of `measure_abstention`.
    """
    predicted, scores = probabilities.argmax(axis=1), probabilities.max(axis=1)
    listed = list_rows(classifier, rows, Predictions.of_classes(labels, predicted, scores))
    names = evaluation.labels
    hint = "Mistakes first, the most confident one first; then the correct rows, the least confident one first. "
    if len(listed) < len(rows):
        hint += f"{len(listed):,} of {len(rows):,} rows, some of each pair of classes."
    else:
        hint += f"All {len(rows):,} rows."
    sections = {"metrics": "Metrics", "classes": "Classes", "confusion": "Confusion matrix", "texts-title": "Texts",
                "confidence": "Confidence", "slices": "Slices", "settings": "Settings"}  # fmt: skip
    return render_page(
        "evaluation.html",
        **describe_checkpoint(checkpoint, evaluation.rows, evaluation.source),
        figures=list(_list_figures(evaluation)),
        notes=[note] if (note := evaluation.describe_seen_texts()) else [],
        sections=sections,
        comparison=evaluation.comparison_rows(),
        comparison_hint=" ".join([INTERVALS_NOTE, *(f"{text}." for text in evaluation.describe_differences())]),
        class_name="class",
        classes=build_class_rows(
            names, evaluation.confusion.diagonal(), evaluation.confusion.sum(axis=1), evaluation.confusion.sum(axis=0)
        ),
        labels=names,
        matrix=build_matrix(evaluation.confusion),
        texts=listed,
        texts_hint=hint,
        charts=[draw_reliability(reliability), _draw_risk(abstention.curve)],
        stored_thresholds=[result.to_row() for result in abstention.results],
        thresholds=_list_thresholds(abstention.curve),
        out_of_scope=evaluation.out_of_scope,
        slices=tabulate_slices([item for item in evaluation.slices if item.by != "class"]),  # that is the recall
        slices_hint=describe_slices("Accuracy"),
    )


def describe_checkpoint(checkpoint: Checkpoint, rows: int, source: str) -> dict[str, str]:
    """Return the values of a page that describe the checkpoint, with the number of the measured rows and their name."""
    metrics, experiment = checkpoint.metrics, checkpoint.experiment
    return {
        "title": f"{experiment.name}: {experiment.model.embedding}",
        "subtitle": f"{rows:,} rows of {source}, measured with epoch {metrics['epoch']} of training on "
        f"{metrics['rows']:,} rows.",
        "settings": experiment.to_yaml().rstrip(),
        "checkpoint": checkpoint.path,
        "versions": ", ".join(f"{name} {version}" for name, version in metrics["versions"].items()),
    }


def _list_figures(evaluation: MeasuredEvaluation) -> Iterator[dict[str, str]]:
    """Yield the most important metrics with their intervals, and the accuracies of the baselines."""
    for metric in ("accuracy", "macro_f1"):
        interval = "95% confidence {:.3f} to {:.3f}".format(*getattr(evaluation, f"{metric}_interval"))
        yield {"name": METRIC_NAMES[metric], "value": f"{getattr(evaluation, metric):.4f}", "note": interval}
    if evaluation.linear_svc is not None:
        svc = evaluation.linear_svc.metrics.accuracy
        yield {"name": "accuracy of TF-IDF, linear SVC", "value": f"{svc:.4f}", "note": "trained on the same rows"}
    majority = evaluation.majority
    yield {
        "name": "accuracy of one class", "value": f"{majority.metrics.accuracy:.4f}", "note": f"always {majority.label}"
    }  # fmt: skip


def build_class_rows(
    labels: Sequence[str],
    correct: np.ndarray,
    true: np.ndarray,
    predicted: np.ndarray,
    thresholds: Sequence[float | None] | None = None,
) -> list[ClassRow]:
    """Return the table of classes.

    Args:
        correct, true, predicted: rows of each class, `(classes,)` int64: correct ones, those with it as true class, and
            those with it as predicted class. thresholds: of labels, with several per text.
    """
    thresholds = thresholds or [None] * len(labels)
    return [
        ClassRow(
            number, label, int(true[number]),
            estimate_share(int(correct[number]), int(predicted[number])),
            estimate_share(int(correct[number]), int(true[number])),
            estimate_f1(int(correct[number]), int(true[number] + predicted[number])),
            thresholds[number],
        )
        for number, label in enumerate(labels)
    ]  # fmt: skip


def estimate_share(count: int, rows: int) -> Estimate:
    """Return a share of some rows, 0 without rows."""
    return Estimate(count / max(rows, 1), *share_interval(count, rows))


def estimate_f1(correct: int, total: int) -> Estimate:
    """Return the F1 of a class; total: rows with the class plus rows with its prediction.

    F1 rises with the share of correct rows among those that have the class or its prediction, J, as 2 J / (1 + J), so
    its interval is that of J.
    """
    low, high = (2 * share / (1 + share) for share in share_interval(correct, total - correct))
    return Estimate(2 * correct / max(total, 1), low, high)


def build_matrix(confusion: np.ndarray) -> Matrix:
    """Return the confusion matrix of counts `(classes, classes)`, rows are the true class."""
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    true, predicted, counts = list_cells(confusion)
    listed = zip(*(values.tolist() for values in (true, predicted, counts, shares[true, predicted])), strict=True)
    cells = [Cell(*values) for values in listed]
    mistakes = [cell for cell in cells if cell.label != cell.predicted]
    if len(confusion) <= MAX_TABLE_CLASSES:
        rows = [
            [Cell(row, column, int(count), float(shares[row, column])) for column, count in enumerate(counts)]
            for row, counts in enumerate(confusion)
        ]
        return Matrix(mistakes[:MAX_MISTAKES], len(mistakes), rows=rows)
    left_out = ""
    if len(cells) > MAX_CELLS:
        left_out = f"The {MAX_CELLS:,} most frequent of {len(cells):,} cells with rows."
    return Matrix(mistakes[:MAX_MISTAKES], len(mistakes), cells=cells[:MAX_CELLS], left_out=left_out)


def _draw_risk(curve: RiskCoverage) -> Chart:
    points = np.unique(
        np.searchsorted(curve.coverage, np.linspace(0, 1, NUM_CURVE_POINTS + 1)).clip(max=len(curve.risk) - 1)
    )
    y = Scale.of([0.0, float(curve.risk[points].max())])
    line = [(float(curve.coverage[point]), y.position(float(curve.risk[point]))) for point in points]
    x = Scale(0, 1, 0.2).axis("share of the texts that are answered, most confident first", percent=True)
    series = [Series("", "a", line)]
    return Chart("Risk and coverage", x, y.axis("wrong among the answered", percent=True), series)


def draw_reliability(curves: Sequence[Curve], *, is_multi_label: bool = False) -> Chart:
    """Return the reliability diagram; curves: as of `compute_curves`."""
    series = [Series("perfect calibration", "reference", [(0, 0), (1, 1)])]
    for curve in curves:
        points = list(zip(curve.bins.confidence.tolist(), curve.bins.accuracy.tolist(), strict=True))
        series.append(Series(curve.name, "a" if curve.is_calibrated else "b", points, has_markers=True))
    scale = Scale(0, 1, 0.2)
    x, y = (scale.axis(name) for name in name_axes(is_multi_label=is_multi_label))
    return Chart(f"Reliability: {describe_bins(is_multi_label=is_multi_label)}", x, y, series)


def _list_thresholds(curve: RiskCoverage) -> list[dict[str, str]]:
    """Return rows of a table: the lowest score of some coverages, and the errors among the answered texts."""
    points = [min(int(np.searchsorted(curve.coverage, share - 1e-9)), len(curve.risk) - 1) for share in COVERAGES]
    return [
        {
            "answered": f"{curve.coverage[point]:.1%}",
            "lowest score": f"{curve.thresholds[point]:.3f}",
            "correct among them": f"{1 - curve.risk[point]:.1%}",
        }
        for point in dict.fromkeys(points)
    ]
