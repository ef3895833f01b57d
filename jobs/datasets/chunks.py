"""Chunks of the rows of files, so that the memory of a command that streams them does not grow with the files."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from unicodedata import normalize

import msgspec
import pyarrow as pa

from cluster.storage import StorageError
from jobs.datasets.formats.columnar.arrow import open_arrow
from jobs.datasets.formats.columnar.column_values import require_equal_schemas
from jobs.datasets.formats.columnar.encoded_texts import EncodedTexts
from jobs.datasets.formats.columnar.parquet import open_parquet
from jobs.datasets.formats.columnar.record_batches import stream_batches
from jobs.datasets.formats.file_parts import divide_file
from jobs.datasets.formats.rows import DataError, ReadOptions, Record, SourceFile
from jobs.datasets.formats.text_lines import iter_lines
from jobs.datasets.readers import BINARY_FORMATS, iter_rows
from jobs.datasets.sources import map_files

MAX_ROWS = 16_384  # of a chunk
MAX_CHARACTERS = 1 << 22  # of a chunk's texts; the last one may be longer
SCANNED_FORMATS = ("jsonl", "fasttext")  # any line may have other columns than the first one
INT64 = range(-(1 << 63), 1 << 63)

ColumnTypes = dict[str, set[type]]
"""Types of the values of each column; `object` stands for integers of more than 64 bits."""


@dataclass(frozen=True)
class Chunk:
    """Consecutive rows: texts, and the values of all columns, either as records or as a batch of Arrow."""

    texts: Sequence[str]
    records: Sequence[Record]
    batch: pa.RecordBatch | None = None

    def select(self, indices: Sequence[int]) -> "Chunk":
        """Return some of the rows; DataError if Arrow lacks the operation for the type of a column."""
        try:
            batch = None if self.batch is None else self.batch.take(pa.array(indices, pa.int64()))
        except pa.ArrowNotImplementedError as error:
            raise DataError(f"{error}; leave the column out with --columns, or write jsonl") from error
        records = [self.records[index] for index in indices] if self.records else ()
        return Chunk([self.texts[index] for index in indices], records, batch)


def join_chunks(chunks: Sequence[Chunk]) -> Chunk:
    """Return the rows of all chunks; DataError if they are batches that differ in their columns or types."""
    texts = [text for chunk in chunks for text in chunk.texts]
    records = [record for chunk in chunks for record in chunk.records]
    batches = [chunk.batch for chunk in chunks if chunk.batch is not None]
    if not batches:
        return Chunk(texts, records)
    for batch in batches:
        require_equal_schemas(batches[0].schema, batch.schema, "write jsonl")
    [batch] = pa.Table.from_batches(batches).combine_chunks().to_batches()
    return Chunk(texts, records, batch)


def iter_chunks(files: Sequence[SourceFile], options: ReadOptions, *, as_batches: bool = False) -> Iterator[Chunk]:
    """Yield the rows of files, or of their parts, in their order.

    Args:
        options: with records, without labels.
        as_batches: the rows are batches if all files are of parquet and Arrow.

    Raises:
        DataError: a file is damaged, or a row has no text.
    """
    if not (as_batches and all(file.format in BINARY_FORMATS for file in files)):
        rows = (row for file in files for row in iter_rows(file, options))
        yield from group_rows((text, record or {}) for _, text, _, record in rows)
        return
    for file in files:
        for texts, batch in _stream_batches(file, options):
            yield Chunk(texts, (), batch)


def _stream_batches(file: SourceFile, options: ReadOptions) -> Iterator[tuple[EncodedTexts, pa.RecordBatch]]:
    open_batches = open_arrow if file.format == "arrow" else partial(open_parquet, part=file.part)
    try:
        yield from stream_batches(file, options, open_batches)
    except StorageError as error:
        raise DataError(str(error)) from error


def group_rows(rows: Iterable[tuple[str, Record]]) -> Iterator[Chunk]:
    """Yield chunks of texts and records."""
    texts: list[str] = []
    records: list[Record] = []
    num_characters = 0
    for text, record in rows:
        texts.append(text)
        records.append(record)
        num_characters += len(text)
        if len(texts) == MAX_ROWS or num_characters >= MAX_CHARACTERS:
            yield Chunk(texts, records)
            texts, records, num_characters = [], [], 0
    if texts:
        yield Chunk(texts, records)


def scan_columns(files: Sequence[SourceFile], options: ReadOptions) -> ColumnTypes:
    """Return the columns of files in the order of their occurrence; empty if there are no rows.

    All rows of SCANNED_FORMATS are read, of other formats the first row of each file; parquet and Arrow name
    the types.

    Raises:
        DataError: a file is missing or damaged, or a row that is read is invalid.
    """
    columns: ColumnTypes = {}
    for file_columns in map_files(lambda file: _scan_file(file, options), files):
        for name, kinds in file_columns.items():
            columns.setdefault(name, set()).update(kinds)
    return columns


def _scan_file(file: SourceFile, options: ReadOptions) -> ColumnTypes:
    if file.format in BINARY_FORMATS:
        return _scan_batches(file, options)
    columns = _scan_regular_lines(file, options) if file.format == "jsonl" else None
    return _scan_rows(file, options) if columns is None else columns


def _scan_batches(file: SourceFile, options: ReadOptions) -> ColumnTypes:
    """Return the columns of a parquet or Arrow file, also of those whose first rows are null."""
    for _, batch in _stream_batches(file, options):
        if len(batch):
            return {field.name: {_find_type(field.type)} for field in batch.schema}
    return {}


def _find_type(kind: pa.DataType) -> type:
    if pa.types.is_dictionary(kind):
        return _find_type(kind.value_type)
    if pa.types.is_boolean(kind):
        return bool
    if pa.types.is_floating(kind):
        return float
    if pa.types.is_integer(kind):
        return object if pa.types.is_uint64(kind) else int
    return str


def _scan_rows(file: SourceFile, options: ReadOptions) -> ColumnTypes:
    columns: ColumnTypes = {}
    rows = iter_rows(file, options)
    for _, _, _, record in rows if file.format in SCANNED_FORMATS else itertools.islice(rows, 1):
        for name, value in (record or {}).items():
            columns.setdefault(name, set()).add(_type_of(value))
    return columns


def _scan_regular_lines(file: SourceFile, options: ReadOptions) -> ColumnTypes | None:
    """Return the columns of a jsonl file; None if a line is perhaps invalid, which `iter_rows` finds out.

    It is several times as fast as `iter_rows`, and ignores that an object has a key twice.
    """
    decode, text_name = msgspec.json.Decoder(dict[str, Any]).decode, options.columns["text_column"]
    columns: ColumnTypes = {}
    try:
        for line in iter_lines(file, options):
            if line.isspace():
                continue
            row = decode(line)
            if type(row.get(text_name)) is not str:
                return None
            for name, value in row.items():
                kind = type(value)
                if kind is int or name not in columns or kind not in columns[name]:
                    columns.setdefault(name, set()).add(_type_of(value))
    except (DataError, StorageError, msgspec.MsgspecError, UnicodeEncodeError, RecursionError):
        return None
    names = [normalize("NFC", name) for name in columns]
    return dict(zip(names, columns.values(), strict=True)) if len({*names}) == len(names) else None


def _type_of(value: object) -> type:
    return object if type(value) is int and value not in INT64 else type(value)


def divide_files(files: Sequence[SourceFile], options: ReadOptions, part_bytes: int) -> list[SourceFile]:
    """Return the parts of files, in their order, each of whole rows and about some bytes; errors of `divide_file`."""
    try:
        parts = map_files(lambda file: divide_file(file, options, part_bytes), files)
        return [*itertools.chain.from_iterable(parts)]
    except StorageError as error:
        raise DataError(str(error)) from error
