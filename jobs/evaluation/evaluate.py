"""Evaluation of a checkpoint on labelled texts that training did not see, with a report."""

import logging
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import replace
from functools import partial

from cluster.console.logs import RESULT
from cluster.console.output import report_result
from cluster.console.progress import ReportStep, step_bar
from cluster.console.tables import format_text_table
from cluster.input_files import check_output_file
from cluster.storage import join, output_folder
from jobs.config.experiment import Experiment, apply_overrides
from jobs.config.settings import Source
from jobs.datasets.dataset import Dataset
from jobs.datasets.label_sets import encode_labels
from jobs.datasets.readers import choose_encoding
from jobs.datasets.tokenization.text_tokens import tokenize_texts
from jobs.evaluation.baselines import (
    SVC_NAME,
    RowsUnavailable,
    has_network_alone,
    load_training_dataset,
    measure_svc,
    predict_network_alone,
)
from jobs.evaluation.measured_rows import (
    MeasuredRows,
    ScoredRows,
    describe_rows,
    load_measured_rows,
    read_measured_columns,
    read_out_of_scope,
)
from jobs.evaluation.measurement import MeasuredEvaluation, measure
from jobs.evaluation.multi_label import evaluation as multi_label
from jobs.evaluation.multi_label.baselines import score_network_alone
from jobs.evaluation.multi_label.evaluation import MultiLabelEvaluation
from jobs.evaluation.multi_label.linear_svc import score_with_svcs
from jobs.evaluation.multi_label.report import find_wrong_labels
from jobs.evaluation.out_of_scope import check_threshold, measure_out_of_scope
from jobs.evaluation.reports.errors import ConfidentError, find_confident_errors
from jobs.evaluation.reports.evaluation_files import write_evaluation
from jobs.evaluation.reports.html.page import PAGE_NAME
from jobs.evaluation.reports.report_folder import choose_report_folder
from jobs.evaluation.slices import name_column, slice_by_column, tabulate_slices
from jobs.inference.file_prediction import build_classifier
from jobs.model.checkpoint import Checkpoint, CheckpointError, load_checkpoint
from jobs.model.checkpoint_locations import read_published_test_part

logger = logging.getLogger(__name__)

STEPS = READING, SCORING, TRAINING_SVC, SCORING_ALONE, MEASURING, REPORTING = (
    "reading the rows", "scoring the texts", f"training {SVC_NAME}", "scoring with the network alone",
    "measuring intervals", "writing the report",
)  # fmt: skip
NUM_LOGGED_ERRORS = 5
MAX_LOGGED_CHARACTERS = 60
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
    out_of_scope: Source | None = None,
) -> MeasuredEvaluation | MultiLabelEvaluation:
    """Evaluate a checkpoint, log the metrics and the most confident errors, and write a report.

    Args:
        path: a checkpoint, a best.json, or a folder with one.
        settings: changes to the experiment, such as `data.test=other.csv` or, for `file`, `data.delimiter=^`.
        out: the report's folder; by default that of `choose_report_folder`, with `-NAME-KEY` after it for a file that
            `file` or `data.test` in `settings` names.
        file: labelled texts to measure; by default the experiment's test part.
        text_column, label_column: of that file; by default as in training.
        by: columns of the measured rows by whose values the accuracy is listed.
        baseline: also train a linear SVC on the training rows, if they are still available.
        out_of_scope: texts that belong to no class, in the same column; their labels are ignored. Measured with the
            checkpoint's threshold of abstention.

    Raises:
        DataError: the test part or the out-of-scope texts cannot be read; the test part has other labels or no such
            column, or is not the one that training held out.
        MissingThreshold: there are out-of-scope texts, and the checkpoint has no threshold for retention.
        StorageError: `out` is in a checkpoint.
    """
    steps = [READING]
    with step_bar("evaluating", steps, logger) as report_step:
        report_step(READING)
        prepared = prepare(path, settings, out, file, text_column, label_column, out_of_scope)
        checkpoint, experiment, part, target = prepared
        columns = read_measured_columns(by, part) if by else {}
        training = _load_training_dataset(checkpoint, part) if baseline else None
        steps += _list_steps(checkpoint, training)
        report_step(SCORING)
        scored = _score_rows(checkpoint, part)
        measure_rows = _measure_label_sets if checkpoint.is_multi_label else _measure_classes
        evaluation = measure_rows(scored, columns, training, report_step)
        _log_evaluation(evaluation, columns)
        report_step(REPORTING)
        find_errors = find_wrong_labels if checkpoint.is_multi_label else find_confident_errors
        errors = find_errors(scored.classifier, part.rows, scored.labels, scored.probabilities)
        _log_errors(errors)
        with output_folder(target) as folder:
            check_output_file(join(target, "predictions.csv"), *(file.path for file in part.files))
            write_evaluation(folder, scored, evaluation, errors, experiment.name)
    logger.log(RESULT, f"report: {join(target, PAGE_NAME)}; report.md has it as Markdown")
    report_result(lambda: {"path": join(target, "evaluation.json"), **evaluation.to_json()})
    return evaluation


