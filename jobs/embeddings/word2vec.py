"""word2vec files: reader of binary and text files, also GloVe and fastText text; writer of binary files.

GloVe text lacks the first line of word2vec text. Rows are read one after the other, and only those that the caller
selects are converted to numbers, so that a file of 3 million words takes a fraction of the time and memory of
reading it whole (`python benchmarks/vectors.py`).
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO

import numpy as np

from cluster import UsageError

logger = logging.getLogger(__name__)

MAX_WORD_BYTES = 4096  # more bytes without a space: not a vectors file
MAX_DIMENSIONS = 10_000
MAX_ABSOLUTE_VALUE = 1e6
MAX_ROW_BYTES = MAX_WORD_BYTES + 32 * MAX_DIMENSIONS  # of text
CHUNK_BYTES = 1 << 18  # stays in the processor's cache while its rows are parsed

BOM = b"\xef\xbb\xbf"

Row = tuple[str, np.ndarray]
"""A word and its vector, `(dimensions,)` float32."""


class VectorsError(UsageError):
    """A vectors file is missing or invalid."""


def parse_vectors(
    location: str, stream: BinaryIO, format: str, errors: str, keep: Callable[[str], bool]
) -> Iterator[Row]:
    """Yield the words for which `keep` returns true with their vectors, in the order of the file.

    Args:
        location: name of the file in messages.
        stream: the decompressed file, at its start.
        format: auto, word2vec-binary, word2vec-text (the first line has two numbers) or glove (no such line).
        errors: handling of words that are not UTF-8, as in `bytes.decode`.
        keep: called with every word of the file.

    Raises:
        VectorsError: the file is of another format, or broken; names the line or word.
    """
    first = stream.readline(MAX_ROW_BYTES).removeprefix(BOM)
    header = _parse_header(first)
    if header is None:
        if format.startswith("word2vec"):
            raise VectorsError(f"{location}: the first line is not that of a word2vec file, two numbers")
        dimensions = len(first.split()) - 1
        if dimensions < 2 or _parse_text_row(first, dimensions) is None:
            raise VectorsError(f"{location}: is neither word2vec (binary or text) nor GloVe text")
        yield from _iter_text_rows(location, stream, dimensions, None, first, errors, keep)
        return
    if format == "glove":
        raise VectorsError(f"{location}: the first line has two numbers, as in word2vec files, not in GloVe text")
    count, dimensions = header
    if not 0 < dimensions <= MAX_DIMENSIONS:
        raise VectorsError(
            f"{location}: the first line says {dimensions} dimensions; up to {MAX_DIMENSIONS:,} are read"
        )
    start = stream.readline(MAX_ROW_BYTES)
    is_text = _looks_like_text(start, dimensions) if format == "auto" else format == "word2vec-text"
    iter_rows = _iter_text_rows if is_text else _iter_binary_rows
    yield from iter_rows(location, stream, dimensions, count, start, errors, keep)


def write_binary(stream: BinaryIO, count: int, dimensions: int, rows: Iterable[Row]) -> None:
    """Write word2vec binary, as gensim's `load_word2vec_format(binary=True)` and the original tool read it."""
    stream.write(f"{count} {dimensions}\n".encode())
    for word, vector in rows:
        stream.write(word.encode("utf-8") + b" " + np.ascontiguousarray(vector, "<f4").tobytes())


def is_single_token(word: str) -> bool:
    """Return whether a word can be a token and a word of a word2vec file: not empty, without white space."""
    return word.split() == [word]


def decode_word(location: str, raw: bytes, errors: str) -> str:
    """Return the text of a word; VectorsError if it is not UTF-8 and `errors` is strict."""
    try:
        return raw.decode("utf-8", errors)
    except UnicodeDecodeError as error:
        raise VectorsError(
            f"{location}: the word {raw[:40]!r} is not UTF-8; set vectors.unicode_errors to replace or ignore"
        ) from error


def check_finite(location: str, vector: np.ndarray) -> np.ndarray:
    """Return the argument, one vector or several; VectorsError if it contains NaN, or numbers beyond the limit."""
    if not np.abs(vector).max(initial=0) < MAX_ABSOLUTE_VALUE:  # false for NaN too
        raise VectorsError(f"{location}: the vector contains NaN, or numbers beyond {MAX_ABSOLUTE_VALUE:g}")
    return vector


def _parse_header(line: bytes) -> tuple[int, int] | None:
    fields = line.split()
    if len(fields) == 2 and all(field.isdigit() and len(field) < 16 for field in fields):
        return int(fields[0]), int(fields[1])
    return None


def _parse_text_row(line: bytes, dimensions: int) -> tuple[bytes, np.ndarray] | None:
    fields = line.lstrip().rsplit(None, dimensions)
    # Words of GloVe may contain spaces. A number after the last space is not part of a word: the row is too long.
    if len(fields) != dimensions + 1 or (b" " in fields[0] and _is_number(fields[0].rsplit(b" ", 1)[1])):
        return None
    try:
        with np.errstate(over="ignore"):  # too large for float32: infinite
            return fields[0], np.array([float(field) for field in fields[1:]]).astype(np.float32)
    except ValueError:
        return None


