"""Parquet files: row groups of columns; only the columns of texts and labels are read."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pyarrow as pa

from cluster.input_files import open_random_access
from jobs.datasets.formats.record_batches import SLICE_ROWS, BatchFile, read_batches
from jobs.datasets.formats.rows import ReadOptions, Row, SourceFile


def read_parquet(file: SourceFile, options: ReadOptions) -> Iterator[Row]:
    """Yield the rows of a parquet file; errors as of `read_batches`."""
    return read_batches(file, options, open_parquet)


@contextmanager
def open_parquet(path: str) -> Iterator[BatchFile]:
    """Yield the batches of a parquet file at a path or URI."""
    import pyarrow.parquet

    with open_random_access(path) as source:
        num_bytes = source.size()
        parquet = pyarrow.parquet.ParquetFile(source)

        def iter_batches(columns: Sequence[str] | None) -> Iterator[tuple[pa.RecordBatch, int]]:
            num_rows = max(1, parquet.metadata.num_rows)
            for batch in parquet.iter_batches(SLICE_ROWS, columns=columns):
                yield batch, num_bytes * len(batch) // num_rows

        yield BatchFile(parquet.schema_arrow, iter_batches)
