"""Labelled texts in files: csv, tsv and jsonl, plain or gzipped, at a path or URI."""

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath

from cluster import UsageError
from cluster import input_files as source
from cluster.storage import StorageError, is_uri, join
from jobs.config.experiment import digest
from jobs.config.settings import DataSettings

SUPPORTED_SUFFIXES = (".csv", ".tsv", ".jsonl")


class DataError(UsageError):
    """The labelled texts cannot be used as they are."""


@dataclass(frozen=True)
class Split:
    """Rows of one part; `lines` says where in `path` each stands."""

    texts: list[str]
    labels: list[str]
    path: str = ""
    line_numbers: list[int] | None = None

    def __len__(self) -> int:
        return len(self.texts)

    def digest(self) -> str:
        """Return what identifies these rows."""
        return digest([self.texts, self.labels])

    def select(self, indices: Iterable[int]) -> "Split":
        """Return some of the rows."""
        indices = list(indices)
        lines = [self.line_numbers[row] for row in indices] if self.line_numbers else None
        return Split([self.texts[row] for row in indices], [self.labels[row] for row in indices], self.path, lines)


def read_rows(path: str, data: DataSettings, *, labelled: bool = True) -> Split:
    """Return the rows of a csv, tsv or jsonl file, plain or gzipped, at a path or URI.

    Without `labelled` the label column may be missing and every label is "".

    Raises:
        DataError: the file is missing, empty, of another kind, or has a row without text or label.
    """
    full = _located(path, data)
    if _suffix(full) not in SUPPORTED_SUFFIXES:
        raise DataError(f"{full}: the name must end in {', '.join(SUPPORTED_SUFFIXES)}, or one of these and .gz")
    texts, labels, lines = [], [], []
    for line, text, label in _rows(full, data, labelled=labelled):
        texts.append(text)
        labels.append(label)
        lines.append(line)
    if not texts:
        raise DataError(f"{full}: has no rows")
    return Split(texts, labels, full, lines)


def stream_texts(path: str, data: DataSettings, on_bytes_read: Callable[[int], None]) -> Iterator[str]:
    """Yield the texts of a csv, tsv or jsonl file without keeping them; of any other file its lines.

    Args:
        passed: is told how many bytes of the file were read, each time.

    Raises:
        DataError: the file is missing, or has a row without text.
    """
    return (text for _, text, _ in _rows(_located(path, data), data, labelled=False, passed=on_bytes_read))


def file_size(path: str, data: DataSettings) -> int | None:
    """Return a file's bytes, None where nothing tells; DataError if there is no such file."""
    try:
        return source.file_size(_located(path, data))
    except StorageError as error:
        raise DataError(str(error)) from error


def _located(path: str, data: DataSettings) -> str:
    """Return where a file of `data` lies: a path of this machine or a URI."""
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


def _rows(
    path: str, data: DataSettings, *, labelled: bool, passed: Callable[[int], None] | None = None
) -> Iterator[tuple[int, str, str]]:
    """Yield line, text and label of each row, whatever kind of file it is."""
    try:
        lines = _lines(path, data.encoding, passed)
        kind = _suffix(path)
        if kind == ".jsonl":
            yield from _jsonl_rows(path, lines, data, labelled)
        elif kind in SUPPORTED_SUFFIXES:
            yield from _table_rows(path, lines, kind, data, labelled)
        else:
            yield from ((number, line.rstrip("\r\n"), "") for number, line in enumerate(lines, start=1))
    except source.READ_ERRORS as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    except StorageError as error:
        raise DataError(str(error)) from error


def _lines(path: str, encoding: str, passed: Callable[[int], None] | None) -> Iterator[str]:
    try:
        line_end = "\n".encode(encoding)
    except (LookupError, ValueError) as error:  # UnicodeError is a ValueError
        raise DataError(f"data.encoding: Python knows no encoding {encoding!r}") from error
    if line_end != b"\n":
        raise DataError(f"data.encoding: {encoding} is not supported; convert {path} to utf-8")
    with source.open_decompressed(path, passed) as stream:
        for number, raw in enumerate(stream, start=1):
            try:
                line = raw.decode(encoding)
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{path}, line {number}: byte 0x{raw[error.start]:02x} at {error.start + 1} is not "
                    f"{encoding}; set data.encoding"
                ) from error
            yield line.removeprefix("\ufeff") if number == 1 else line


def _table_rows(
    path: str, lines: Iterator[str], suffix: str, data: DataSettings, labelled: bool
) -> Iterator[tuple[int, str, str]]:
    csv.field_size_limit(1 << 30)
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


def _jsonl_rows(path: str, lines: Iterator[str], data: DataSettings, labelled: bool) -> Iterator[tuple[int, str, str]]:
    for number, line in enumerate(lines, start=1):
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


def _label(path: str, line: int, value: object, data: DataSettings) -> str:
    label = value.strip() if isinstance(value, str) else json.dumps(value)
    if label == "" or value is None:
        raise DataError(f"{path}, line {line}: the label in '{data.label_column}' is empty")
    return label
