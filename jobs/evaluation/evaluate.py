"""Evaluation of a checkpoint on a test part that training did not see, with a report."""

import logging

import numpy as np

from cluster.logs import RESULT
from cluster.storage import absolute_path, join, output_folder, parent
from jobs.config.experiment import apply_overrides
from jobs.datasets.dataset import load_dataset
from jobs.datasets.readers import DataError
from jobs.evaluation.drift import NoTrainedVectors, format_markdown_section, load_drift, write_drift
from jobs.evaluation.metrics import accuracy, confusion, macro_f1, per_class_metrics
from jobs.evaluation.report import Evaluation, write_report
from jobs.inference.predict import predict_proba
from jobs.model.checkpoint import load_checkpoint

logger = logging.getLogger(__name__)


def evaluate(path: str, settings: list[str], out: str | None) -> Evaluation:
    """Evaluate a checkpoint on its experiment's test part, log the metrics, and write a report.

    Args:
        path: a checkpoint, a best.json, or a folder with one.
        settings: changes to the experiment, such as `data.test=other.csv`.
        out: the report's folder; by default `report` next to the checkpoint.

    Raises:
        DataError: the test part cannot be read, has other labels, or is not the one that training held out.
    """
    checkpoint = load_checkpoint(path)
    experiment = apply_overrides(checkpoint.experiment, settings) if settings else checkpoint.experiment
    test = load_dataset(experiment).test
    if experiment.data.test is None and test.digest() != checkpoint.metrics.get("held_out"):
        raise DataError(
            f"{test.path}: the rows drawn from it now are not those that training left out: the file or a setting has "
            "changed since. Some of them may have been trained on; name unseen texts with data.test=FILE"
        )
    unknown = sorted(set(test.labels) - set(checkpoint.labels))
    if unknown:
        raise DataError(
            f"{test.path}: the checkpoint has no label '{unknown[0]}'; its labels are {', '.join(checkpoint.labels)}"
        )
    num_classes = len(checkpoint.labels)
    labels = np.array([checkpoint.labels.index(label) for label in test.labels])
    predicted = predict_proba(checkpoint, test.texts).argmax(axis=1)
    evaluation = Evaluation(
        checkpoint=checkpoint.path,
        source=test.path,
        rows=len(test),
        accuracy=accuracy(labels, predicted),
        macro_f1=macro_f1(labels, predicted),
        labels=checkpoint.labels,
        per_class=per_class_metrics(labels, predicted, num_classes),
        confusion=confusion(labels, predicted, num_classes),
    )
    logger.log(RESULT, evaluation.format_table())
    target = absolute_path(out) if out else join(parent(checkpoint.path), "report")
    with output_folder(target) as folder:
        drift_section: list[str] = []
        try:
            drift = load_drift(checkpoint)
            write_drift(folder, drift, experiment.name)
            drift_section = format_markdown_section(drift)
        except NoTrainedVectors as error:
            logger.info(f"the report has no section on vector drift: {error}")
        write_report(folder, evaluation, checkpoint, drift_section)
    logger.log(RESULT, f"report: {join(target, 'report.md')}")
    return evaluation
