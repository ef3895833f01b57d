"""A checkpoint measured on texts that it never saw, with a report to keep."""

import os
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from cluster.storage import absolute, copy_folder, is_uri, join
from jobs import checkpoint, dataset, metrics
from jobs.dataset import DataError
from jobs.experiment import overridden
from jobs.predict import classify
from jobs.report import Evaluation, write


def evaluate(path: str, settings: list[str], out: str | None, say: Callable[[str], None]) -> Evaluation:
    """Measure a checkpoint on its experiment's test part, say the figures, and write a report.

    Args:
        path: a checkpoint, a best.json, or a folder with one.
        settings: changes to the experiment, as in `data.test=other.csv`.
        out: the report's folder; by default `report` beside the checkpoint.
    """
    where = checkpoint.locate(path)
    loaded = checkpoint.read(where)
    experiment = loaded.experiment
    if settings:
        experiment = overridden(experiment, settings)
    part = dataset.load(experiment).test
    unknown = sorted(set(part.labels) - set(loaded.labels))
    if unknown:
        raise DataError(
            f"{part.path}: the label '{unknown[0]}' is none of the checkpoint's: {', '.join(loaded.labels)}"
        )
    labels = np.array([loaded.labels.index(label) for label in part.labels])
    probabilities = classify(loaded, part.texts)  # (texts, classes)
    predicted = probabilities.argmax(axis=1)
    found = Evaluation(
        checkpoint=where,
        source=part.path,
        rows=len(part),
        accuracy=metrics.accuracy(labels, predicted),
        macro_f1=metrics.macro_f1(labels, predicted),
        labels=loaded.labels,
        per_class=metrics.per_class(labels, predicted, len(loaded.labels)),
        confusion=metrics.confusion(labels, predicted, len(loaded.labels)),
    )
    target = absolute(out) if out else join(os.path.dirname(where), "report")
    with ExitStack() as stack:
        folder = Path(target)
        if is_uri(target):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        write(folder, found, loaded)
        if is_uri(target):
            copy_folder(str(folder), target)
    say(found.table())
    say(f"report: {join(target, 'report.md')}")
    return found
