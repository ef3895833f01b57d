"""Dataset: labelled texts in three parts (training, validation, test), or in the folds of a cross-validation.

The texts come from the user's files, or from the docstrings of installed packages.
"""

import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np

from cluster import choose_form
from cluster.storage import absolute_path, join
from jobs.config.abstention import OUT_OF_SCOPE
from jobs.config.conflicts import check_fold_settings
from jobs.config.experiment import Experiment
from jobs.config.settings import DataSettings
from jobs.datasets import label_sets
from jobs.datasets.docstrings import PretrainingTexts, load_docstring_corpus
from jobs.datasets.prepared.equal_texts import count_repeated_texts, find_ambiguous_texts
from jobs.datasets.readers import DataError, Split, read_rows
from jobs.datasets.row_weights import check_class_weights, check_thresholds
from jobs.datasets.stratification import draw_folds, draw_share

LIKELY_SEPARATORS = (";", "|", ",")  # between labels
MAX_FOLDS = 100


@dataclass(frozen=True)
class Dataset:
    """Three parts of labelled texts.

    labels: the classes, sorted. notes: messages for the user, a line each. pretraining_texts: texts to train word
    vectors on, without those of the test part; None: the training texts. out_of_scope: rows in no class that select
    thresholds; out_of_scope_training: others, to train a class on. None without such rows.
    """

    train: Split
    validation: Split
    test: Split
    labels: list[str]
    notes: list[str]
    pretraining_texts: PretrainingTexts | None = None
    out_of_scope: Split | None = None
    out_of_scope_training: Split | None = None


def load_dataset(experiment: Experiment, *, for_refit: bool = False, known_labels: Collection[str] = ()) -> Dataset:
    """Return the dataset of an experiment.

    Args:
        known_labels: of the checkpoint that the run starts from, which need no training rows.
        for_refit: the validation rows are trained on later, so they need weights too if the training rows have them.

    Raises:
        DataError: the data are missing or invalid; names the file, the line and the setting.
        ExperimentError: `train.class_weights` does not fit the labels.
    """
    data = experiment.data
    train, notes, pretraining_texts = _load_rows(experiment)
    cache = _cache_folder(experiment)
    validation = read_rows(data.validation, data, weighted=for_refit, cache=cache) if data.validation else None
    test = read_rows(data.test, data, cache=cache) if data.test else None
    notes += _describe_ambiguous_texts([part for part in (train, validation, test) if part is not None])
    if test is None:
        train, test = _draw_part(train, "test", data.test_share, experiment.seed)
        notes.append(_describe_drawn("test", test, train))
    if validation is None:
        train, validation = _draw_part(train, "validation", data.validation_share, experiment.seed)
        notes.append(_describe_drawn("validation", validation, train))
    labels = _collect_labels(train, validation, test, known_labels)
    check_thresholds(experiment.train.thresholds, labels)
    parts = {"validation": validation, "test": test}
    counts = count_repeated_texts([part.texts for part in parts.values()], train.texts)
    for (name, part), repeated in zip(parts.items(), counts, strict=True):
        if repeated:
            notes.append(f"{name}: {repeated:,} of {len(part):,} texts are also in the training part")
    if pretraining_texts is not None:
        pretraining_texts = pretraining_texts.exclude(test.texts)
    dataset = Dataset(train, validation, test, labels, notes, pretraining_texts)
    if data.out_of_scope is not None:
        dataset = _add_out_of_scope_rows(dataset, data, experiment.seed)
    check_class_weights(experiment, sorted(dataset.train.distinct_labels()), dataset.labels)
    return dataset


def _add_out_of_scope_rows(dataset: Dataset, data: DataSettings, seed: int) -> Dataset:
    """Return a dataset with the rows of `data.out_of_scope`; DataError if they cannot be used as the settings say."""
    assert data.out_of_scope is not None
    for part in (dataset.train, dataset.validation, dataset.test):
        if OUT_OF_SCOPE in part.distinct_labels():  # among `dataset.labels` it may be that of a checkpoint
            raise DataError(
                f"{part.path}: has the label '{OUT_OF_SCOPE}'; name the file of these rows in data.out_of_scope, "
                "or rename the label"
            )
    rows = read_rows(data.out_of_scope, data, labelled=False)
    dataset.notes.append(f"out of scope: {len(rows):,} rows of {rows.path}")
    if data.out_of_scope_use == "threshold":
        return replace(dataset, out_of_scope=rows)
    if len(rows) < 2:
        raise DataError(f"{rows.path}: a class needs 2 rows or more; add rows, or set data.out_of_scope_use=threshold")
    order = np.random.default_rng(seed).permutation(len(rows))
    training, held_out = (rows.select(sorted(part.tolist())) for part in np.array_split(order, 2))
    dataset = replace(dataset, out_of_scope=held_out, out_of_scope_training=training)
    return dataset if data.out_of_scope_use == "auto" else add_out_of_scope_class(dataset)