def prepare(
    path: str,
    settings: list[str],
    out: str | None,
    file: Source | None = None,
    text_column: str | None = None,
    label_column: str | None = None,
    out_of_scope: Source | None = None,
) -> tuple[Checkpoint, Experiment, MeasuredRows, str]:
    """Return the checkpoint, the experiment with changes, the rows to measure, and the folder of the report.

    Arguments and errors are those of `evaluate`.
    """
    checkpoint = load_checkpoint(path)
    missing = [name for name in REQUIRED_METRICS if name not in checkpoint.metrics]
    if missing:
        raise CheckpointError(f"{checkpoint.path}: metrics.json: lacks {', '.join(missing)}")
    if out_of_scope is not None:
        check_threshold(checkpoint)
    columns = {"data.text_column": text_column, "data.label_column": label_column}
    experiment = apply_overrides(checkpoint.experiment, settings) if settings else checkpoint.experiment
    experiment = experiment.replace({key: name for key, name in columns.items() if name is not None})
    keys = {setting.partition("=")[0] for setting in settings}
    own, is_named = experiment, file is not None or "data.test" in keys
    if file is not None:
        experiment = _guess_format(own, file, keys)
    elif not is_named:
        file = read_published_test_part(path)
    part = load_measured_rows(experiment, checkpoint, file)
    if out_of_scope is not None:
        others = read_out_of_scope(out_of_scope, _guess_format(own, out_of_scope, keys).data)
        part = replace(part, out_of_scope=others)
    rows = describe_rows(checkpoint, part.rows, is_named=is_named)
    target = choose_report_folder(out, path, checkpoint, rows)
    return checkpoint, experiment, part, target


def _guess_format(experiment: Experiment, file: Source, keys: Set[str]) -> Experiment:
    """Return the experiment with the delimiter and encoding of a file that may differ from the training file in these,
    except those that settings name; keys: of the settings."""
    here = experiment.data.model_copy(update={"folder": "."})
    guessed = {"data.delimiter": None, "data.encoding": choose_encoding(file, here)}
    return experiment.replace({key: value for key, value in guessed.items() if key not in keys})


def _load_training_dataset(checkpoint: Checkpoint, part: MeasuredRows) -> Dataset | None:
    """Return the dataset that a checkpoint was trained on; if it is not available, log the reason and return None."""
    try:
        return load_training_dataset(checkpoint, part.dataset)
    except RowsUnavailable as error:
        logger.info(f"no comparison with TF-IDF and a linear SVC, which needs the training rows: {error}")
        return None


def _list_steps(checkpoint: Checkpoint, training: Dataset | None) -> list[str]:
    """Return the steps that run after the rows were read."""
    skipped = set() if training is not None else {TRAINING_SVC}
    if not has_network_alone(checkpoint, training):
        skipped.add(SCORING_ALONE)
    return [step for step in STEPS[1:] if step not in skipped]


