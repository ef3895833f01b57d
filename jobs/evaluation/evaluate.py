"""A checkpoint measured on texts that it never saw, with a report to keep."""

import logging
import os

import numpy as np

from cluster.storage import absolute_path, join, output_folder
from jobs.config.experiment import apply_overrides
from jobs.datasets import dataset
from jobs.datasets.readers import DataError
from jobs.evaluation import drift, metrics
from jobs.evaluation.report import Evaluation, write_report
from jobs.inference.predict import predict_proba
from jobs.model import checkpoint

logger = logging.getLogger(__name__)


def evaluate(path: str, settings: list[str], out: str | None) -> Evaluation:
    """Measure a checkpoint on its experiment's test part, say the figures, and write a report.

    Args:
        path: a checkpoint, a best.json, or a folder with one.
        settings: changes to the experiment, as in `data.test=other.csv`.
        out: the report's folder; by default `report` beside the checkpoint.

    Raises:
        DataError: the test part cannot be read, has other labels, or is not the one that training left out.
    """
    where = checkpoint.resolve_checkpoint(path)
    loaded = checkpoint.load_checkpoint(where)
    experiment = loaded.experiment
    if settings:
        experiment = apply_overrides(experiment, settings)
    part = dataset.load_dataset(experiment).test
    if experiment.data.test is None and part.digest() != loaded.metrics.get("held_out"):
        raise DataError(
            f"{part.path}: the rows drawn from it now are not those that training left out (the file or a setting "
            "changed since), so some may have been trained on; name unseen texts with data.test=FILE"
        )
    unknown = sorted(set(part.labels) - set(loaded.labels))
    if unknown:
        raise DataError(
            f"{part.path}: the label '{unknown[0]}' is none of the checkpoint's: {', '.join(loaded.labels)}"
        )
    labels = np.array([loaded.labels.index(label) for label in part.labels])
    probabilities = predict_proba(loaded, part.texts)  # (texts, classes)
    predicted = probabilities.argmax(axis=1)
    found = Evaluation(
        checkpoint=where,
        source=part.path,
        rows=len(part),
        accuracy=metrics.accuracy(labels, predicted),
        macro_f1=metrics.macro_f1(labels, predicted),
        labels=loaded.labels,
        per_class=metrics.per_class_metrics(labels, predicted, len(loaded.labels)),
        confusion=metrics.confusion(labels, predicted, len(loaded.labels)),
    )
    target = absolute_path(out) if out else join(os.path.dirname(where), "report")
    logger.info(found.format_table())
    with output_folder(target) as folder:
        more = []
        try:
            moved = drift.load_drift(where, loaded)
            drift.write_drift(folder, moved)
            more = drift.markdown_section(moved)
        except drift.NoTrainedVectors as reason:
            logger.info(f"no drift in the report: {reason}")
        write_report(folder, found, loaded, more)
    logger.info(f"report: {join(target, 'report.md')}")
    return found
