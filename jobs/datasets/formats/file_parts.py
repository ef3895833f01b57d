"""Parts of files that several processes read, each by itself: whole rows of about the same number of bytes."""

import codecs
import itertools
import math
from dataclasses import replace

import pyarrow as pa

from cluster import to_single_line
from cluster.input_files import GZIP_MAGIC, READ_ERRORS, ZSTD_MAGIC, open_decompressed, open_random_access, open_stream
from cluster.storage import is_uri
from jobs.datasets.formats.delimited import divide_delimited
from jobs.datasets.formats.rows import DataError, FilePart, ReadOptions, SourceFile
from jobs.datasets.formats.text_lines import cut_at_lines

# Encodings in which no byte of another character is one of ASCII.
DIVISIBLE_ENCODINGS = ("utf-8", "utf-8-sig", "ascii", "iso8859-1", "iso8859-15", "cp1252")


def divide_file(file: SourceFile, options: ReadOptions, part_bytes: int) -> list[SourceFile]:
    """Return the parts of a file, in their order; none if it has no rows.

    A compressed file is one part, as are Arrow files, and text files at a URI or in a rare encoding.

    Raises:
        DataError: the file cannot be read, or has no header.
        StorageError: the file cannot be opened.
    """
    try:
        with open_stream(file.path) as stream:
            is_compressed = stream.peek(4)[:4].startswith((GZIP_MAGIC, ZSTD_MAGIC))
        if is_compressed or file.format == "arrow":
            return [file]
        if file.format == "parquet":
            parts = _divide_parquet(file, part_bytes)
        elif is_uri(file.path) or not _is_divisible(options):
            return [file]
        elif file.format in ("csv", "tsv"):
            parts = divide_delimited(file, options, part_bytes)
        else:
            with open_decompressed(file.path) as lines:
                cuts = cut_at_lines(lines, part_bytes) or []
            parts = [FilePart(start, end, number) for (number, start), (_, end) in itertools.pairwise(cuts)]
    except (*READ_ERRORS, pa.ArrowException) as error:
        raise DataError(f"{file.path}: cannot be read: {to_single_line(error)}") from error
    return [replace(file, part=part) for part in parts]


def _is_divisible(options: ReadOptions) -> bool:
    """Return whether the bytes of line ends, quotes and delimiters are only these; unknown encodings are not."""
    try:
        name = codecs.lookup(options.data.encoding).name
    except LookupError:
        return False
    return name in DIVISIBLE_ENCODINGS and (options.data.delimiter or ",").isascii()


def _divide_parquet(file: SourceFile, part_bytes: int) -> list[FilePart]:
    import pyarrow.parquet

    with open_random_access(file.path) as source:
        metadata = pyarrow.parquet.ParquetFile(source).metadata
        num_bytes = sum(metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups))
        num_rows = metadata.num_rows
    size = math.ceil(num_rows / max(1, math.ceil(num_bytes / part_bytes))) or 1
    return [FilePart(start, min(start + size, num_rows), start) for start in range(0, num_rows, size)]
