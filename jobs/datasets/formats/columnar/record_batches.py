"""Rows of Arrow record batches, which files of parquet and Arrow consist of: columns, class names, errors."""

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
import pyarrow as pa

from cluster import to_single_line
from jobs.datasets.formats.columnar.column_values import (
    build_records,
    decode_dictionary,
    find_invalid_texts,
    has_class_numbers,
    is_label,
    is_list,
    is_text,
    list_values,
    name_classes,
    normalize_name,
    replace_views,
)
from jobs.datasets.formats.columnar.encoded_texts import EncodedTexts, encode_column
from jobs.datasets.formats.labels import SINGLE_LABEL, LabelParser
from jobs.datasets.formats.rows import (
    DataError,
    Label,
    ReadOptions,
    Record,
    Row,
    SourceFile,
    check_names_differ,
    find_column,
)
from jobs.datasets.formats.saved_dataset import parse_class_names

SLICE_ROWS = 16_384  # are Python objects at the same time

Converted = TypeVar("Converted")


@dataclass(frozen=True)
class BatchFile:
    """An open file.

    iter_batches: yields the batches with some columns, None for all, and the number of bytes that were read for each.
    """

    schema: pa.Schema
    iter_batches: Callable[[Sequence[str] | None], Iterator[tuple[pa.RecordBatch, int]]]


@dataclass(frozen=True)
class EncodedRows:
    """Rows of a slice. first: number of the first one. labels: distinct ones; label_indices: `(rows,)`, of each row."""

    texts: EncodedTexts
    first: int
    labels: list[Label]
    label_indices: np.ndarray


OpenBatches = Callable[[str], AbstractContextManager[BatchFile]]
"""Opens the file at a path or URI; reading it raises `pyarrow.ArrowException` or OSError."""


def read_batches(file: SourceFile, options: ReadOptions, open_batches: OpenBatches) -> Iterator[Row]:
    """Yield the rows of a file of record batches.

    Raises:
        DataError: the file is damaged, a column is missing or of another type, or a text or a label is null.
        StorageError: the file cannot be opened.
    """
    for rows in _iter_slices(file, options, open_batches, _Columns.iter_rows):
        yield from rows


def stream_batches(
    file: SourceFile, options: ReadOptions, open_batches: OpenBatches
) -> Iterator[tuple[EncodedTexts, pa.RecordBatch]]:
    """Return an iterator of texts of batches, and the batches with all columns, names of classes instead of numbers.

    Args:
        options: with records, so that all columns are read; without labels.

    Raises:
        DataError, StorageError: as for `read_batches`.
    """

    def convert(columns: _Columns, batch: pa.RecordBatch, start: int) -> tuple[EncodedTexts, pa.RecordBatch]:
        batch = columns.drop_invalid(batch, start)[0]
        return encode_column(batch.column(columns.names[0])), columns.name_classes(batch)

    return _iter_slices(file, options, open_batches, convert)


def encode_batches(
    file: SourceFile, options: ReadOptions, open_batches: OpenBatches
) -> Iterator[Callable[[], EncodedRows]]:
    """Return an iterator of functions that convert slices of the batches, each to be called once, on any thread.

    They raise DataError, `pyarrow.ArrowException` or UnicodeDecodeError if a row is invalid, without its number.

    Raises:
        DataError, StorageError: as for `read_batches`.
    """
    return _iter_slices(file, options, open_batches, lambda *arguments: partial(_Columns.encode_rows, *arguments))


def _iter_slices(
    file: SourceFile,
    options: ReadOptions,
    open_batches: OpenBatches,
    convert: Callable[["_Columns", pa.RecordBatch, int], Converted],
) -> Iterator[Converted]:
    """Yield what `convert` makes of each slice of the batches and the number of rows before it.

    Raises:
        DataError, StorageError: as for `read_batches`; also if `convert` raises that a value is not UTF-8, or that
            Arrow lacks an operation on its type.
    """
    first = number = file.first_number - 1
    try:
        with open_batches(file.path) as batch_file:
            columns = _Columns(file, options, batch_file.schema)
            for batch, num_bytes in batch_file.iter_batches(columns.to_read):
                for start in range(0, len(batch), SLICE_ROWS):
                    part = columns.select(batch.slice(start, SLICE_ROWS))
                    yield convert(columns, part, number)
                    number += len(part)
                if options.on_bytes_read:
                    options.on_bytes_read(num_bytes)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        position = f"{file.path}, after row {number}" if number > first else file.path
        message = f"{position}: cannot be read as {file.format}: {to_single_line(error)}"
        is_supported = not isinstance(error, pa.ArrowNotImplementedError)
        raise DataError(message + "; the file may be damaged or incomplete" * is_supported) from error