def _score_rows(checkpoint: Checkpoint, part: MeasuredRows) -> ScoredRows:
    texts, others = part.rows.texts, part.out_of_scope
    classifier = build_classifier(checkpoint, len(texts) + (0 if others is None else len(others)))
    return ScoredRows(
        checkpoint,
        part,
        classifier,
        tokenize_texts(texts, checkpoint.experiment.text),
        encode_labels(part.rows, checkpoint.labels),
        classifier.predict_proba(texts),
    )


def _measure_classes(
    scored: ScoredRows, columns: Mapping[str, Sequence[str]], training: Dataset | None, report_step: ReportStep
) -> MeasuredEvaluation:
    """Return the evaluation with one label per text; columns: values by name, for slices."""
    checkpoint, part, labels = scored.checkpoint, scored.part, scored.labels
    predicted, svc, alone, out_of_scope = scored.probabilities.argmax(axis=1), None, None, None
    if training is not None:
        report_step(TRAINING_SVC)
        svc = measure_svc(training.train, checkpoint, scored.tokens, labels, predicted)
    if has_network_alone(checkpoint, training):
        report_step(SCORING_ALONE)
        alone = predict_network_alone(scored.classifier, part.rows.texts)
    report_step(MEASURING)
    if (others := part.out_of_scope) is not None:
        probabilities = scored.classifier.predict_proba(others.texts)
        out_of_scope = measure_out_of_scope(checkpoint, labels, scored.probabilities, others, probabilities)
    return measure(
        checkpoint,
        part.rows.path,
        scored.tokens,
        labels,
        predicted,
        None if alone is None else alone.argmax(axis=1),
        svc,
        [item for column in columns.items() for item in slice_by_column(*column, labels == predicted)],
        out_of_scope,
    )


def _measure_label_sets(
    scored: ScoredRows, columns: Mapping[str, Sequence[str]], training: Dataset | None, report_step: ReportStep
) -> MultiLabelEvaluation:
    """Return the evaluation with several labels per text; columns: values by name, for slices."""
    checkpoint, test, svc, alone = scored.checkpoint, scored.part.rows, None, None
    text, report_share = checkpoint.experiment.text, partial(report_step, TRAINING_SVC)
    if training is not None:
        report_step(TRAINING_SVC)
        objective = checkpoint.experiment.train.threshold_objective
        svc = score_with_svcs(training, checkpoint.labels, scored.tokens, text, report_share, objective=objective)
    if has_network_alone(checkpoint, training):
        report_step(SCORING_ALONE)
        assert training is not None, "there are validation rows"
        alone = score_network_alone(checkpoint, scored.classifier, test.texts, training)
    training_rows = 0 if training is None else len(training.train)
    report_step(MEASURING)
    return multi_label.measure(
        checkpoint, test, scored.tokens, scored.labels, scored.probabilities, columns, alone, svc, training_rows
    )


def _log_evaluation(evaluation: MeasuredEvaluation | MultiLabelEvaluation, columns: Iterable[str]) -> None:
    """Log the metrics, the comparisons, slices by columns, and how many texts were trained on."""
    logger.log(RESULT, evaluation.format_table())
    for text in evaluation.describe_differences():
        logger.log(RESULT, text)
    for rows in tabulate_slices([item for item in evaluation.slices if item.by in set(map(name_column, columns))]):
        logger.log(RESULT, f"\n{format_text_table(rows)}")
    if evaluation.seen_texts is None:
        logger.info("whether these texts were trained on is not known: the checkpoint lacks their digests")
    elif warning := evaluation.describe_seen_texts():
        logger.warning(f"{evaluation.source}: {warning}")


def _log_errors(errors: Sequence[ConfidentError]) -> None:
    if errors:
        rows = [error.to_row(MAX_LOGGED_CHARACTERS) for error in errors[:NUM_LOGGED_ERRORS]]
        logger.log(RESULT, f"\nmost confident errors\n\n{format_text_table(rows)}\n")
