"""Start of a source of labelled texts, with which a new experiment's columns, delimiter and encoding are guessed."""

import csv
import io
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.input_files import READ_ERRORS, open_decompressed
from jobs.config.settings import DELIMITERS, DataSettings
from jobs.datasets.formats.columnar.arrow import open_arrow
from jobs.datasets.formats.columnar.parquet import open_parquet
from jobs.datasets.formats.columnar.record_batches import read_start as read_first_batches
from jobs.datasets.formats.fasttext_lines import read_fasttext
from jobs.datasets.formats.rows import DataError, ReadOptions, SourceFile
from jobs.datasets.sources import resolve_source

SAMPLE_ROWS = 2000


@dataclass(frozen=True)
class Sample:
    """The start of a source. rows: values of the columns; lengths as of `columns`.

    delimiter: None except in csv and tsv. encoding: name of it in Python. list_columns: those with a list in a row.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    delimiter: str | None
    encoding: str
    file: SourceFile
    list_columns: frozenset[str] = frozenset()


def read_sample(source: str) -> Sample:
    """Return the first rows of the first file of a source.

    Raises:
        DataError: there is no such file, or it is of another format, empty or damaged.
    """
    file = resolve_source(source, DataSettings())[0]
    if file.format in ("parquet", "arrow"):
        columns, rows = read_first_batches(file, open_parquet if file.format == "parquet" else open_arrow, SAMPLE_ROWS)
        texts = [["" if value is None else str(value) for value in row] for row in rows]
        return Sample(columns, texts, None, "utf-8", file, _find_list_columns(columns, rows))
    for encoding in ("utf-8", "cp1252"):
        try:
            if file.format == "jsonl":
                return _parse_jsonl(file, encoding)
            return _parse_fasttext(file, encoding) if file.format == "fasttext" else _parse_delimited(file, encoding)
        except UnicodeDecodeError:
            continue
        except (*READ_ERRORS, csv.Error) as error:
            raise DataError(f"{file.path}: cannot be read: {error}") from error
    raise DataError(f"{file.path}: is neither UTF-8 nor Windows-1252; save it as UTF-8")


def _iter_lines(file: SourceFile, encoding: str) -> Iterator[str]:
    """Yield the lines of the start of a file from the first one that is not blank, without a byte order mark."""
    with open_decompressed(file.path) as stream:
        text = io.TextIOWrapper(stream, "utf-8-sig" if encoding == "utf-8" else encoding, newline="")
        yield from itertools.islice(itertools.dropwhile(lambda line: not line.strip(), text), 10 * SAMPLE_ROWS)


def _parse_fasttext(file: SourceFile, encoding: str) -> Sample:
    for _ in _iter_lines(file, encoding):  # raises a UnicodeDecodeError
        pass
    options = ReadOptions(DataSettings(encoding=encoding, multi_label=True))
    rows = [(label, text) for _, text, label, _ in itertools.islice(read_fasttext(file, options), SAMPLE_ROWS)]
    if not any(label for label, _ in rows):
        next(read_fasttext(file, ReadOptions(DataSettings(encoding=encoding))), None)  # raises that a label is missing
    is_list = any(len(label) != 1 for label, _ in rows)
    texts = [[" ".join(label), text] for label, text in rows]
    return Sample(["label", "text"], texts, None, encoding, file, frozenset(["label"] if is_list else []))


def _parse_jsonl(file: SourceFile, encoding: str) -> Sample:
    objects: list[dict[str, Any]] = []
    for line in itertools.islice(filter(str.strip, _iter_lines(file, encoding)), SAMPLE_ROWS):
        try:
            value = json.loads(line)
        except ValueError as error:
            raise DataError(f"{file.path}, row {len(objects) + 1}: not valid JSON: {error}") from error
        if not isinstance(value, dict):
            raise DataError(f"{file.path}, row {len(objects) + 1}: is not a JSON object with keys and values")
        objects.append(value)
    if not objects:
        raise DataError(f"{file.path}: is empty")
    columns = list(objects[0])
    values = [[value.get(name, "") for name in columns] for value in objects]
    texts = [[*map(str, row)] for row in values]
    return Sample(columns, texts, None, encoding, file, _find_list_columns(columns, values))


def _find_list_columns(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> frozenset[str]:
    return frozenset(name for row in rows for name, value in zip(columns, row, strict=True) if isinstance(value, list))


def _parse_delimited(file: SourceFile, encoding: str) -> Sample:
    lines = list(_iter_lines(file, encoding))
    if not lines:
        raise DataError(f"{file.path}: is empty; the first line must contain the column names")
    # The delimiter divides the header, and all rows alike.
    parsed = {delimiter: _parse_rows(lines, delimiter) for delimiter in DELIMITERS}
    delimiter = max(parsed, key=lambda mark: (_share_of_equal_length(parsed[mark]), len(parsed[mark][0])))
    header, *rows = parsed[delimiter]
    complete = [row for row in rows if len(row) == len(header)][:SAMPLE_ROWS]
    return Sample([name.strip() for name in header], complete, delimiter, encoding, file)


def _parse_rows(lines: Sequence[str], delimiter: str) -> list[list[str]]:
    csv.field_size_limit(1 << 30)
    return [row for row in csv.reader(lines, delimiter=delimiter) if row]


def _share_of_equal_length(rows: Sequence[Sequence[str]]) -> float:
    """Return the share of rows with as many columns as the header; 0 if that has one."""
    length = len(rows[0])
    return sum(len(row) == length for row in rows) / len(rows) if length > 1 else 0.0
