"""Labelled texts in three parts: train, validation, test.

From the user's csv, tsv or jsonl files, or from the docstrings of installed packages (jobs/docstrings).
"""

import csv
import gzip
import json
import random
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cluster import UsageError
from cluster.connection import connect
from cluster.storage import cache_folder, is_uri, replacing
from jobs import docstrings
from jobs.experiment import Data, Experiment, digest
from jobs.text import tokenize

READERS = (".csv", ".tsv", ".jsonl")


class DataError(UsageError):
    """The labelled texts cannot be used as they are."""


@dataclass(frozen=True)
class Part:
    """Rows of one part; `lines` says where in `path` each stands."""

    texts: list[str]
    labels: list[str]
    path: str = ""
    lines: list[int] | None = None

    def __len__(self) -> int:
        return len(self.texts)

    def digest(self) -> str:
        """Return what identifies these rows."""
        return digest([self.texts, self.labels])

    def take(self, rows: Iterable[int]) -> "Part":
        """Return some of the rows."""
        rows = list(rows)
        lines = [self.lines[row] for row in rows] if self.lines else None
        return Part([self.texts[row] for row in rows], [self.labels[row] for row in rows], self.path, lines)


@dataclass(frozen=True)
class Dataset:
    """The three parts and what else the word vectors may be trained on.

    labels: the classes, sorted. notes: what a person should know, a line each.
    background: a file of tokenised texts, one a line, to train vectors on; None for the training texts.
    """

    train: Part
    validation: Part
    test: Part
    labels: list[str]
    notes: list[str]
    background: Path | None = None


def load(experiment: Experiment) -> Dataset:
    """Return the experiment's dataset.

    Raises:
        DataError: names the file, the line and the setting that would help.
    """
    data = experiment.data
    if data.train is None:
        return _from_docstrings(experiment)
    train = read(data.train, data)
    validation = read(data.validation, data) if data.validation else None
    test = read(data.test, data) if data.test else None
    notes = []
    if test is None:
        train, test = split(train, data.test_share, experiment.seed, "data.test_share")
        notes.append(f"test: {len(test):,} rows drawn from {train.path}")
    if validation is None:
        train, validation = split(train, data.validation_share, experiment.seed, "data.validation_share")
        notes.append(f"validation: {len(validation):,} rows drawn from {train.path}")
    labels = sorted(set(train.labels))
    if len(labels) < 2:
        raise DataError(f"{train.path}: all rows have the label '{labels[0]}'; a classifier needs two or more")
    for part in (validation, test):
        _check_labels(part, labels, train.path)
    known = set(train.texts)
    for name, part in (("validation", validation), ("test", test)):
        repeated = sum(text in known for text in part.texts)
        if repeated:
            notes.append(f"{name}: {repeated:,} of {len(part):,} texts stand in the training part too")
    return Dataset(train, validation, test, labels, notes)


def read(path: str, data: Data, *, labelled: bool = True) -> Part:
    """Return the rows of a csv, tsv or jsonl file, plain or gzipped.

    Without `labelled` the label column may be missing and every label is "".

    Raises:
        DataError: the file is missing, empty, of another kind, or has a row without text or label.
    """
    if is_uri(path):
        raise DataError(f"{path}: labelled texts are read from files, not from URIs")
    try:
        full = Path(data.folder, path).expanduser()
    except RuntimeError as error:
        raise DataError(f"{path}: {error}") from error
    suffix = Path(full.name.removesuffix(".gz")).suffix
    if suffix not in READERS:
        raise DataError(f"{full}: the name must end in {', '.join(READERS)}, or one of these and .gz")
    if not full.is_file():
        raise DataError(f"{full}: no such file (data.folder is '{data.folder}')")
    rows = _jsonl_rows if suffix == ".jsonl" else _table_rows
    texts, labels, lines = [], [], []
    try:
        for line, text, label in rows(full, suffix, data, labelled):
            texts.append(text)
            labels.append(label)
            lines.append(line)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{full}: cannot be read: {error}") from error
    if not texts:
        raise DataError(f"{full}: has no rows")
    return Part(texts, labels, str(full), lines)


def split(part: Part, share: float, seed: int, key: str) -> tuple[Part, Part]:
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
    return part.take(sorted([*kept, *alone])), part.take(sorted(drawn))


def _check_labels(part: Part, labels: list[str], train_path: str) -> None:
    for row, label in enumerate(part.labels):
        if label not in labels:
            line = f", line {part.lines[row]}" if part.lines else ""
            raise DataError(f"{part.path}{line}: the label '{label}' never occurs in {train_path}")


