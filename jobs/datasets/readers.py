"""Readers of labelled texts: csv, tsv and jsonl files, plain or gzipped, at a path or URI."""

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath

from cluster import UsageError, input_files
from cluster.storage import StorageError, is_uri, join
from jobs.config.experiment import digest
from jobs.config.settings import DataSettings

SUPPORTED_SUFFIXES = (".csv", ".tsv", ".jsonl")

NumberedRow = tuple[int, str, str]
"""Line number, text and label."""


class DataError(UsageError):
    """The labelled texts are missing or invalid."""


@dataclass(frozen=True)
class Split:
    """Rows of one part of a dataset. line_numbers: line of each row in the file `path`."""

    texts: list[str]
    labels: list[str]
    path: str = ""
    line_numbers: list[int] | None = None

    def __len__(self) -> int:
        return len(self.texts)

    def digest(self) -> str:
        """Return 8 hex digits that identify these rows."""
        return digest([self.texts, self.labels])

    def select(self, indices: Iterable[int]) -> "Split":
        """Return the rows at some indices."""
        indices = list(indices)
        lines = [self.line_numbers[index] for index in indices] if self.line_numbers else None
        texts, labels = ([values[index] for index in indices] for values in (self.texts, self.labels))
        return Split(texts, labels, self.path, lines)


def read_rows(path: str, data: DataSettings, *, labelled: bool = True) -> Split:
    """Return the rows of a csv, tsv or jsonl file, plain or gzipped, at a path or URI.

    With `labelled=False` the label column is not read, and every label is "".

    Raises:
        DataError: the file is missing, empty or of another type, or a row has no text or label.
    """
    location = _resolve_path(path, data)
    if _suffix(location) not in SUPPORTED_SUFFIXES:
        raise DataError(f"{location}: the name must end in {', '.join(SUPPORTED_SUFFIXES)}, or one of these and .gz")
    texts, labels, lines = [], [], []
    for line, text, label in _iter_rows(location, data, labelled=labelled):
        texts.append(text)
        labels.append(label)
        lines.append(line)
    if not texts:
        raise DataError(f"{location}: has no rows")
    return Split(texts, labels, location, lines)


def stream_texts(path: str, data: DataSettings, on_bytes_read: Callable[[int], None]) -> Iterator[str]:
    """Yield the texts of a csv, tsv or jsonl file, or the lines of any other file, without storing them.

    Args:
        on_bytes_read: called with the number of bytes of each read.

    Raises:
        DataError: the file is missing, or a row has no text.
    """
    rows = _iter_rows(_resolve_path(path, data), data, labelled=False, on_bytes_read=on_bytes_read)
    return (text for _, text, _ in rows)


def file_size(path: str, data: DataSettings) -> int | None:
    """Return the size of a file in bytes, None if unknown; DataError if there is no such file."""
    try:
        return input_files.file_size(_resolve_path(path, data))
    except StorageError as error:
        raise DataError(str(error)) from error


def _resolve_path(path: str, data: DataSettings) -> str:
    """Return the path or URI of a file of `data`."""
    if is_uri(path):
        return path
    if is_uri(data.folder):
        return join(data.folder, path)
    try:
        full = Path(data.folder, path).expanduser()
    except RuntimeError as error:
        raise DataError(f"{path}: {error}") from error
    if not full.is_file():
        raise DataError(f"{full}: no such file (data.folder is '{data.folder}')")
    return str(full)


def _suffix(path: str) -> str:
    return PurePath(path.removesuffix(".gz")).suffix


def _iter_rows(
    path: str, data: DataSettings, *, labelled: bool, on_bytes_read: Callable[[int], None] | None = None
) -> Iterator[NumberedRow]:
    try:
        lines = _iter_lines(path, data.encoding, on_bytes_read)
        suffix = _suffix(path)
        if suffix == ".jsonl":
            yield from _parse_jsonl(path, lines, data, labelled)
        elif suffix in SUPPORTED_SUFFIXES:
            yield from _parse_table(path, lines, suffix, data, labelled)
        else:
            yield from ((number, line.rstrip("\r\n"), "") for number, line in enumerate(lines, start=1))
    except input_files.READ_ERRORS as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    except StorageError as error:
        raise DataError(str(error)) from error


def _iter_lines(path: str, encoding: str, on_bytes_read: Callable[[int], None] | None) -> Iterator[str]:
    try:
        line_end = "\n".encode(encoding)
    except (LookupError, ValueError) as error:  # UnicodeError is a ValueError
        raise DataError(f"data.encoding: unknown encoding {encoding!r}") from error
    if line_end != b"\n":  # the bytes are split into lines before they are decoded
        raise DataError(f"data.encoding: {encoding} is not supported; convert {path} to utf-8")
    with input_files.open_decompressed(path, on_bytes_read) as stream:
        for number, raw in enumerate(stream, start=1):
            try:
                line = raw.decode(encoding)
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{path}, line {number}: byte 0x{raw[error.start]:02x} at position {error.start + 1} is not "
                    f"{encoding}; set data.encoding"
                ) from error
            yield line.removeprefix("\ufeff") if number == 1 else line


def _columns(data: DataSettings, labelled: bool) -> dict[str, str]:
    """Return the columns to read, by the setting that names them."""
    return {"text_column": data.text_column} | ({"label_column": data.label_column} if labelled else {})


def _parse_table(
    path: str, lines: Iterator[str], suffix: str, data: DataSettings, labelled: bool
) -> Iterator[NumberedRow]:
    csv.field_size_limit(1 << 30)
    if suffix == ".tsv":  # a text contains no tab, so quotes are part of it
        reader = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    else:
        reader = csv.reader(lines, strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        if not header:
            raise DataError(f"{path}: is empty; the first line must contain the column names")
        columns = _columns(data, labelled)
        for key, name in columns.items():
            if name not in header:
                raise DataError(f"{path}: has no column '{name}' (data.{key}); it has {', '.join(header)}")
        indices = [header.index(name) for name in columns.values()]
        for row in reader:
            if not row:
                continue
            line = reader.line_num
            if len(row) != len(header):
                raise DataError(f"{path}, line {line}: has {len(row)} columns, but the header has {len(header)}")
            values = [row[index] for index in indices]
            yield line, values[0], _parse_label(path, line, values[1], data) if labelled else ""
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: not valid {suffix[1:]}: {error}") from error


def _parse_jsonl(path: str, lines: Iterator[str], data: DataSettings, labelled: bool) -> Iterator[NumberedRow]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}, line {number}: not valid JSON: {error}") from error
        if not isinstance(row, dict):
            raise DataError(f"{path}, line {number}: must be a JSON object, not a {type(row).__name__}")
        for key, name in _columns(data, labelled).items():
            if name not in row:
                raise DataError(f"{path}, line {number}: has no '{name}' (data.{key}); it has {', '.join(row)}")
        text = row[data.text_column]
        if not isinstance(text, str):
            raise DataError(f"{path}, line {number}: '{data.text_column}' must be a string, not {text!r}")
        label = _parse_label(path, number, row[data.label_column], data) if labelled else ""
        try:
            (text + label).encode()
        except UnicodeEncodeError as error:
            raise DataError(f"{path}, line {number}: contains a lone surrogate, which is not a character") from error
        yield number, text, label


def _parse_label(path: str, line: int, value: object, data: DataSettings) -> str:
    label = value.strip() if isinstance(value, str) else json.dumps(value)
    if label == "" or value is None:
        raise DataError(
            f"{path}, line {line}: the label in '{data.label_column}' is empty; fill it in or remove the row"
        )
    return label
