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
# To read the last part of a row group, all of the group is decoded: with four parts 2.5 times as many rows in all.
MAX_GROUP_PARTS = 4


def divide_file(file: SourceFile, options: ReadOptions, part_bytes: int) -> list[SourceFile]:
    """Return the parts of a file, in their order; none if it has no rows.

    A compressed file is one part, as are Arrow files, and text files at a URI or in a rare encoding.

    Raises:
        DataError: the file cannot be read, or has no header.
        StorageError: the file cannot be opened.
    """
    try:
        if not is_divisible(file, options):
            return [file]
        if file.format == "parquet":
            parts = _divide_parquet(file, part_bytes)
        elif file.format in ("csv", "tsv"):
            parts = divide_delimited(file, options, part_bytes)
        else:
            with open_decompressed(file.path) as lines:
                cuts = cut_at_lines(lines, part_bytes) or []
            parts = [FilePart(start, end, number) for (number, start), (_, end) in itertools.pairwise(cuts)]
    except (*READ_ERRORS, pa.ArrowException) as error:
        raise DataError(f"{file.path}: cannot be read: {to_single_line(error)}") from error
    return [replace(file, part=part) for part in parts]


def is_divisible(file: SourceFile, options: ReadOptions) -> bool:
    """Return whether a file can have several parts.

    Raises:
        StorageError: the file cannot be opened. Reading its first bytes may raise `READ_ERRORS`.
    """
    with open_stream(file.path) as stream:
        is_compressed = stream.peek(4)[:4].startswith((GZIP_MAGIC, ZSTD_MAGIC))
    if is_compressed or file.format == "arrow":
        return False
    return file.format == "parquet" or (not is_uri(file.path) and _has_divisible_encoding(options))


def _has_divisible_encoding(options: ReadOptions) -> bool:
    """Return whether the bytes of line ends, quotes and delimiters are only these; unknown encodings are not."""
    try:
        name = codecs.lookup(options.data.encoding).name
    except LookupError:
        return False
    return name in DIVISIBLE_ENCODINGS and (options.data.delimiter or ",").isascii()


def _divide_parquet(file: SourceFile, part_bytes: int) -> list[FilePart]:
    """Return parts of whole row groups; a larger group than a part is divided by itself."""
    import pyarrow.parquet

    with open_random_access(file.path) as source:
        metadata = pyarrow.parquet.ParquetFile(source).metadata
    cuts = {0, metadata.num_rows}
    num_rows = part_size = 0
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        if part_size + group.total_byte_size > part_bytes:
            cuts.add(num_rows)
            part_size = 0
        num_parts = min(MAX_GROUP_PARTS, math.ceil(group.total_byte_size / part_bytes))
        cuts.update(num_rows + group.num_rows * index // num_parts for index in range(1, num_parts))
        num_rows += group.num_rows
        part_size += group.total_byte_size
    return [FilePart(start, end, start) for start, end in itertools.pairwise(sorted(cuts))]