def _lines(path: Path, encoding: str) -> Iterator[str]:
    try:
        line_end = "\n".encode(encoding)
    except (LookupError, ValueError) as error:  # UnicodeError is a ValueError
        raise DataError(f"data.encoding: Python knows no encoding {encoding!r}") from error
    if line_end != b"\n":
        raise DataError(f"data.encoding: {encoding} is not supported; convert {path} to utf-8")
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rb") as stream:
        for number, raw in enumerate(stream, start=1):
            try:
                line = raw.decode(encoding)
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{path}, line {number}: byte 0x{raw[error.start]:02x} at {error.start + 1} is not "
                    f"{encoding}; set data.encoding"
                ) from error
            yield line.removeprefix("\ufeff") if number == 1 else line


def _table_rows(path: Path, suffix: str, data: Data, labelled: bool) -> Iterator[tuple[int, str, str]]:
    csv.field_size_limit(1 << 30)
    lines = _lines(path, data.encoding)
    if suffix == ".tsv":  # a tab never stands inside a text, so quotes are part of it
        reader = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    else:
        reader = csv.reader(lines, strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        if not header:
            raise DataError(f"{path}: is empty; the first line must name the columns")
        wanted = {"text_column": data.text_column} | ({"label_column": data.label_column} if labelled else {})
        for key, name in wanted.items():
            if name not in header:
                raise DataError(f"{path}: has no column '{name}' (data.{key}); it has {', '.join(header)}")
        places = [header.index(name) for name in wanted.values()]
        for row in reader:
            if not row:
                continue
            if len(row) != len(header):
                raise DataError(
                    f"{path}, line {reader.line_num}: has {len(row)} columns where the header has {len(header)}"
                )
            values = [row[place] for place in places]
            yield (
                reader.line_num,
                values[0],
                _label(path, reader.line_num, values[1], data) if labelled else "",
            )
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: not valid {suffix[1:]}: {error}") from error


def _jsonl_rows(path: Path, suffix: str, data: Data, labelled: bool) -> Iterator[tuple[int, str, str]]:
    for number, line in enumerate(_lines(path, data.encoding), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}, line {number}: not valid JSON: {error}") from error
        if not isinstance(row, dict):
            raise DataError(f"{path}, line {number}: must be a JSON object, not a {type(row).__name__}")
        wanted = {"text_column": data.text_column} | ({"label_column": data.label_column} if labelled else {})
        for key, name in wanted.items():
            if name not in row:
                raise DataError(f"{path}, line {number}: has no '{name}' (data.{key}); it has {', '.join(row)}")
        text = row[data.text_column]
        if not isinstance(text, str):
            raise DataError(f"{path}, line {number}: '{data.text_column}' must be a string, not {text!r}")
        label = _label(path, number, row[data.label_column], data) if labelled else ""
        try:
            (text + label).encode()
        except UnicodeEncodeError as error:
            raise DataError(f"{path}, line {number}: holds half of a surrogate pair, which is no character") from error
        yield number, text, label


def _label(path: Path, line: int, value: object, data: Data) -> str:
    label = value.strip() if isinstance(value, str) else json.dumps(value)
    if label == "" or value is None:
        raise DataError(f"{path}, line {line}: the label in '{data.label_column}' is empty")
    return label


def _from_docstrings(experiment: Experiment) -> Dataset:
    data = experiment.data
    files = {package: docstrings.source_files(package) for package in data.packages}
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
    rows = Part(texts, labels, "docstrings")
    rest, test = split(rows, data.test_share, experiment.seed, "data.test_share")
    train, validation = split(rest, data.validation_share, experiment.seed, "data.validation_share")
    return Dataset(train, validation, test, sorted(by_package), notes, background)


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
    with replacing(background) as part, part.open("w", encoding="utf-8") as stream:
        for line in dict.fromkeys(line for _, lines in results for line in lines):
            stream.write(line + "\n")
    seen = set()
    with replacing(rows_path) as part, part.open("w", encoding="utf-8") as stream:
        for package, text in unique:
            # What two libraries say in the same words has no answer; what one repeats counts once.
            if owners[text.casefold()] == 1 and text.casefold() not in seen:
                seen.add(text.casefold())
                stream.write(json.dumps([package, text]) + "\n")


def _passages(files: list[Path], packages: list[str], lowercase: bool) -> tuple[list[str], list[str]]:
    mask, names = docstrings.name_mask(packages), docstrings.names(packages)
    masked = docstrings.MASK.lower() if lowercase else docstrings.MASK
    texts, lines = [], []
    for docstring in docstrings.read(files):
        text = docstrings.passage(docstring, mask)
        if text is not None:
            texts.append(text)
        tokens = (masked if token.lower() in names else token for token in tokenize(docstring, lowercase))
        lines.append(" ".join(token for token in tokens if token[0] != "`"))
    return texts, lines
