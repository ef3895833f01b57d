"""Labelled texts in three parts: train, validation, test.

From the user's csv, tsv or jsonl files, or from the docstrings of installed packages (jobs/docstrings).
"""

import json
import random
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from cluster.connection import connect
from cluster.storage import atomic_write, cache_folder
from jobs.config.experiment import Experiment, digest
from jobs.datasets import docstrings
from jobs.datasets.readers import DataError, Split, read_rows
from jobs.datasets.tokenizer import tokenize


@dataclass(frozen=True)
class Dataset:
    """The three parts and what else the word vectors may be trained on.

    labels: the classes, sorted. notes: what a person should know, a line each.
    background: a file of tokenised texts, one a line, to train vectors on; None for the training texts.
    """

    train: Split
    validation: Split
    test: Split
    labels: list[str]
    notes: list[str]
    pretraining_file: Path | None = None


def load_dataset(experiment: Experiment) -> Dataset:
    """Return the experiment's dataset.

    Raises:
        DataError: names the file, the line and the setting that would help.
    """
    data = experiment.data
    train, notes, background = _undivided(experiment)
    validation = read_rows(data.validation, data) if data.validation else None
    test = read_rows(data.test, data) if data.test else None
    if test is None:
        train, test = stratified_split(train, data.test_share, experiment.seed, "data.test_share")
        notes.append(f"test: {len(test):,} rows drawn from {train.path}")
    if validation is None:
        train, validation = stratified_split(train, data.validation_share, experiment.seed, "data.validation_share")
        notes.append(f"validation: {len(validation):,} rows drawn from {train.path}")
    labels = _labels(train, validation, test)
    known = set(train.texts)
    for name, part in (("validation", validation), ("test", test)):
        repeated = sum(text in known for text in part.texts)
        if repeated:
            notes.append(f"{name}: {repeated:,} of {len(part):,} texts stand in the training part too")
    return Dataset(train, validation, test, labels, notes, background)


def merge_validation(dataset: Dataset) -> Dataset:
    """Return a dataset whose validation part is in its training part."""
    train, validation = dataset.train, dataset.validation
    both = Split(train.texts + validation.texts, train.labels + validation.labels, train.path)
    return replace(dataset, train=both, validation=validation.select([]))


def load_folds(experiment: Experiment) -> list[Dataset]:
    """Return `train.folds` datasets that share out the rows: each row is in one test part, drawn with the seed.

    The validation part, unless a file holds it, is drawn from each fold's other rows.

    Raises:
        DataError: as `load`, or there are too few rows of a class.
    """
    from sklearn.model_selection import StratifiedKFold

    data = experiment.data
    count = experiment.train.folds or 1
    rows, notes, background = _undivided(experiment)
    fixed = read_rows(data.validation, data) if data.validation else None
    rarest, number = min(Counter(rows.labels).items(), key=lambda item: item[1])
    if number < count:
        raise DataError(f"{rows.path}: {number} rows have the label '{rarest}', fewer than train.folds={count}")
    found = []
    drawn = StratifiedKFold(count, shuffle=True, random_state=experiment.seed).split(rows.texts, rows.labels)
    for kept, held in drawn:
        train, validation = rows.select(kept), fixed
        if validation is None:
            train, validation = stratified_split(train, data.validation_share, experiment.seed, "data.validation_share")
        test = rows.select(held)
        found.append(Dataset(train, validation, test, _labels(train, validation, test), notes, background))
    return found


def stratified_split(part: Split, share: float, seed: int, key: str) -> tuple[Split, Split]:
    """Return a part without some rows, and those: the same share of every class, drawn with the seed.

    Classes of a single row stay whole in the first.
    """
    from sklearn.model_selection import train_test_split

    counts = Counter(part.labels)
    rows = [row for row, label in enumerate(part.labels) if counts[label] > 1]
    alone = [row for row, label in enumerate(part.labels) if counts[label] == 1]
    labels = [part.labels[row] for row in rows]
    try:
        kept, drawn = train_test_split(rows, test_size=share, random_state=seed, stratify=labels)
    except ValueError as error:
        raise DataError(f"{part.path}: {len(part)} rows are too few to draw {key}={share} from: {error}") from error
    return part.select(sorted([*kept, *alone])), part.select(sorted(drawn))


