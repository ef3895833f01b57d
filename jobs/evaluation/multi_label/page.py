"""HTML page of an evaluation with several labels per text: metrics, labels, texts, thresholds and slices."""

from collections.abc import Iterator, Sequence

import numpy as np

from jobs.datasets.readers import Split
from jobs.evaluation.calibration import Curve
from jobs.evaluation.multi_label.evaluation import INTERVALS_NOTE, MultiLabelEvaluation
from jobs.evaluation.multi_label.metrics import LabelCounts, count_labels
from jobs.evaluation.multi_label.thresholds import GRID, GridCounts, count_scores
from jobs.evaluation.reports.html.charts import Chart, Scale, Series
from jobs.evaluation.reports.html.evaluation_page import build_class_rows, describe_checkpoint, draw_reliability
from jobs.evaluation.reports.html.page import render_page
from jobs.evaluation.reports.html.texts import Predictions, list_rows
from jobs.evaluation.slices import describe_slices, tabulate_slices
from jobs.inference.classifier import Classifier, select_labels
from jobs.model.checkpoint import Checkpoint


def render_label_evaluation(
    evaluation: MultiLabelEvaluation,
    checkpoint: Checkpoint,
    classifier: Classifier,
    rows: Split,
    labels: np.ndarray,
    probabilities: np.ndarray,
    reliability: Sequence[Curve],
) -> str:
    """Return the page.

    Args:
        rows: the measured ones. labels: `(rows, labels)` of 0 and 1. probabilities: `(rows, labels)`.
        reliability: as of `compute_curves`.
    """
    thresholds = checkpoint.label_thresholds
    counts = count_labels(labels, probabilities >= thresholds)
    listed = list_rows(classifier, rows, rank_predictions(labels, probabilities, thresholds))
    hint = (
        "Rows with a wrong label first, that with the highest score first; then those that only lack a label, that "
        "with the lowest score first; then the correct rows, those with a score near its threshold first. "
    )
    if len(listed) < len(rows):
        hint += f"{len(listed):,} of {len(rows):,} rows, some of each wrong or missing label."
    else:
        hint += f"All {len(rows):,} rows."
    sections = {"metrics": "Metrics", "classes": "Labels", "texts-title": "Texts",
                "confidence": "Thresholds and calibration", "slices": "Slices", "settings": "Settings"}  # fmt: skip
    return render_page(
        "evaluation.html",
        **describe_checkpoint(checkpoint, evaluation.rows, evaluation.source),
        figures=list(_list_figures(evaluation)),
        notes=[note] if (note := evaluation.describe_seen_texts()) else [],
        sections=sections,
        comparison=evaluation.comparison_rows(),
        comparison_hint=" ".join([INTERVALS_NOTE, *(f"{text}." for text in evaluation.describe_baselines())]),
        class_name="label",
        classes=build_class_rows(evaluation.labels, counts.correct, counts.true, counts.predicted, thresholds.tolist()),
        labels=evaluation.labels,
        matrix=None,
        texts=listed,
        texts_hint=hint,
        charts=[
            _draw_thresholds(count_scores(probabilities, labels), counts),
            draw_reliability(reliability, is_multi_label=True),
        ],
        stored_thresholds=[],
        thresholds=[],
        out_of_scope=None,
        slices=tabulate_slices(evaluation.slices),
        slices_hint=describe_slices("Micro F1"),
    )


def rank_predictions(labels: np.ndarray, probabilities: np.ndarray, thresholds: np.ndarray) -> Predictions:
    """Return the predictions of rows in the order of a page.

    First are the rows with a wrong label, the one with the highest score first; then those that only lack a label, the
    one with the lowest score first; then the correct rows, first those with a score near its threshold.

    Args:
        labels, probabilities: `(rows, labels)`. thresholds: `(labels,)`.
    """
    is_true, is_predicted = labels.astype(bool), probabilities >= thresholds
    wrong = np.where(is_predicted & ~is_true, probabilities, -1.0)
    missing = np.where(is_true & ~is_predicted, -probabilities, -2.0)
    has_wrong, has_missing = (wrong >= 0).any(axis=1), (missing >= -1).any(axis=1)
    margin = np.abs(probabilities - thresholds).min(axis=1)
    first_wrong, first_missing, num_labels = wrong.argmax(axis=1), missing.argmax(axis=1), labels.shape[1]
    cases = [has_wrong, has_missing]
    predicted = select_labels(probabilities, thresholds)
    return Predictions(
        [np.flatnonzero(row).tolist() for row in is_true],
        predicted,
        [row[own].tolist() for row, own in zip(probabilities, predicted, strict=True)],
        is_wrong=np.logical_or(has_wrong, has_missing),
        confidence=np.select(cases, [wrong.max(axis=1), missing.max(axis=1)], margin),
        explained=np.where(has_wrong, first_wrong, -1),
        kind=np.select(cases, [first_wrong, num_labels + first_missing], 2 * num_labels),
    )


def _list_figures(evaluation: MultiLabelEvaluation) -> Iterator[dict[str, str]]:
    """Yield the most important metrics, and the micro F1 of the baseline."""
    metrics, (true, predicted) = evaluation.metrics, evaluation.labels_per_text
    for name, value, interval in (
        ("micro F1", metrics.micro_f1, evaluation.micro_f1_interval),
        ("macro F1", metrics.macro_f1, evaluation.macro_f1_interval),
        ("P@1", metrics.precision_at["1"], evaluation.precision_at_1_interval),
    ):
        yield {"name": name, "value": f"{value:.4f}", "note": "95% confidence {:.3f} to {:.3f}".format(*interval)}
    yield {"name": "labels per text", "value": f"{true:.2f}", "note": f"{predicted:.2f} are predicted"}
    if evaluation.linear_svc is not None:
        svc = f"{evaluation.linear_svc.metrics.micro_f1:.4f}"
        yield {"name": "micro F1 of TF-IDF, linear SVC", "value": svc, "note": "one for each label, the same rows"}
    same = f"{evaluation.frequent_labels.metrics.micro_f1:.4f}"
    yield {"name": "micro F1 of the same labels", "value": same, "note": evaluation.frequent_labels.describe()}


def _draw_thresholds(counts: GridCounts, own: LabelCounts) -> Chart:
    """Return precision, recall and F1 by the threshold, if it were the same for all labels."""
    correct, predicted, true = counts.correct.sum(axis=0), counts.predicted.sum(axis=0), int(counts.true.sum())
    curves: dict[tuple[str, str], Sequence[float]] = {
        ("micro precision", "a"): (correct / np.maximum(predicted, 1)).tolist(),
        ("micro recall", "b"): (correct / max(true, 1)).tolist(),
        ("micro F1", "c"): (2 * correct / np.maximum(predicted + true, 1)).tolist(),
    }
    series = [
        Series(name, style, list(zip(GRID.tolist(), values, strict=True))) for (name, style), values in curves.items()
    ]
    reached = own.micro_f1()
    series.append(Series(f"micro F1 with the checkpoint's, {reached:.3f}", "reference", [(0, reached), (1, reached)]))
    scale = Scale(0, 1, 0.2)
    return Chart("One threshold for all labels", scale.axis("threshold of the score"), scale.axis("value"), series)
