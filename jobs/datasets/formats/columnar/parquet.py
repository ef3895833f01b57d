"""Parquet files: row groups of columns; only the columns of texts and labels are read."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import pyarrow as pa

from cluster.input_files import open_random_access
from jobs.datasets.formats.columnar.record_batches import SLICE_ROWS, BatchFile, read_batches
from jobs.datasets.formats.rows import FilePart, ReadOptions, Row, SourceFile

if TYPE_CHECKING:
    from pyarrow.parquet import FileMetaData


def read_parquet(file: SourceFile, options: ReadOptions) -> Iterator[Row]:
    """Yield the rows of a parquet file; errors as of `read_batches`."""
    return read_batches(file, options, partial(open_parquet, part=file.part))


@contextmanager
def open_parquet(path: str, part: FilePart | None = None) -> Iterator[BatchFile]:
    """Yield the batches of a parquet file at a path or URI, or of a part of its rows."""
    import pyarrow.parquet

    with open_random_access(path) as source:
        num_bytes = source.size()
        parquet = pyarrow.parquet.ParquetFile(source)

        def iter_batches(columns: Sequence[str] | None) -> Iterator[tuple[pa.RecordBatch, int]]:
            num_rows = max(1, parquet.metadata.num_rows)
            start, end = (part.start, part.end) if part else (0, num_rows)
            groups, position = _select_groups(parquet.metadata, start, end)
            size = min(SLICE_ROWS, max(1, end - start))
            for batch in parquet.iter_batches(size, row_groups=groups, columns=columns):
                inside = batch.slice(max(0, start - position), max(0, end - max(start, position)))
                position += len(batch)
                yield inside, num_bytes * len(inside) // num_rows
                if position >= end:
                    break

        yield BatchFile(parquet.schema_arrow, iter_batches)


def _select_groups(metadata: "FileMetaData", start: int, end: int) -> tuple[list[int], int]:
    """Return the row groups that contain some rows, and the number of the rows before these groups."""
    groups: list[int] = []
    num_before = position = 0
    for group in range(metadata.num_row_groups):
        size = metadata.row_group(group).num_rows
        if position < end and position + size > start:
            if not groups:
                num_before = position
            groups.append(group)
        position += size
    return groups, num_before
