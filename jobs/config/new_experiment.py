"""New experiment files: columns, delimiter and encoding are guessed from the file of labelled texts."""

import csv
import gzip
import io
import itertools
import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.storage import is_uri
from jobs.config.experiment import Experiment, ExperimentError, apply_overrides, derive_name
from jobs.config.schema import to_commented_yaml
from jobs.config.settings import DELIMITERS

SAMPLE_ROWS = 2000
MAX_DISTINCT = 0.8  # distinct values of a column of labels, as a share of the rows
SUFFIXES = (".csv", ".tsv", ".jsonl")
# Names of columns, the likeliest first.
TEXT_NAMES = "text texts sentence message review comment body content question utterance description document title"
LABEL_NAMES = "label labels class category target intent sentiment topic queue tag rating stars"
# Settings of a new file: what users change first.
KEYS = (
    "name",
    "data.train",
    "data.text_column",
    "data.label_column",
    "data.validation_share",
    "data.test_share",
    "vectors.path",
    "model.embedding",
    "train.epochs",
    "train.learning_rate",
)


@dataclass(frozen=True)
class TextFile:
    """The start of a file of labelled texts. rows: values of the columns; lengths as of `columns`.

    delimiter: None in jsonl. encoding: name of it in Python.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    delimiter: str | None
    encoding: str


def write_experiment(data_path: str, out: str | None, settings: Sequence[str]) -> tuple[str, Experiment]:
    """Write an experiment for a file of labelled texts; return its path and the experiment.

    Args:
        data_path: csv, tsv or jsonl, plain or gzipped.
        out: file to write; by default named after the data, in the current folder.
        settings: `key=value` settings, which override what is guessed.

    Raises:
        ExperimentError: the data cannot be read, no columns of texts and labels are recognised, the file exists, or a
            path is a URI.
    """
    if is_uri(data_path):
        raise ExperimentError(
            f"{data_path}: is a URI; init reads files of this machine. Download its first rows, and run "
            f"`finetune-cnn init ROWS.csv {shlex.quote(f'data.train={data_path}')}`"
        )
    if out is not None and is_uri(out):
        raise ExperimentError(f"{out}: is a URI; an experiment is a file of this machine: name a path with --out")
    path = Path(data_path).expanduser()
    stem = re.sub(r"\.(csv|tsv|jsonl)(\.gz)?$", "", path.name, flags=re.IGNORECASE)
    target = Path(out).expanduser() if out else Path(f"{stem}.yaml")
    if target.exists():
        raise ExperimentError(f"{target}: exists and is not overwritten; name another file with --out")
    values = {key.strip(): value for key, _, value in (setting.partition("=") for setting in settings)}
    keys = set(values)
    guessed = {key: value for key, value in _guess_settings(path, values).items() if key not in keys}
    experiment = apply_overrides(Experiment().replace(guessed), settings)
    text = to_commented_yaml(experiment, {*KEYS, *keys, *guessed})
    quoted = shlex.quote(str(target))
    heading = f"# Experiment on {path.name}. `finetune-cnn show {quoted}` prints all other settings too."
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("x", encoding="utf-8") as stream:
            stream.write(f"{heading}\n#   finetune-cnn train {quoted}\n{text}")
    except OSError as error:
        raise ExperimentError(f"{target}: cannot be written: {error}") from error
    return str(target), experiment


def _guess_settings(path: Path, known: Mapping[str, str]) -> Mapping[str, Any]:
    """Return settings by dotted path; `known` are settings that need no guess."""
    file = read_start(path)
    settings: dict[str, Any] = {
        "name": derive_name(path.name),
        "data.train": str(path),
    }
    columns = guess_columns(path, file, known.get("data.text_column"), known.get("data.label_column"))
    settings["data.text_column"], settings["data.label_column"] = columns
    if file.encoding != "utf-8":
        settings["data.encoding"] = file.encoding
    usual = "\t" if ".tsv" in path.name.lower() else ","
    if file.delimiter not in (None, usual):
        settings["data.delimiter"] = file.delimiter
    return settings


def guess_columns(path: Path, file: TextFile, text: str | None = None, label: str | None = None) -> tuple[str, str]:
    """Return the columns of texts and labels: by their names, or else the longest and the most repeated values.

    Args:
        text, label: names of the columns, if they are known.

    Raises:
        ExperimentError: there is only one column, or no column has repeated values.
    """
    if len(file.columns) < 2:
        raise ExperimentError(f"{path}: has the single column '{file.columns[0]}'; texts and labels need one each")
    for name in (text, label):
        if name is not None and name not in file.columns:
            raise ExperimentError(f"{path}: has no column '{name}'; it has {', '.join(file.columns)}")
    if not file.rows:
        raise ExperimentError(f"{path}: has no rows below the header")
    values = {name: [row[index] for row in file.rows] for index, name in enumerate(file.columns)}
    text = text or _find_name([name for name in file.columns if name != label], TEXT_NAMES)
    label = label or _find_name([name for name in file.columns if name != text], LABEL_NAMES)
    if text is None:
        text = max((name for name in file.columns if name != label), key=lambda name: sum(map(len, values[name])))
    if label is None:
        counts = {name: len(set(column)) for name, column in values.items() if name != text}
        repeated = [name for name, count in counts.items() if 1 < count <= MAX_DISTINCT * len(file.rows)]
        if not repeated:
            raise ExperimentError(
                f"{path}: no column looks like labels; it has {', '.join(file.columns)}; name it with "
                "data.label_column=COLUMN"
            )
        label = min(repeated, key=lambda name: counts[name])
    return text, label


def _find_name(columns: Sequence[str], names: str) -> str | None:
    """Return the column with the likeliest name, or with such a word in its name; None if there is none."""
    words = {column: re.findall(r"[a-z]+", column.lower()) for column in columns}
    for name in names.split():
        for column in columns:
            if column.lower() == name:
                return column
    return next((column for name in names.split() for column in columns if name in words[column]), None)


def read_start(path: Path) -> TextFile:
    """Return the first rows of a csv, tsv or jsonl file; ExperimentError if it is none or cannot be read."""
    kind = next((suffix for suffix in SUFFIXES if re.fullmatch(rf".*\{suffix}(\.gz)?", path.name.lower())), None)
    if kind is None:
        raise ExperimentError(f"{path}: the name must end in .csv, .tsv or .jsonl, or one of these and .gz")
    for encoding in ("utf-8", "cp1252"):
        try:
            return _parse_jsonl(path, encoding) if kind == ".jsonl" else _parse_delimited(path, encoding)
        except UnicodeDecodeError:
            continue
        except FileNotFoundError as error:
            raise ExperimentError(f"{path}: no such file") from error
        except (OSError, EOFError, csv.Error) as error:
            raise ExperimentError(f"{path}: cannot be read: {error}") from error
    raise ExperimentError(f"{path}: is neither UTF-8 nor Windows-1252; save it as UTF-8")


def _iter_lines(path: Path, encoding: str) -> Iterator[str]:
    """Yield the lines of the start of a file from the first one that is not blank, without a byte order mark."""
    with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as stream:
        text = io.TextIOWrapper(stream, "utf-8-sig" if encoding == "utf-8" else encoding, newline="")
        yield from itertools.islice(itertools.dropwhile(lambda line: not line.strip(), text), 10 * SAMPLE_ROWS)


def _parse_jsonl(path: Path, encoding: str) -> TextFile:
    objects: list[dict[str, Any]] = []
    for line in itertools.islice(filter(str.strip, _iter_lines(path, encoding)), SAMPLE_ROWS):
        try:
            value = json.loads(line)
        except ValueError as error:
            raise ExperimentError(f"{path}, row {len(objects) + 1}: not valid JSON: {error}") from error
        if not isinstance(value, dict):
            raise ExperimentError(f"{path}, row {len(objects) + 1}: is not a JSON object with keys and values")
        objects.append(value)
    if not objects:
        raise ExperimentError(f"{path}: is empty")
    columns = list(objects[0])
    rows = [[str(value.get(name, "")) for name in columns] for value in objects]
    return TextFile(columns, rows, None, encoding)


def _parse_delimited(path: Path, encoding: str) -> TextFile:
    lines = list(_iter_lines(path, encoding))
    if not lines:
        raise ExperimentError(f"{path}: is empty; the first line must contain the column names")
    # The delimiter divides the header, and all rows alike.
    parsed = {delimiter: _parse_rows(lines, delimiter) for delimiter in DELIMITERS}
    delimiter = max(parsed, key=lambda mark: (_share_of_equal_length(parsed[mark]), len(parsed[mark][0])))
    header, *rows = parsed[delimiter]
    complete = [row for row in rows if len(row) == len(header)][:SAMPLE_ROWS]
    return TextFile([name.strip() for name in header], complete, delimiter, encoding)


def _parse_rows(lines: Sequence[str], delimiter: str) -> list[list[str]]:
    csv.field_size_limit(1 << 30)
    return [row for row in csv.reader(lines, delimiter=delimiter) if row]


def _share_of_equal_length(rows: Sequence[Sequence[str]]) -> float:
    """Return the share of rows with as many columns as the header; 0 if that has one."""
    length = len(rows[0])
    return sum(len(row) == length for row in rows) / len(rows) if length > 1 else 0.0
