"""Readers of labelled texts: csv, tsv and jsonl files, plain or gzipped, at a path or URI."""

import codecs
import json
import logging
import math
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from cluster import input_files
from cluster.storage import StorageError, is_uri, join
from jobs.config.experiment import digest
from jobs.config.settings import DataSettings
from jobs.datasets.delimited import DataError as DataError
from jobs.datasets.delimited import iter_columns

logger = logging.getLogger(__name__)

LARGE_FILE_BYTES = 20_000_000  # are read in more than a second
SUPPORTED_SUFFIXES = (".csv", ".tsv", ".jsonl")

NumberedRow = tuple[int, str, str]
"""Line number, text and label."""


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

    def describe_position(self, index: int) -> str:
        """Return the file and the line of a row."""
        return f"{self.path}, line {self.line_numbers[index]}" if self.line_numbers else self.path

    def select(self, indices: Iterable[int]) -> "Split":
        """Return the rows at some indices."""
        indices = list(indices)
        lines = [self.line_numbers[index] for index in indices] if self.line_numbers else None
        texts, labels = ([values[index] for index in indices] for values in (self.texts, self.labels))
        return Split(texts, labels, self.path, lines)


def read_rows(
    path: str, data: DataSettings, *, labelled: bool = True, records: list[Mapping[str, object]] | None = None
) -> Split:
    """Return the rows of a csv, tsv or jsonl file, plain or gzipped, at a path or URI.

    Args:
        labelled: False: the label column is not read, and every label is "".
        records: each row is added to it with the values of all its columns.

    Raises:
        DataError: the file is missing, empty or of another type, or a row has no text or label.
    """
    location = _resolve_path(path, data)
    _check_suffix(location)
    if (file_size(path, data) or 0) > LARGE_FILE_BYTES:
        logger.info(f"reading {location}")
    texts, labels, lines = [], [], []
    for line, text, label in _iter_rows(location, data, labelled=labelled, records=records):
        texts.append(text)
        labels.append(label)
        lines.append(line)
    if not texts:
        raise DataError(f"{location}: has no rows")
    return Split(texts, labels, location, lines)


def check_file(path: str, data: DataSettings) -> None:
    """Check that a file of labelled texts exists, has its columns, and that its first row is valid.

    Raises:
        DataError: as for `read_rows`.
    """
    location = _resolve_path(path, data)
    _check_suffix(location)
    if next(_iter_rows(location, data, labelled=True), None) is None:
        raise DataError(f"{location}: has no rows")


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


def _check_suffix(path: str) -> None:
    if _suffix(path) not in SUPPORTED_SUFFIXES:
        raise DataError(f"{path}: the name must end in {', '.join(SUPPORTED_SUFFIXES)}, or one of these and .gz")


def _suffix(path: str) -> str:
    return PurePath(path.lower().removesuffix(".gz")).suffix


def _iter_rows(
    path: str,
    data: DataSettings,
    *,
    labelled: bool,
    on_bytes_read: Callable[[int], None] | None = None,
    records: list[Mapping[str, object]] | None = None,
) -> Iterator[NumberedRow]:
    try:
        lines = _iter_lines(path, data.encoding, on_bytes_read)
        suffix = _suffix(path)
        if suffix == ".jsonl":
            yield from _parse_jsonl(path, lines, data, labelled, records)
        elif suffix in SUPPORTED_SUFFIXES:
            yield from _parse_table(path, lines, suffix, data, labelled, records)
        else:
            yield from ((number, line.rstrip("\r\n"), "") for number, line in enumerate(lines, start=1))
    except input_files.READ_ERRORS as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    except StorageError as error:
        raise DataError(str(error)) from error


def _iter_lines(path: str, encoding: str, on_bytes_read: Callable[[int], None] | None) -> Iterator[str]:
    try:
        if codecs.lookup(encoding).name == "utf-8-sig":
            encoding = "utf-8"  # a byte order mark is ignored in any case
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


def choose_encoding(path: str, data: DataSettings) -> str:
    """Return utf-8 if a file is valid UTF-8, else the encoding of the settings, which is that of the training file."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        with input_files.open_decompressed(_resolve_path(path, data)) as stream:
            while block := stream.read(1 << 20):
                decoder.decode(block)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return data.encoding
    except (*input_files.READ_ERRORS, StorageError):
        return data.encoding  # reading the rows reports it
    return "utf-8"


def _columns(data: DataSettings, labelled: bool) -> dict[str, str]:
    """Return the columns to read, by the setting that names them; the one of the texts is first."""
    columns = {"text_column": data.text_column} | ({"label_column": data.label_column} if labelled else {})
    return {key: unicodedata.normalize("NFC", name) for key, name in columns.items()}


def _parse_table(
    path: str,
    lines: Iterator[str],
    suffix: str,
    data: DataSettings,
    labelled: bool,
    records: list[Mapping[str, object]] | None,
) -> Iterator[NumberedRow]:
    rows = iter_columns(path, lines, _columns(data, labelled), data.delimiter, is_tsv=suffix == ".tsv", records=records)
    for line, values in rows:
        yield line, values[0], _parse_label(path, line, values[1], data) if labelled else ""


def _parse_jsonl(
    path: str,
    lines: Iterator[str],
    data: DataSettings,
    labelled: bool,
    records: list[Mapping[str, object]] | None,
) -> Iterator[NumberedRow]:
    columns = _columns(data, labelled)
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, object_pairs_hook=_build_object)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}, line {number}: not valid JSON: {error}") from error
        if not isinstance(row, dict):
            raise DataError(f"{path}, line {number}: must be a JSON object, not a {type(row).__name__}")
        for key, name in columns.items():
            if name not in row:
                raise DataError(f"{path}, line {number}: has no '{name}' (data.{key}); it has {', '.join(row)}")
        text = row[columns["text_column"]]
        if not isinstance(text, str):
            raise DataError(f"{path}, line {number}: '{data.text_column}' must be a string, not {text!r}")
        label = _parse_label(path, number, row[columns["label_column"]], data) if labelled else ""
        try:
            (text + label).encode()
        except UnicodeEncodeError as error:
            raise DataError(f"{path}, line {number}: contains a lone surrogate, which is not a character") from error
        if records is not None:
            records.append(row)
        yield number, text, label


def _build_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object with its keys in Unicode NFC; ValueError if one occurs twice."""
    values = {unicodedata.normalize("NFC", key): value for key, value in pairs}
    if len(values) < len(pairs):
        raise ValueError(f"an object has a key twice: {', '.join(key for key, _ in pairs)}")
    return values


def _parse_label(path: str, line: int, value: object, data: DataSettings) -> str:
    """Return the label of a value, in Unicode NFC; equal numbers are the same label."""
    location = f"{path}, line {line}: the label in '{data.label_column}'"
    label = unicodedata.normalize("NFC", value.strip()) if isinstance(value, str) else json.dumps(value)
    if label == "" or value is None or (isinstance(value, float) and math.isnan(value)):
        raise DataError(f"{location} is empty; fill it in or remove the row")
    if isinstance(value, list):
        raise DataError(f"{location} is a list, {label}; a text has a single label, a string or a number")
    if isinstance(value, dict) or (isinstance(value, float) and math.isinf(value)):
        raise DataError(f"{location} is {label}; it must be a string or a number")
    return str(int(value)) if isinstance(value, float) and value.is_integer() and abs(value) < 1 << 53 else label
