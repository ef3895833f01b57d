"""Report of an evaluation: its page, report.md, and files of predictions, calibration, abstention and drift."""

import logging
from pathlib import Path

from cluster.console.tables import format_markdown_table
from jobs.evaluation.abstention import measure_abstention, write_abstention
from jobs.evaluation.calibration import compute_curves, write_calibration
from jobs.evaluation.drift import NoTrainedVectors, format_markdown_section, load_drift, write_drift
from jobs.evaluation.measured_rows import ScoredRows
from jobs.evaluation.measurement import INTERVALS_NOTE, MeasuredEvaluation
from jobs.evaluation.multi_label.evaluation import MultiLabelEvaluation
from jobs.evaluation.multi_label.page import render_label_evaluation
from jobs.evaluation.multi_label.report import write_report as write_label_report
from jobs.evaluation.reports.errors import ConfidentError, write_predictions
from jobs.evaluation.reports.html.evaluation_page import render_evaluation
from jobs.evaluation.reports.html.page import PAGE_NAME
from jobs.evaluation.reports.report import write_report
from jobs.evaluation.slices import format_slices
from jobs.model.checkpoint import Checkpoint

logger = logging.getLogger(__name__)


def write_evaluation(
    folder: Path,
    scored: ScoredRows,
    evaluation: MeasuredEvaluation | MultiLabelEvaluation,
    errors: list[ConfidentError],
    name: str,
) -> None:
    """Write the files of the report into a folder; name: of the experiment."""
    checkpoint, test, classifier = scored.checkpoint, scored.part.rows, scored.classifier
    labels, probabilities = scored.labels, scored.probabilities
    drift_section = _write_drift(folder, checkpoint, name)
    reliability = compute_curves(probabilities, labels, checkpoint.temperature)
    sections = write_calibration(folder, checkpoint, reliability, probabilities)
    if isinstance(evaluation, MultiLabelEvaluation):
        sections += drift_section
        write_label_report(folder, evaluation, checkpoint, test, probabilities, sections, errors)
        page = render_label_evaluation(evaluation, checkpoint, classifier, test, labels, probabilities, reliability)
    else:
        write_predictions(folder / "predictions.csv", checkpoint.labels, test, probabilities)
        abstention = measure_abstention(checkpoint, labels, probabilities)
        sections += [*write_abstention(folder, abstention, name), *drift_section]
        write_report(folder, evaluation, checkpoint, [*_format_sections(evaluation, errors), *sections])
        page = render_evaluation(
            evaluation, checkpoint, classifier, test, labels, probabilities, reliability, abstention
        )
    (folder / PAGE_NAME).write_text(page, encoding="utf-8")


def _write_drift(folder: Path, checkpoint: Checkpoint, name: str) -> list[str]:
    """Write the files on the drift of the vectors, and return their section of report.md, empty without drift."""
    try:
        drift = load_drift(checkpoint)
        write_drift(folder, drift, name)
        return format_markdown_section(drift)
    except NoTrainedVectors as error:
        logger.info(f"the report has no section on vector drift: {error}")
        return []


def _format_sections(evaluation: MeasuredEvaluation, errors: list[ConfidentError]) -> list[str]:
    """Return the sections of report.md that follow the metrics, as lines of Markdown."""
    lines = ["## Metrics", "", *format_markdown_table(evaluation.comparison_rows()), ""]
    lines += [INTERVALS_NOTE, ""]
    for text in evaluation.describe_differences():
        lines += [f"{text}.", ""]
    if evaluation.linear_svc is not None:
        lines += [f"The SVC was trained on the same {evaluation.linear_svc.training_rows:,} rows.", ""]
    if evaluation.seen_texts == 0:
        lines += ["No text has the same words as a training text.", ""]
    elif note := evaluation.describe_seen_texts():
        lines += [f"**{note}.**", ""]
    if evaluation.out_of_scope is not None:
        lines += ["## Out-of-scope texts", "", evaluation.out_of_scope.describe(), ""]
        lines += [*format_markdown_table(evaluation.out_of_scope.to_rows()), ""]
    lines += ["## Most confident errors", ""]
    lines += format_markdown_table([error.to_row() for error in errors]) if errors else ["None."]
    lines += ["", "Every row: [predictions.csv](predictions.csv).", ""]
    return [*lines, *format_slices(evaluation.slices, "Accuracy")]
