"""Dataset: labelled texts in three parts (training, validation, test), or in the folds of a cross-validation.

The texts come from the user's csv, tsv or jsonl files, or from the docstrings of installed packages.
"""

import logging
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from jobs.config.conflicts import check_fold_settings
from jobs.config.experiment import Experiment
from jobs.datasets.docstrings import load_docstring_corpus
from jobs.datasets.readers import DataError, Split, read_rows

logger = logging.getLogger(__name__)

MAX_FOLDS = 100


@dataclass(frozen=True)
class Dataset:
    """Three parts of labelled texts.

    labels: the classes, sorted. notes: messages for the user, a line each. pretraining_file: tokenised texts, one a
    line, to train word vectors on; None: the training texts.
    """

    train: Split
    validation: Split
    test: Split
    labels: list[str]
    notes: list[str]
    pretraining_file: Path | None = None


def load_dataset(experiment: Experiment) -> Dataset:
    """Return the dataset of an experiment.

    Raises:
        DataError: the data are missing or invalid; names the file, the line and the setting.
    """
    data = experiment.data
    train, notes, pretraining_file = _load_rows(experiment)
    validation = read_rows(data.validation, data) if data.validation else None
    test = read_rows(data.test, data) if data.test else None
    if test is None:
        train, test = stratified_split(train, data.test_share, experiment.seed, "data.test_share")
        notes.append(f"test: {len(test):,} rows drawn from {train.path}")
    if validation is None:
        train, validation = stratified_split(train, data.validation_share, experiment.seed, "data.validation_share")
        notes.append(f"validation: {len(validation):,} rows drawn from {train.path}")
    labels = _collect_labels(train, validation, test)
    training_texts = set(train.texts)
    for name, part in (("validation", validation), ("test", test)):
        repeated = sum(text in training_texts for text in part.texts)
        if repeated:
            notes.append(f"{name}: {repeated:,} of {len(part):,} texts are also in the training part")
    return Dataset(train, validation, test, labels, notes, pretraining_file)


def merge_validation(dataset: Dataset) -> Dataset:
    """Return a dataset with the validation part moved into the training part."""
    train, validation = dataset.train, dataset.validation
    merged = Split(train.texts + validation.texts, train.labels + validation.labels, train.path)
    return replace(dataset, train=merged, validation=validation.select([]))


def load_folds(experiment: Experiment, folds: int) -> list[Dataset]:
    """Return the datasets of a cross-validation: each row is in the test part of one fold, drawn with the seed.

    The validation part is drawn from the other rows of the fold, unless `data.validation` is set.

    Raises:
        ExperimentError: `data.test` is set.
        DataError: as in `load_dataset`; or `folds` is out of range, or a class has fewer rows than that.
    """
    from sklearn.model_selection import StratifiedKFold

    if not 2 <= folds <= MAX_FOLDS:
        raise DataError(f"--folds {folds}: must be from 2 to {MAX_FOLDS}")
    check_fold_settings(experiment)
    data = experiment.data
    rows, notes, pretraining_file = _load_rows(experiment)
    validation_file = read_rows(data.validation, data) if data.validation else None
    rarest, count = min(Counter(rows.labels).items(), key=lambda item: item[1])
    if count < folds:
        raise DataError(f"{rows.path}: {count} rows have the label '{rarest}', fewer than {folds} folds; lower --folds")
    datasets = []
    splitter = StratifiedKFold(folds, shuffle=True, random_state=experiment.seed)
    for train_indices, test_indices in splitter.split(rows.texts, rows.labels):
        train, test, validation = rows.select(train_indices), rows.select(test_indices), validation_file
        if validation is None:
            train, validation = stratified_split(train, data.validation_share, experiment.seed, "data.validation_share")
        labels = _collect_labels(train, validation, test)
        datasets.append(Dataset(train, validation, test, labels, notes, pretraining_file))
    return datasets


def stratified_split(part: Split, share: float, seed: int, key: str) -> tuple[Split, Split]:
    """Return the remaining and the drawn rows of a part: the same share of every class is drawn with the seed.

    A class with a single row remains.

    Args:
        key: setting of the share, for the error message.

    Raises:
        DataError: there are too few rows.
    """
    from sklearn.model_selection import train_test_split

    counts = Counter(part.labels)
    divisible = [index for index, label in enumerate(part.labels) if counts[label] > 1]
    single = [index for index, label in enumerate(part.labels) if counts[label] == 1]
    labels = [part.labels[index] for index in divisible]
    try:
        remaining, drawn = train_test_split(divisible, test_size=share, random_state=seed, stratify=labels)
    except ValueError as error:
        raise DataError(f"{part.path}: {len(part)} rows are too few to draw {key}={share} from: {error}") from error
    return part.select(sorted([*remaining, *single])), part.select(sorted(drawn))


def _collect_labels(train: Split, validation: Split, test: Split) -> list[str]:
    """Return the classes, sorted; DataError if there is only one or if one is not in the training part."""
    labels = sorted(set(train.labels))
    if len(labels) < 2:
        raise DataError(f"{train.path}: all rows have the label '{labels[0]}'; a classifier needs two or more")
    for part in (validation, test):
        for index, label in enumerate(part.labels):
            if label not in labels:
                line = f", line {part.line_numbers[index]}" if part.line_numbers else ""
                raise DataError(f"{part.path}{line}: the label '{label}' does not occur in {train.path}")
    return labels


def _load_rows(experiment: Experiment) -> tuple[Split, list[str], Path | None]:
    """Return the rows of the training file or of the docstrings, notes, and the pretraining file."""
    data = experiment.data
    if data.train is not None:
        return read_rows(data.train, data), [], None
    return load_docstring_corpus(data, experiment.text.lowercase, experiment.storage, experiment.seed)
