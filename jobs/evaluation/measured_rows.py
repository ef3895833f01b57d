"""Labelled rows that an evaluation measures, the test part of an experiment or any file, and their scores."""

import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import PurePath, PurePosixPath

import numpy as np

from cluster.storage import absolute_path, split_query
from jobs.config.experiment import Experiment
from jobs.config.settings import DataSettings, Source
from jobs.datasets.dataset import Dataset, load_dataset
from jobs.datasets.formats.label_names import spell_label
from jobs.datasets.formats.rows import SourceFile, describe_names
from jobs.datasets.readers import DataError, Split, read_rows
from jobs.evaluation.slices import read_columns
from jobs.inference.classifier import Classifier
from jobs.model.checkpoint import Checkpoint

MAX_LISTED_LABELS = 5  # of those that a checkpoint does not have, after the first


@dataclass(frozen=True)
class MeasuredRows:
    """Rows to measure, and where they come from.

    source: files that they are from, None for the docstrings of packages; data: settings that these were read with.
    dataset: that they are the test part of, if it was read for them. out_of_scope: texts that belong to no class, to
    compare them with.
    """

    rows: Split
    source: Source | None
    data: DataSettings
    dataset: Dataset | None = None
    out_of_scope: Split | None = None

    @property
    def files(self) -> list[SourceFile]:
        """Files of the rows and of the out-of-scope texts."""
        return [*self.rows.files, *(self.out_of_scope.files if self.out_of_scope else ())]


@dataclass(frozen=True)
class ScoredRows:
    """Measured rows with what a checkpoint predicts for them.

    tokens: of the texts. labels: class indices, `(rows,)` int64, or with several labels per text `(rows, labels)` of 0
    and 1. probabilities: `(rows, classes)` float32.
    """

    checkpoint: Checkpoint
    part: MeasuredRows
    classifier: Classifier
    tokens: list[list[str]]
    labels: np.ndarray
    probabilities: np.ndarray


def load_measured_rows(experiment: Experiment, checkpoint: Checkpoint, file: Source | None) -> MeasuredRows:
    """Return the labelled texts of a file, or of the experiment's test part; DataError if they cannot be measured."""
    data, source, dataset = experiment.data, file or experiment.data.test, None
    if file is not None:
        data = data.model_copy(update={"folder": "."})
    if source is not None:
        test = _respell(read_rows(source, data), checkpoint.labels)
    else:
        # A run that starts from a checkpoint need not have rows of all its classes.
        started = checkpoint.labels if experiment.train.start_from else ()
        with use_trusted_storage(experiment, checkpoint) as own:
            dataset, source = load_dataset(own, known_labels=started), data.train
        test = _respell(dataset.test, checkpoint.labels)
        if test.digest() != checkpoint.metrics.get("held_out"):
            raise DataError(
                f"{test.path}: the rows drawn from it now are not those that training left out: the file or a setting "
                "has changed since. Some of them may have been trained on; name a file of unseen texts: "
                "finetune-cnn evaluate CHECKPOINT FILE"
            )
    check_labels(test, checkpoint.labels)
    return MeasuredRows(test, source, data, dataset)


@contextmanager
def use_trusted_storage(experiment: Experiment, checkpoint: Checkpoint) -> Iterator[Experiment]:
    """Context manager: the experiment, with a storage for the cache of its texts that no foreign checkpoint chooses.

    That of its settings is used if the checkpoint is in it, or if it was set otherwise; else a temporary folder.

    Args:
        experiment: of the checkpoint, perhaps with other settings.
    """
    storage, folder = (
        PurePosixPath(split_query(absolute_path(path))[0]) for path in (experiment.storage, checkpoint.path)
    )
    # <storage>/<experiment>/<run>/[<trial>/]<checkpoint>
    if experiment.storage != checkpoint.experiment.storage or storage in folder.parents[2:4]:
        yield experiment
        return
    with tempfile.TemporaryDirectory() as scratch:
        yield experiment.replace({"storage": scratch})


def check_labels(test: Split, labels: Sequence[str]) -> None:
    """Raise a DataError that names labels of rows which are not among those of a checkpoint."""
    known, unknown = set(labels), dict[str, int]()  # first row of each label
    for index, own in enumerate(test.label_sets or zip(test.labels, strict=True)):
        for label in own:
            if label not in known:
                unknown.setdefault(label, index)
    if not unknown:
        return
    label, *others = unknown
    listed = ", ".join(f"'{other}'" for other in others[:MAX_LISTED_LABELS])
    more = f", nor {listed}{', ...' if len(others) > MAX_LISTED_LABELS else ''} of later rows" if others else ""
    raise DataError(
        f"{test.describe_position(unknown[label])}: the checkpoint has no label '{label}'{more}; its labels are "
        f"{describe_names(labels, label)}"
    )


def read_out_of_scope(source: Source, data: DataSettings) -> Split:
    """Return texts that belong to no class; DataError if they cannot be read, or there are none."""
    return read_rows(source, data.model_copy(update={"folder": "."}), labelled=False)


def read_measured_columns(columns: Sequence[str], part: MeasuredRows) -> dict[str, list[str]]:
    """Return the values of columns by name; DataError if there is none of that name."""
    if part.source is None:
        raise DataError(f"--by {columns[0]}: docstrings have no columns")
    return read_columns(columns, part.source, part.data, part.rows)


def describe_rows(checkpoint: Checkpoint, test: Split, *, is_named: bool) -> str:
    """Return the end of the name of the report's folder: empty for the test part, else the file and its rows.

    Args:
        is_named: the command names the file. A copy of the test part has a report of its own too.
    """
    digest = test.digest()
    if not is_named and digest == checkpoint.metrics.get("held_out", digest):
        return ""
    stem = PurePath(split_query(test.path)[0]).name.partition(".")[0]
    return f"-{re.sub(r'[^A-Za-z0-9_-]+', '-', stem)}-{digest}"


def _respell(rows: Split, labels: list[str]) -> Split:
    """Return rows with the labels as a checkpoint of an earlier version spells them, such as 1.0 in csv."""
    # Those versions knew one label per text only.
    spellings = {spell_label(label): label for label in labels if spell_label(label) not in labels}
    return replace(rows, labels=[spellings.get(label, label) for label in rows.labels]) if spellings else rows