def read_start(file: SourceFile, open_batches: OpenBatches, num_rows: int) -> tuple[list[str], list[list[object]]]:
    """Return the names of the columns that may hold texts or labels, and their values in the first rows.

    If there are fewer than two such columns, all of them. DataError if they cannot be read.
    """
    try:
        with open_batches(file.path) as batch_file:
            class_names = _find_class_names(file.path, batch_file.schema) | dict(file.class_names)
            usable = [field.name for field in batch_file.schema if is_label(field.type) or is_list(field.type)]
            names = usable if len(usable) > 1 else batch_file.schema.names
            rows: list[list[object]] = []
            for batch, _ in batch_file.iter_batches(names):
                batch = batch.select(names)
                columns = zip(batch.schema.names, batch.slice(0, num_rows).columns, strict=True)
                values = [list_values(column, class_names.get(name)) for name, column in columns]
                rows += [list(row) for row in zip(*values, strict=True)]
                if len(rows) >= num_rows:
                    break
            return [normalize_name(name) for name in names], rows[:num_rows]
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file.path}: cannot be read as {file.format}: {to_single_line(error)}") from error


class _Columns:
    """The columns of a file that hold its texts and labels; errors as of `read_batches`."""

    def __init__(self, file: SourceFile, options: ReadOptions, schema: pa.Schema) -> None:
        names = [normalize_name(name) for name in schema.names]
        indices = [find_column(file.path, names, key, name) for key, name in options.columns.items()]
        self.names = list(dict.fromkeys(schema.names[index] for index in indices))
        selected = options.selected
        self.to_read: list[str] | None = self.names
        if options.with_records:
            self.to_read = None
            if selected is not None and {*selected} <= {*names}:
                self.to_read = [name for name in schema.names if name in self.names or normalize_name(name) in selected]
        self._file, self._options = file, options
        self._text, self._label = self.names[0], self.names[-1]
        self._class_names = _find_class_names(file.path, schema) | dict(file.class_names)
        self._parser = LabelParser(file, options.data.label_column, options.data)
        if options.with_records:
            check_names_differ(file.path, names)
        if not is_text(schema.field(self._text).type):
            kind = schema.field(self._text).type
            raise DataError(f"{file.path}: the column '{self._text}' (data.text_column) holds {kind}, not strings")
        if options.labelled:
            self._check_label_type(schema.field(self._label).type)

    def select(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Return the columns that are read, with types that Arrow can filter."""
        batch = batch if self.to_read is None else batch.select(self.to_read)
        for index, field in enumerate(batch.schema):
            kind = replace_views(field.type)
            if kind != field.type:
                batch = batch.set_column(index, field.with_type(kind), batch.column(index).cast(kind))
        return batch

    def iter_rows(self, batch: pa.RecordBatch, start: int) -> Iterator[Row]:
        """Return the rows of a batch, whose values are already converted; start: the number of rows before it."""
        batch, numbers = self.drop_invalid(batch, start)
        texts = self.list_texts(batch)
        labels: Sequence[object] = [""] * len(texts)
        if self._options.labelled:
            labels = list_values(batch.column(self._label), self._class_names.get(self._label))
        records: Sequence[Record | None] = [None] * len(texts)
        if self._options.with_records:
            records = build_records(batch, self._class_names)
        rows = zip(texts, labels, records, strict=True)
        return (
            (number, text, self._parser.parse(number, value) if self._options.labelled else "", record)
            for number, (text, value, record) in zip(numbers, rows, strict=True)
        )

    def encode_rows(self, batch: pa.RecordBatch, start: int) -> EncodedRows:
        """Return the rows of a batch, which has no records; errors as of `encode_batches`."""
        texts, labels = decode_dictionary(batch.column(self._text)), batch.column(self._label)
        labels.validate(full=True)
        if texts.null_count or labels.null_count:
            raise DataError(f"{self._file.path}: a text or a label is null")
        if pa.types.is_dictionary(labels.type):
            encoded = labels.indices.dictionary_encode()
            values: list[object] = labels.dictionary.take(encoded.dictionary).to_pylist()
        else:
            encoded = labels.dictionary_encode()
            values = list_values(encoded.dictionary, self._class_names.get(self._label))
        names = [self._parser.parse(start + 1, value) for value in values]
        return EncodedRows(encode_column(texts), start + 1, names, encoded.indices.to_numpy())

    def drop_invalid(self, batch: pa.RecordBatch, start: int) -> tuple[pa.RecordBatch, Sequence[int]]:
        """Return the rows of a batch that have a text, and their numbers; start: the number of rows before it."""
        numbers: Sequence[int] = range(start + 1, start + 1 + len(batch))
        reasons = self._find_invalid_rows(batch)
        if not reasons:
            return batch, numbers
        for index, reason in sorted(reasons.items()):
            error = DataError(f"{self._file.describe_position(numbers[index])}: {reason}")
            self._options.reject(self._file, numbers[index], error)
        is_valid = [index not in reasons for index in range(len(batch))]
        return batch.filter(pa.array(is_valid)), list(itertools.compress(numbers, is_valid))

    def _find_invalid_rows(self, batch: pa.RecordBatch) -> dict[int, str]:
        """Return what is wrong with rows, by index: a text that is null, and values that are not UTF-8."""
        reasons = {}
        for name, column in zip(batch.schema.names, map(decode_dictionary, batch.columns), strict=True):
            is_column_of_texts = name == self._text
            if is_text(column.type):
                noun = "text" if is_column_of_texts else "value"
                for index, reason in find_invalid_texts(column).items():
                    reasons[index] = f"the {noun} in '{name}' is not UTF-8: {reason}"
            if is_column_of_texts and column.null_count:
                for index in np.flatnonzero(column.is_null()).tolist():
                    reasons[index] = f"the text in '{name}' is null; fill it in or remove the row"
        return reasons

    def list_texts(self, batch: pa.RecordBatch) -> list[str]:
        """Return the texts of a batch, none of which is null."""
        texts: list[str] = decode_dictionary(batch.column(self._text)).to_numpy(zero_copy_only=False).tolist()
        return texts

    def name_classes(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Return a batch with names in Unicode NFC, and with the names of classes instead of their numbers."""
        columns, fields = list(batch.columns), []
        for index, field in enumerate(batch.schema):
            names = self._class_names.get(field.name)
            if names is not None and has_class_numbers(field.type):
                kind = pa.list_(pa.string()) if is_list(field.type) else pa.string()
                columns[index] = pa.array(map(name_classes, list_values(columns[index], names)), kind)
                field = pa.field(field.name, kind)
            fields.append(field.with_name(normalize_name(field.name)))
        metadata = {key: value for key, value in (batch.schema.metadata or {}).items() if key != b"huggingface"}
        return pa.RecordBatch.from_arrays(columns, schema=pa.schema(fields, metadata))

    def _check_label_type(self, kind: pa.DataType) -> None:
        column = f"{self._file.path}: the column '{self._label}' (data.label_column) holds"
        if is_list(kind):
            if not self._options.data.is_multi_label:
                raise DataError(f"{column} {kind}; {SINGLE_LABEL}")
            kind = kind.value_type
        if not is_label(kind):
            raise DataError(f"{column} {kind}, neither strings nor numbers nor booleans")


def _find_class_names(path: str, schema: pa.Schema) -> dict[str, Sequence[str]]:
    """Return the class names that the library `datasets` wrote into the schema of a file, by column."""
    try:
        metadata = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        return parse_class_names(path, metadata.get("info", {}).get("features", {}))
    except (ValueError, AttributeError):
        return {}