def add_out_of_scope_class(dataset: Dataset) -> Dataset:
    """Return a dataset with the out-of-scope rows for training as rows of a class of their own."""
    rows = dataset.out_of_scope_training
    assert rows is not None, "the dataset was loaded for a class"
    train = dataset.train.concatenate(replace(rows, labels=[OUT_OF_SCOPE] * len(rows)))
    return replace(dataset, train=train, labels=sorted({*dataset.labels, OUT_OF_SCOPE}), out_of_scope_training=None)


def merge_validation(dataset: Dataset) -> Dataset:
    """Return a dataset with the validation part moved into the training part, as `Split.concatenate`."""
    merged = dataset.train.concatenate(dataset.validation)
    return replace(dataset, train=merged, validation=dataset.validation.select([]))


def load_folds(experiment: Experiment, folds: int) -> list[Dataset]:
    """Return the datasets of a cross-validation: each row is in the test part of one fold, drawn with the seed.

    The validation part is drawn from the other rows of the fold, unless `data.validation` is set.

    Raises:
        ExperimentError: `data.test` is set, or `train.class_weights` does not fit the labels.
        DataError: as in `load_dataset`; or `folds` is out of range, or a class has fewer rows than that.
    """
    if not 2 <= folds <= MAX_FOLDS:
        raise DataError(f"--folds {folds}: must be from 2 to {MAX_FOLDS}")
    check_fold_settings(experiment)
    data = experiment.data
    rows, notes, pretraining_texts = _load_rows(experiment)
    validation_file = read_rows(data.validation, data, cache=_cache_folder(experiment)) if data.validation else None
    notes += _describe_ambiguous_texts([rows])
    sets = rows.label_sets
    rarest, count = min(
        (Counter(rows.labels) if sets is None else label_sets.count_labels(sets)).items(), key=lambda item: item[1]
    )
    if count < folds:
        raise DataError(
            f"{rows.path}: {count} rows have the label '{rarest}', fewer than {folds} folds; "
            + ("lower --folds" if count > 1 else "add rows with this label, or remove it")
        )
    labels = sorted(rows.distinct_labels())
    check_class_weights(experiment, labels)
    check_thresholds(experiment.train.thresholds, labels)
    datasets = []
    if sets is None:
        fold_of_row = draw_folds(_number_labels(rows, labels), folds, experiment.seed)
    else:
        fold_of_row = label_sets.draw_folds(sets, folds, experiment.seed)
    for fold in range(folds):
        train, test = (rows.select(mask.nonzero()[0]) for mask in (fold_of_row != fold, fold_of_row == fold))
        validation = validation_file
        if validation is None:
            train, validation = _draw_part(train, "validation", data.validation_share, experiment.seed)
        labels = _collect_labels(train, validation, test)
        texts = pretraining_texts.exclude(test.texts) if pretraining_texts else None
        datasets.append(Dataset(train, validation, test, labels, notes, texts))
    return datasets


def _draw_part(rows: Split, name: str, share: float, seed: int) -> tuple[Split, Split]:
    """Return the remaining and the drawn rows, as `stratified_split`; name: of the drawn part in `data`."""
    return stratified_split(rows, share, seed, f"data.{name}_share", f"add rows, or name a file with data.{name}")


def stratified_split(part: Split, share: float, seed: int, key: str, advice: str = "add rows") -> tuple[Split, Split]:
    """Return the remaining and the drawn rows of a part: the same share of every class is drawn with the seed.

    Of each class at least one row remains. If the share is less than a row of each class, some classes have none.

    Args:
        key: setting of the share, for the error message.
        advice: what to do if there are too few rows, for the error message.

    Raises:
        DataError: there are too few rows.
    """
    if part.label_sets is not None:
        return _split_label_sets(part, part.label_sets, share, seed, key, advice)
    class_of_row = _number_labels(part, sorted(part.distinct_labels()))
    is_divisible = np.bincount(class_of_row) > 1
    divisible = np.flatnonzero(is_divisible[class_of_row])
    if not len(divisible):
        raise DataError(
            f"{part.path}: {len(part)} rows are too few to draw {key}={share} from: each label has a single row, which "
            f"is needed for training; {advice}"
        )
    labels = class_of_row[divisible]
    num_drawn, num_labels = math.ceil(share * len(labels)), np.count_nonzero(is_divisible)
    drawn: np.ndarray | None = None
    if num_labels <= num_drawn <= len(labels) - num_labels:
        remaining, drawn = draw_share(labels, share, seed)
        if np.count_nonzero(np.bincount(labels[remaining])) < num_labels:
            drawn = None
    if drawn is None:
        drawn = np.array(_draw_from_small_classes(labels.tolist(), share, seed), np.int64)
    is_drawn = np.zeros(len(part), bool)
    is_drawn[divisible[drawn]] = True
    return part.select(np.flatnonzero(~is_drawn)), part.select(np.flatnonzero(is_drawn))


