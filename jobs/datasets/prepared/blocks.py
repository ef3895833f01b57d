"""Blocks of whole rows of a text file, which are read one after the other and parsed in parallel."""

import codecs
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from cluster.input_files import open_decompressed
from jobs.datasets.formats.delimited import DelimitedHeader, read_header
from jobs.datasets.formats.rows import FilePart, ReadOptions, SourceFile
from jobs.datasets.prepared import row_kernel

BLOCK_BYTES = 1 << 20
MAX_BLOCK_BYTES = 1 << 28

FindCut = Callable[[np.ndarray], int]


class NotDivisibleError(Exception):
    """The rows of a file can only be read one after the other."""


@dataclass(frozen=True)
class RowParser:
    """Compiled parser of the rows of a file.

    read, columns: function of row_kernel.py, and its second argument. find_quoted_cut: as of `iter_blocks`.
    """

    read: Callable[[np.ndarray, row_kernel.Columns, row_kernel.Rows], int]
    columns: row_kernel.Columns = (0, 0, 0, 0)
    find_quoted_cut: FindCut | None = None


def is_encoded_in_utf8(options: ReadOptions) -> bool:
    """Return whether files of text are in UTF-8."""
    try:
        return codecs.lookup(options.data.encoding).name in ("utf-8", "utf-8-sig")
    except LookupError:
        return False


def find_parser(file: SourceFile, options: ReadOptions) -> tuple[RowParser, DelimitedHeader | None] | None:
    """Return the compiled parser of a file in UTF-8, and the header of csv and tsv; None if there is none.

    Raises:
        DataError, StorageError: as of `read_delimited`.
    """
    if file.format == "fasttext":
        return RowParser(row_kernel.read_fasttext), None
    if file.format not in ("csv", "tsv"):
        return None
    header = read_header(file, options)
    if not header.delimiter.isascii() or header.delimiter in '"\r\n\0':
        return None
    delimiter = ord(header.delimiter)
    columns = (delimiter, header.num_columns, header.text_column, header.label_column)
    if header.is_raw:
        return RowParser(row_kernel.read_tsv, columns, find_quoted_cut=row_kernel.find_tsv_cut), header
    find_cut = partial(row_kernel.find_csv_cut, delimiter=delimiter)
    return RowParser(row_kernel.read_csv, columns, find_quoted_cut=find_cut), header


def iter_blocks(
    file: SourceFile, header: DelimitedHeader | None = None, find_quoted_cut: FindCut | None = None
) -> Iterator[FilePart]:
    """Yield the blocks of a file, with their content.

    Args:
        find_quoted_cut: returns the end of the last row in content with quotes after which another one starts, 0 if
            there is none; None: each line is a row.

    Raises:
        NotDivisibleError: the end of a row cannot be found.
        StorageError: the file cannot be opened. Reading may raise `READ_ERRORS`.
    """
    num_before = header.last_line if header else 0
    header_lines = header.lines if header else ()
    with open_decompressed(file.path) as stream:
        for _ in range(num_before):
            stream.readline()
        rest = b""
        while block := stream.read(BLOCK_BYTES):
            content = rest + block
            cut = _find_cut(content, find_quoted_cut)
            if cut:
                part, rest = content[:cut], content[cut:]
                yield FilePart(0, len(part), num_before, header_lines, part)
                num_before += part.count(b"\n")
            elif len(content) > MAX_BLOCK_BYTES:
                raise NotDivisibleError
            else:
                rest = content
        if rest:
            yield FilePart(0, len(rest), num_before, header_lines, rest)


def _find_cut(content: bytes, find_quoted_cut: FindCut | None) -> int:
    """Return the end of the last row after which another one starts, 0 if there is none."""
    if find_quoted_cut is None or b'"' not in content:
        return content.rfind(b"\n") + 1
    return find_quoted_cut(np.frombuffer(content, np.uint8))
