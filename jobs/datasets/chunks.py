"""Chunks of the rows of files, so that the memory of a command that streams them does not grow with the files."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from cluster.storage import StorageError
from jobs.datasets.formats.arrow import open_arrow
from jobs.datasets.formats.file_parts import divide_file
from jobs.datasets.formats.parquet import open_parquet
from jobs.datasets.formats.record_batches import stream_batches
from jobs.datasets.formats.rows import DataError, ReadOptions, Record, SourceFile
from jobs.datasets.readers import BINARY_FORMATS, iter_rows

if TYPE_CHECKING:
    from pyarrow import RecordBatch

MAX_ROWS = 16_384  # of a chunk
MAX_CHARACTERS = 1 << 22  # of a chunk's texts; the last one may be longer
SCANNED_FORMATS = ("jsonl", "fasttext")  # any line may have other columns than the first one
INT64 = range(-(1 << 63), 1 << 63)

ColumnTypes = dict[str, set[type]]
"""Types of the values of each column; `object` stands for integers of more than 64 bits."""


@dataclass(frozen=True)
class Chunk:
    """Consecutive rows: texts, and the values of all columns, either as records or as a batch of Arrow."""

    texts: list[str]
    records: Sequence[Record]
    batch: "RecordBatch | None" = None


def iter_chunks(files: Sequence[SourceFile], options: ReadOptions, *, as_batches: bool = False) -> Iterator[Chunk]:
    """Yield the rows of files, or of their parts, in their order.

    Args:
        options: with records, without labels.
        as_batches: the rows of files of parquet and Arrow are batches.

    Raises:
        DataError: a file is damaged, or a row has no text.
    """
    if not (as_batches and files and files[0].format in BINARY_FORMATS):
        rows = (row for file in files for row in iter_rows(file, options))
        yield from group_rows((text, record or {}) for _, text, _, record in rows)
        return
    for file in files:
        open_batches = open_arrow if file.format == "arrow" else partial(open_parquet, part=file.part)
        try:
            for texts, batch in stream_batches(file, options, open_batches):
                yield Chunk(texts, (), batch)
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


def scan_columns(files: Iterable[SourceFile], options: ReadOptions) -> ColumnTypes:
    """Return the columns of files in the order of their occurrence; empty if there are no rows.

    All rows of SCANNED_FORMATS are read, of other formats the first row of each file.

    Raises:
        DataError: a file is missing or damaged, or a row that is read is invalid.
    """
    columns: ColumnTypes = {}
    for file in files:
        rows = iter_rows(file, options)
        for _, _, _, record in rows if file.format in SCANNED_FORMATS else itertools.islice(rows, 1):
            for name, value in (record or {}).items():
                kind = object if type(value) is int and value not in INT64 else type(value)
                columns.setdefault(name, set()).add(kind)
    return columns


def divide_files(files: Iterable[SourceFile], options: ReadOptions, part_bytes: int) -> list[SourceFile]:
    """Return the parts of files, in their order, each of whole rows and about some bytes; errors of `divide_file`."""
    try:
        return [part for file in files for part in divide_file(file, options, part_bytes)]
    except StorageError as error:
        raise DataError(str(error)) from error