def _labels(train: Split, validation: Split, test: Split) -> list[str]:
    """Return the classes, sorted; DataError unless the training part has them all."""
    labels = sorted(set(train.labels))
    if len(labels) < 2:
        raise DataError(f"{train.path}: all rows have the label '{labels[0]}'; a classifier needs two or more")
    for part in (validation, test):
        for row, label in enumerate(part.labels):
            if label not in labels:
                line = f", line {part.line_numbers[row]}" if part.line_numbers else ""
                raise DataError(f"{part.path}{line}: the label '{label}' never occurs in {train.path}")
    return labels


def _undivided(experiment: Experiment) -> tuple[Split, list[str], Path | None]:
    """Return the rows of the training file, or of the docstrings; notes; and what else vectors are trained on."""
    if experiment.data.train is not None:
        return read_rows(experiment.data.train, experiment.data), [], None
    return _from_docstrings(experiment)


def _from_docstrings(experiment: Experiment) -> tuple[Split, list[str], Path]:
    data = experiment.data
    files = {package: docstrings.find_source_files(package) for package in data.packages}
    for package, found in files.items():
        if not found:
            raise DataError(f"data.packages: '{package}' is not installed here, or has no Python source")
    if len(files) < 2:
        raise DataError("data.packages: a classifier needs two or more packages")
    sizes = {package: [len(found), sum(file.stat().st_size for file in found)] for package, found in files.items()}
    folder = cache_folder(experiment.storage)
    key = digest([1, list(sizes.items()), experiment.text.lowercase])
    rows_path, background = folder / f"docstrings-{key}.jsonl", folder / f"docstrings-{key}.txt"
    if not (rows_path.exists() and background.exists()):
        _extract(files, experiment.text.lowercase, rows_path, background)
    by_package: dict[str, list[str]] = {package: [] for package in files}
    with rows_path.open(encoding="utf-8") as stream:
        for line in stream:
            package, text = json.loads(line)
            by_package[package].append(text)
    texts, labels, notes = [], [], []
    for package, found in by_package.items():
        drawn = random.Random(experiment.seed).sample(found, min(len(found), data.max_rows_per_class))
        texts += drawn
        labels += [package] * len(drawn)
        notes.append(f"{package}: {len(drawn):,} rows of {len(found):,} passages in {len(files[package]):,} files")
    return Split(texts, labels, "docstrings"), notes, background


def _extract(files: dict[str, list[Path]], lowercase: bool, rows_path: Path, background: Path) -> None:
    """Parse the source files in Ray tasks; write the passages, and all docstrings as tokens, one a line."""
    import ray

    chunks = [
        (package, found[start : start + 100]) for package, found in files.items() for start in range(0, len(found), 100)
    ]
    with connect():
        task = ray.remote(_passages)
        results = ray.get([task.remote(chunk, list(files), lowercase) for _, chunk in chunks])
    passages = [(package, text) for (package, _), (texts, _) in zip(chunks, results, strict=True) for text in texts]
    unique = dict.fromkeys((package, text) for package, text in passages)
    owners = Counter(text for _, text in {(package, text.casefold()) for package, text in unique})
    with atomic_write(background) as part, part.open("w", encoding="utf-8") as stream:
        for line in dict.fromkeys(line for _, lines in results for line in lines):
            stream.write(line + "\n")
    seen = set()
    with atomic_write(rows_path) as part, part.open("w", encoding="utf-8") as stream:
        for package, text in unique:
            # What two libraries say in the same words has no answer; what one repeats counts once.
            if owners[text.casefold()] == 1 and text.casefold() not in seen:
                seen.add(text.casefold())
                stream.write(json.dumps([package, text]) + "\n")


def _passages(files: list[Path], packages: list[str], lowercase: bool) -> tuple[list[str], list[str]]:
    mask, names = docstrings.compile_name_pattern(packages), docstrings.library_names(packages)
    masked = docstrings.MASK_TOKEN.lower() if lowercase else docstrings.MASK_TOKEN
    texts, lines = [], []
    for docstring in docstrings.read_docstrings(files):
        text = docstrings.extract_passage(docstring, mask)
        if text is not None:
            texts.append(text)
        tokens = (masked if token.lower() in names else token for token in tokenize(docstring, lowercase))
        lines.append(" ".join(token for token in tokens if token[0] != "`"))
    return texts, lines