def _number_labels(part: Split, labels: Sequence[str]) -> np.ndarray:
    """Return the index of each row's label in `labels`, `(rows,)` int32.

    `labels` are sorted, so that the same rows are drawn as with the labels themselves; in an array, each of these would
    take the memory of the longest.
    """
    classes = {label: index for index, label in enumerate(labels)}
    return np.fromiter(map(classes.__getitem__, part.labels), np.int32, len(part))


def _split_label_sets(
    part: Split, sets: label_sets.LabelSets, share: float, seed: int, key: str, advice: str
) -> tuple[Split, Split]:
    """As `stratified_split`, of rows with several labels."""
    drawn = label_sets.draw_share(sets, share, seed) if len(part) > 1 else np.empty(0, np.int64)
    if not len(drawn):
        raise DataError(f"{part.path}: {len(part)} rows are too few to draw {key}={share} from; {advice}")
    return part.select(np.setdiff1d(np.arange(len(part)), drawn).tolist()), part.select(drawn.tolist())


def _draw_from_small_classes(labels: Sequence[int], share: float, seed: int) -> list[int]:
    """Return the indices of a share of the rows, as near to that share of each class as whole rows allow.

    Of each class at least one row is left. Rows, and classes that are equally near, are drawn with the seed.
    """
    generator = np.random.default_rng(seed)
    rows: dict[int, list[int]] = {}
    for index in generator.permutation(len(labels)).tolist():
        rows.setdefault(labels[index], []).append(index)
    counts = {label: min(int(share * len(indices)), len(indices) - 1) for label, indices in rows.items()}
    missing = min(math.ceil(share * len(labels)), len(labels) - len(rows)) - sum(counts.values())
    while missing > 0:
        open_labels = [label for label in rows if counts[label] < len(rows[label]) - 1]
        open_labels.sort(key=lambda label: counts[label] - share * len(rows[label]))
        for label in open_labels[:missing]:
            counts[label] += 1
        missing -= len(open_labels[:missing])
    return [index for label, indices in rows.items() for index in indices[: counts[label]]]


def _describe_drawn(name: str, part: Split, rest: Split) -> str:
    num_labels, total = len(part.distinct_labels()), len(part.distinct_labels() | rest.distinct_labels())
    note = f"{name}: {len(part):,} rows drawn from {rest.path}"
    return note if num_labels == total else f"{note}, of {num_labels:,} of {total:,} labels"


def _describe_ambiguous_texts(parts: Sequence[Split]) -> list[str]:
    """Return a note on texts that have different labels in different rows, none if there are no such texts."""
    examples = find_ambiguous_texts([part.texts for part in parts], [part.labels for part in parts])
    if not examples:
        return []
    number = f"{len(examples):,} {choose_form(len(examples), 'text has', 'texts have')}"
    rows = [(parts[number], index) for number, index in examples[0]]
    example = " and ".join(f"'{part.labels[index]}' in {part.describe_position(index)}" for part, index in rows)
    return [f"{number} different labels in different rows, such as {example}"]


def _collect_labels(train: Split, validation: Split, test: Split, known_labels: Collection[str] = ()) -> list[str]:
    """Return the classes, sorted; DataError if there is only one, or one is neither in the training part nor known."""
    labels = sorted(train.distinct_labels().union(known_labels))
    if train.label_sets is None and len(labels) < 2:
        raise DataError(f"{train.path}: all rows have the label '{labels[0]}'; a classifier needs two or more")
    known = set(labels)
    for part in (validation, test):
        for index, own in enumerate(part.label_sets or zip(part.labels, strict=True)):
            for label in own:
                if label not in known:
                    position = part.describe_position(index)
                    raise DataError(f"{position}: the label '{label}' does not occur in {train.path}")
    return labels


def _load_rows(experiment: Experiment) -> tuple[Split, list[str], PretrainingTexts | None]:
    """Return the rows of the training file or of the docstrings, notes, and the pretraining texts."""
    data = experiment.data
    if data.train is not None:
        rows = read_rows(data.train, data, weighted=True, cache=_cache_folder(experiment))
        if rows.label_sets is not None and not any(rows.label_sets):
            raise DataError(f"{rows.path}: no row has a label")
        return rows, _describe_separators(rows, data.label_separator), None
    return load_docstring_corpus(data, experiment.text.lowercase, experiment.storage, experiment.seed)


def _describe_separators(rows: Split, separator: str | None) -> list[str]:
    """Return a note if the labels seem to be several with another separator than `data.label_separator`, or without."""
    if rows.label_sets is not None:
        has_several = separator is None or any(len(own) > 1 for own in rows.label_sets)
        return [] if has_several else [f"no row has several labels: none contains '{separator}' (data.label_separator)"]
    labels = sorted(rows.distinct_labels())
    for mark in LIKELY_SEPARATORS:
        joined = [label for label in labels if mark in label]
        if len(joined) > max(2, len(labels) / 2):
            return [
                f"{len(joined):,} of {len(labels):,} classes contain '{mark}', such as '{joined[0]}'; if these are "
                f"several labels, set data.label_separator='{mark}'"
            ]
    return []


def _cache_folder(experiment: Experiment) -> str:
    return join(absolute_path(experiment.storage), "cache")
