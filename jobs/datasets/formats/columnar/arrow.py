"""Arrow files of record batches: the file format, which Feather is, and the stream format."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.ipc

from cluster.input_files import open_random_access
from jobs.datasets.formats.columnar.record_batches import BatchFile, read_batches
from jobs.datasets.formats.rows import ReadOptions, Row, SourceFile

FILE_MAGIC = b"ARROW1"
END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"


def read_arrow(file: SourceFile, options: ReadOptions) -> Iterator[Row]:
    """Yield the rows of an Arrow file or stream; errors as of `read_batches`."""
    return read_batches(file, options, open_arrow)


@contextmanager
def open_arrow(path: str) -> Iterator[BatchFile]:
    """Yield the batches of an Arrow file or stream at a path or URI."""
    with open_random_access(path) as source:
        magic = source.read(len(FILE_MAGIC))
        if magic.startswith(b"FEA1"):
            raise pa.ArrowInvalid("it is a Feather file of version 1; write it again with version 2")
        source.seek(0)
        reader = pyarrow.ipc.open_file(source) if magic == FILE_MAGIC else pyarrow.ipc.open_stream(source)

        def iter_batches(columns: Sequence[str] | None) -> Iterator[tuple[pa.RecordBatch, int]]:
            if isinstance(reader, pyarrow.ipc.RecordBatchFileReader):
                for index in range(reader.num_record_batches):
                    batch = reader.get_batch(index)
                    yield batch, batch.nbytes
                return
            for batch in reader:
                yield batch, batch.nbytes
            # Without this check, a stream that is cut between two batches would have fewer rows without an error.
            source.seek(max(0, source.size() - len(END_OF_STREAM)))
            if source.read() != END_OF_STREAM:
                raise pa.ArrowInvalid("the stream has no end marker")

        yield BatchFile(reader.schema, iter_batches)
