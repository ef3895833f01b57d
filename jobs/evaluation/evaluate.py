"""Evaluation of a checkpoint on labelled texts that training did not see, with a report."""

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from cluster.console.logs import RESULT
from cluster.console.output import report_result
from cluster.console.progress import ReportStep, step_bar
from cluster.console.tables import format_markdown_table, format_text_table
from cluster.input_files import check_output_file
from cluster.storage import join, output_folder
from jobs.config.experiment import Experiment, apply_overrides
from jobs.config.settings import Source
from jobs.datasets.dataset import Dataset
from jobs.datasets.label_sets import encode_labels
from jobs.datasets.readers import choose_encoding
from jobs.datasets.tokenization.text_tokens import tokenize_texts
from jobs.evaluation.abstention import measure_abstention, write_abstention
from jobs.evaluation.baselines import (
    SVC_NAME,
    RowsUnavailable,
    SvcBaseline,
    load_training_dataset,
    load_training_rows,
    measure_svc,
)
from jobs.evaluation.calibration import compute_curves, write_calibration
from jobs.evaluation.drift import NoTrainedVectors, format_markdown_section, load_drift, write_drift
from jobs.evaluation.measured_rows import MeasuredRows, describe_rows, load_measured_rows, read_measured_columns
from jobs.evaluation.measurement import MeasuredEvaluation, index_labels, measure
from jobs.evaluation.multi_label import evaluation as multi_label
from jobs.evaluation.multi_label.baselines import score_network_alone
from jobs.evaluation.multi_label.evaluation import MultiLabelEvaluation
from jobs.evaluation.multi_label.linear_svc import score_with_svcs
from jobs.evaluation.multi_label.page import render_label_evaluation
from jobs.evaluation.multi_label.report import find_wrong_labels
from jobs.evaluation.multi_label.report import write_report as write_label_report
from jobs.evaluation.network_alone import predict_network_alone
from jobs.evaluation.reports.errors import ConfidentError, find_confident_errors, write_predictions
from jobs.evaluation.reports.html.evaluation_page import render_evaluation
from jobs.evaluation.reports.html.page import PAGE_NAME
from jobs.evaluation.reports.report import write_report
from jobs.evaluation.reports.report_folder import choose_report_folder
from jobs.evaluation.slices import Slice, format_slices, slice_by_column, tabulate_slices
from jobs.inference.file_prediction import build_classifier
from jobs.model.checkpoint import Checkpoint, CheckpointError, load_checkpoint, read_published_test_part

logger = logging.getLogger(__name__)

STEPS = READING, SCORING, TRAINING_SVC, SCORING_ALONE, MEASURING, REPORTING = (
    "reading the rows", "scoring the texts", f"training {SVC_NAME}", "scoring with the network alone",
    "measuring intervals", "writing the report",
)  # fmt: skip
NUM_LOGGED_ERRORS = 5
MAX_LOGGED_CHARACTERS = 60
NO_SVC = "no comparison with TF-IDF and a linear SVC, which needs the training rows"
# Values of metrics.json that a report shows.
REQUIRED_METRICS = ("epoch", "rows", "accuracy", "versions")


def evaluate(
    path: str,
    settings: list[str],
    out: str | None,
    file: Source | None = None,
    text_column: str | None = None,
    label_column: str | None = None,
    by: Sequence[str] = (),
    baseline: bool = True,
) -> MeasuredEvaluation | MultiLabelEvaluation:
    """Evaluate a checkpoint, log the metrics and the most confident errors, and write a report.

    Args:
        path: a checkpoint, a best.json, or a folder with one.
        settings: changes to the experiment, such as `data.test=other.csv` or, for `file`, `data.delimiter=^`.
        out: the report's folder; by default that of `choose_report_folder` for its experiment's test part, and
            with `-NAME-KEY` after it for other rows.
        file: labelled texts to measure; by default the experiment's test part.
        text_column, label_column: of that file; by default as in training.
        by: columns of the measured rows by whose values the accuracy is listed.
        baseline: also train a linear SVC on the training rows, if they are still available.

    Raises:
        DataError: the test part cannot be read, has other labels or no such column, or is not the one that training
            held out.
        StorageError: `out` is in a checkpoint.
    """
    with step_bar("evaluating", STEPS, logger) as report_step:
        report_step(READING)
        checkpoint, experiment, part, target = prepare(path, settings, out, file, text_column, label_column)
        columns = read_measured_columns(by, part) if by else {}
        if checkpoint.is_multi_label:
            return _evaluate_label_sets(checkpoint, part, columns, target, report_step, baseline=baseline)
        return _evaluate_classes(checkpoint, experiment.name, part, columns, target, report_step, baseline=baseline)