def _looks_like_text(line: bytes, dimensions: int) -> bool:
    """Return whether a line is a row of text, perhaps a broken one, rather than the start of binary rows."""
    if _parse_text_row(line, dimensions) is not None:
        return True
    fields = line.split()
    is_long_enough = len(fields) - 1 >= max(2, dimensions // 2)
    return is_long_enough and sum(_is_number(field) for field in fields[1:]) >= (len(fields) - 1) / 2


def _is_wordless(line: bytes, dimensions: int) -> bool:
    """Return whether a row that starts with white space consists of numbers only."""
    fields = line.split()
    return len(fields) == dimensions and all(map(_is_number, fields))


def _is_number(field: bytes) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def _iter_text_rows(
    location: str,
    stream: BinaryIO,
    dimensions: int,
    count: int | None,
    line: bytes,
    errors: str,
    keep: Callable[[str], bool],
) -> Iterator[Row]:
    """Yield rows of a text file, starting with `line`: the first, or the second if the first contains the count."""
    number = 1 if count is None else 2
    rows = wordless = 0
    while line:
        if len(line) >= MAX_ROW_BYTES:
            raise VectorsError(f"{location}, line {number}: is longer than any row; not word2vec or GloVe text")
        if line.strip():
            rows += 1
            if count is not None and rows > count:
                raise VectorsError(f"{location}: holds more than the {count:,} words that its first line announces")
            row_location = f"{location}, line {number}"
            if line[:1].isspace() and _is_wordless(line, dimensions):
                wordless += 1
            elif keep(decode_word(row_location, line.split(None, 1)[0], errors)):
                row = _parse_text_row(line, dimensions)
                if row is None:
                    raise VectorsError(f"{row_location}: is not a word and {dimensions} numbers")
                yield decode_word(row_location, row[0], errors), check_finite(row_location, row[1])
        line = stream.readline(MAX_ROW_BYTES)
        number += 1
    if count is not None and rows < count:
        raise VectorsError(_format_truncation(location, rows, count))
    _log_wordless(location, wordless)


def _iter_binary_rows(
    location: str,
    stream: BinaryIO,
    dimensions: int,
    count: int,
    buffer: bytes,
    errors: str,
    keep: Callable[[str], bool],
) -> Iterator[Row]:
    """Yield rows of a binary file whose first bytes after the header are in `buffer`."""
    size = 4 * dimensions
    start = wordless = 0
    selected: list[tuple[int, str, int]] = []  # rows in the buffer: number, word, start of the vector
    for number in range(1, count + 1):
        end = buffer.find(b" ", start, start + MAX_WORD_BYTES)
        while end < 0 or end + 1 + size > len(buffer):
            if end < 0 and len(buffer) - start >= MAX_WORD_BYTES:
                raise VectorsError(
                    f"{location}, word {number}: is longer than {MAX_WORD_BYTES} bytes; not word2vec binary"
                )
            yield from _read_selected(location, buffer, dimensions, selected)
            selected.clear()
            chunk = stream.read(CHUNK_BYTES)
            if not chunk:
                raise VectorsError(_format_truncation(location, number - 1, count))
            buffer, start = buffer[start:] + chunk, 0
            end = buffer.find(b" ", 0, MAX_WORD_BYTES)
        raw = buffer[start:end].lstrip(b"\n")  # the original tool ends each row with a line feed
        try:
            word = raw.decode("utf-8")
        except UnicodeDecodeError:
            word = decode_word(f"{location}, word {number}", raw, errors)
        if not word:
            wordless += 1
        elif keep(word):
            selected.append((number, word, end + 1))
        start = end + 1 + size
    yield from _read_selected(location, buffer, dimensions, selected)
    if (buffer[start:] + stream.read(CHUNK_BYTES)).strip(b"\n"):
        raise VectorsError(
            f"{location}: holds more than the {count:,} words of {dimensions} dimensions that its first line "
            "announces, or is neither word2vec binary nor word2vec text"
        )
    _log_wordless(location, wordless)


def _read_selected(location: str, buffer: bytes, dimensions: int, rows: list[tuple[int, str, int]]) -> Iterator[Row]:
    """Yield selected rows of a buffer, which are converted and checked together: one by one that takes longer."""
    content = b"".join([buffer[start : start + 4 * dimensions] for _, _, start in rows])
    vectors = np.frombuffer(content, "<f4").astype(np.float32, copy=False).reshape(len(rows), dimensions)
    try:
        check_finite(location, vectors)
    except VectorsError:
        for (number, _, _), vector in zip(rows, vectors, strict=True):
            check_finite(f"{location}, word {number}", vector)
    yield from zip([word for _, word, _ in rows], vectors, strict=True)


def _format_truncation(location: str, rows: int, count: int) -> str:
    return f"{location}: ends after {rows:,} of the {count:,} words that its first line announces"


def _log_wordless(location: str, rows: int) -> None:
    if rows:
        logger.info(f"{location}: skipped {rows:,} rows without a word")
