"""Blocks of rows of large sources, compared with the rows of the readers of the formats."""

from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import Mock

from jobs.config.formats import FormatName
from jobs.config.settings import DataSettings
from jobs.datasets.formats.rows import DataError, ReadOptions, SourceFile
from jobs.datasets.prepared.row_blocks import read_blocks
from jobs.datasets.readers import iter_rows


def _read(read_rows: Callable[[], Iterator[tuple[int, str, str]]]) -> tuple[list[tuple[int, str, str]], str]:
    """Return rows, and the message of the error that ends them."""
    rows = []
    try:
        for row in read_rows():
            rows.append(row)
    except DataError as error:
        return rows, str(error)
    return rows, ""


def iter_blocks(file: SourceFile, options: ReadOptions) -> Iterator[tuple[int, str, str]]:
    """Yield the rows of a file as blocks have them: line, text and label."""
    for block in read_blocks(file, options, iter_rows, None):
        content, bounds = block.content.tobytes(), block.offsets.tolist()
        for row, line in enumerate(block.lines.tolist()):
            text = content[bounds[row] : bounds[row + 1]].decode()
            yield line, text, str(block.labels[block.label_indices[row]])


def check_blocks(path: Path, kind: FormatName, data: DataSettings) -> str:
    """Check that blocks have the rows of the reader up to an error, and return the error.

    Where a field of a tsv file starts with a quote, the reader decodes the next lines before it parses the row.
    """
    file, options = SourceFile(str(path), kind), ReadOptions(data)
    expected, error = _read(lambda: ((line, text, str(label)) for line, text, label, _ in iter_rows(file, options)))
    rows, message = _read(lambda: iter_blocks(file, options))
    reads_ahead = kind == "tsv" and "byte 0x" in error
    assert message == error or (reads_ahead and "columns" in message)
    if reads_ahead:
        rows = rows[: len(expected)]
    assert rows == (expected[: len(rows)] if error else expected)  # the block with the error has no rows
    return error


def count_fast_rows(path: Path, kind: FormatName) -> int:
    """Return the number of rows of a file, whose reader in Python is not called."""
    file, read_file = SourceFile(str(path), kind), Mock(side_effect=AssertionError)
    return sum(len(block.lines) for block in read_blocks(file, ReadOptions(DataSettings()), read_file, None))