def prepare(
    path: str,
    settings: list[str],
    out: str | None,
    file: Source | None = None,
    text_column: str | None = None,
    label_column: str | None = None,
) -> tuple[Checkpoint, Experiment, MeasuredRows, str]:
    """Return the checkpoint, the experiment with changes, the rows to measure, and the folder of the report.

    Arguments and errors are those of `evaluate`.
    """
    checkpoint = load_checkpoint(path)
    missing = [name for name in REQUIRED_METRICS if name not in checkpoint.metrics]
    if missing:
        raise CheckpointError(f"{checkpoint.path}: metrics.json: lacks {', '.join(missing)}")
    columns = {"data.text_column": text_column, "data.label_column": label_column}
    experiment = apply_overrides(checkpoint.experiment, settings) if settings else checkpoint.experiment
    experiment = experiment.replace({key: name for key, name in columns.items() if name is not None})
    keys = {setting.partition("=")[0] for setting in settings}
    if file is not None:
        # Other files may have another delimiter and encoding than the training file.
        here = experiment.data.model_copy(update={"folder": "."})
        guessed = {"data.delimiter": None, "data.encoding": choose_encoding(file, here)}
        experiment = experiment.replace({key: value for key, value in guessed.items() if key not in keys})
    elif "data.test" not in keys:
        file = read_published_test_part(path)
    part = load_measured_rows(experiment, checkpoint, file)
    target = choose_report_folder(out, path, checkpoint, describe_rows(checkpoint, part.rows))
    return checkpoint, experiment, part, target


def _evaluate_classes(
    checkpoint: Checkpoint,
    name: str,
    part: MeasuredRows,
    columns: Mapping[str, list[str]],
    target: str,
    report_step: ReportStep,
    *,
    baseline: bool,
) -> MeasuredEvaluation:
    """As `evaluate`, of a checkpoint with one label per text; name: of the experiment, target: folder of the report."""
    report_step(SCORING)
    test = part.rows
    classifier = build_classifier(checkpoint, len(test))
    probabilities = classifier.predict_proba(test.texts)
    predicted = probabilities.argmax(axis=1)
    labels, tokens = index_labels(checkpoint, test), tokenize_texts(test.texts, checkpoint.experiment.text)
    report_step(TRAINING_SVC)
    svc = _measure_svc(checkpoint, part.dataset, tokens, labels, predicted) if baseline else None
    report_step(SCORING_ALONE)
    alone = predict_network_alone(checkpoint, test.texts)
    report_step(MEASURING)
    slices = [
        item for column, values in columns.items() for item in slice_by_column(column, values, labels == predicted)
    ]
    evaluation = measure(
        checkpoint,
        test.path,
        tokens,
        labels,
        predicted,
        None if alone is None else alone.argmax(axis=1),
        svc,
        slices,
    )
    logger.log(RESULT, evaluation.format_table())
    if svc is not None:
        logger.log(RESULT, svc.describe_difference())
    _log_slices(slices)
    if evaluation.seen_texts is None:
        logger.info("whether these texts were trained on is not known: the checkpoint lacks their digests")
    elif warning := evaluation.describe_seen_texts():
        logger.warning(f"{test.path}: {warning}")
    report_step(REPORTING)
    errors = find_confident_errors(classifier, test, probabilities)
    _log_errors(errors)
    with output_folder(target) as folder:
        check_output_file(join(target, "predictions.csv"), *(file.path for file in test.files))
        drift_section = _write_drift(folder, checkpoint, name)
        write_predictions(folder / "predictions.csv", checkpoint.labels, test, probabilities)
        reliability = compute_curves(probabilities, labels, checkpoint.temperature)
        calibration_section = write_calibration(folder, checkpoint, reliability, probabilities)
        abstention = measure_abstention(checkpoint, labels, probabilities)
        abstention_section = write_abstention(folder, abstention, name)
        sections = [*_format_sections(evaluation, errors), *calibration_section, *abstention_section, *drift_section]
        write_report(folder, evaluation, checkpoint, sections)
        page = render_evaluation(
            evaluation, checkpoint, classifier, test, labels, probabilities, reliability, abstention
        )
        (folder / PAGE_NAME).write_text(page, encoding="utf-8")
    _log_report(target)
    report_result(lambda: {"path": join(target, "evaluation.json"), **evaluation.to_json()})
    return evaluation


def _evaluate_label_sets(
    checkpoint: Checkpoint,
    part: MeasuredRows,
    columns: Mapping[str, list[str]],
    target: str,
    report_step: ReportStep,
    *,
    baseline: bool,
) -> MultiLabelEvaluation:
    """As `evaluate`, of a checkpoint with several labels per text; target: folder of the report."""
    report_step(SCORING)
    test, text = part.rows, checkpoint.experiment.text
    classifier = build_classifier(checkpoint, len(test))
    probabilities = classifier.predict_proba(test.texts)
    tokens, labels = tokenize_texts(test.texts, text), encode_labels(test, checkpoint.labels)
    svc = training = None
    report_step(TRAINING_SVC)
    if baseline:
        try:
            training = load_training_dataset(checkpoint, part.dataset)
            svc = score_with_svcs(training, checkpoint.labels, tokens, text, partial(report_step, TRAINING_SVC))
        except RowsUnavailable as error:
            logger.info(f"{NO_SVC}: {error}")
    report_step(SCORING_ALONE)
    alone = score_network_alone(checkpoint, test.texts, training)
    training_rows = 0 if training is None else len(training.train)
    report_step(MEASURING)
    evaluation = multi_label.measure(
        checkpoint, test, tokens, labels, probabilities, columns, alone, svc, training_rows
    )
    logger.log(RESULT, evaluation.format_table())
    if evaluation.linear_svc is not None:
        logger.log(RESULT, evaluation.linear_svc.describe_difference())
    _log_slices([item for item in evaluation.slices if item.by in columns])
    if warning := evaluation.describe_seen_texts():
        logger.warning(f"{test.path}: {warning}")
    report_step(REPORTING)
    errors = find_wrong_labels(classifier, test, labels, probabilities)
    _log_errors(errors)
    with output_folder(target) as folder:
        check_output_file(join(target, "predictions.csv"), *(file.path for file in test.files))
        drift_section = _write_drift(folder, checkpoint, checkpoint.experiment.name)
        reliability = compute_curves(probabilities, labels, checkpoint.temperature)
        calibration_section = write_calibration(folder, checkpoint, reliability, probabilities)
        sections = [*calibration_section, *drift_section]
        write_label_report(folder, evaluation, checkpoint, test, probabilities, sections, errors)
        page = render_label_evaluation(evaluation, checkpoint, classifier, test, labels, probabilities, reliability)
        (folder / PAGE_NAME).write_text(page, encoding="utf-8")
    _log_report(target)
    report_result(lambda: {"path": join(target, "evaluation.json"), **evaluation.to_json()})
    return evaluation


def _log_slices(slices: Sequence[Slice]) -> None:
    for rows in tabulate_slices(slices):
        logger.log(RESULT, f"\n{format_text_table(rows)}")


def _log_errors(errors: Sequence[ConfidentError]) -> None:
    if errors:
        rows = [error.to_row(MAX_LOGGED_CHARACTERS) for error in errors[:NUM_LOGGED_ERRORS]]
        logger.log(RESULT, f"\nmost confident errors\n\n{format_text_table(rows)}\n")


def _log_report(folder: str) -> None:
    logger.log(RESULT, f"report: {join(folder, PAGE_NAME)}; report.md has it as Markdown")


def _write_drift(folder: Path, checkpoint: Checkpoint, name: str) -> list[str]:
    """Write the files on the drift of the vectors, and return their section of report.md, empty without drift."""
    try:
        drift = load_drift(checkpoint)
        write_drift(folder, drift, name)
        return format_markdown_section(drift)
    except NoTrainedVectors as error:
        logger.info(f"the report has no section on vector drift: {error}")
        return []


def _measure_svc(
    checkpoint: Checkpoint, dataset: Dataset | None, tokens: list[list[str]], labels: np.ndarray, predicted: np.ndarray
) -> SvcBaseline | None:
    """Return the linear SVC that is trained on the checkpoint's training rows; None if they are not available."""
    try:
        return measure_svc(load_training_rows(checkpoint, dataset), checkpoint, tokens, labels, predicted)
    except RowsUnavailable as error:
        logger.info(f"{NO_SVC}: {error}")
        return None


def _format_sections(evaluation: MeasuredEvaluation, errors: list[ConfidentError]) -> list[str]:
    """Return the sections of report.md that follow the metrics, as lines of Markdown."""
    lines = ["## Metrics", "", *format_markdown_table(evaluation.comparison_rows()), ""]
    lines += ["The interval of the accuracy is Wilson's, the others are a bootstrap of the rows.", ""]
    if evaluation.linear_svc is not None:
        lines += [f"{evaluation.linear_svc.describe_difference()}. It was trained on the same "
                  f"{evaluation.linear_svc.training_rows:,} rows.", ""]  # fmt: skip
    if evaluation.seen_texts == 0:
        lines += ["No text has the same words as a training text.", ""]
    elif note := evaluation.describe_seen_texts():
        lines += [f"**{note}.**", ""]
    lines += ["## Most confident errors", ""]
    lines += format_markdown_table([error.to_row() for error in errors]) if errors else ["None."]
    lines += ["", "Every row: [predictions.csv](predictions.csv).", ""]
    return [*lines, *format_slices(evaluation.slices, "Accuracy")]
