"""word2vec files, row after row: binary and text, and GloVe and fastText text, which differ only in the first line.

Nothing is kept but the row at hand, and only the rows asked for are turned into numbers. That is why a
file of 3 million words is read in a fraction of the time and memory that it takes as a whole
(`python benchmarks/vectors.py`).
"""

from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO

import numpy as np

from cluster import UsageError

MAX_WORD_BYTES = 4096  # bytes; more without a space means that the file is no vectors file
MAX_DIMENSIONS = 10_000
MAX_ABSOLUTE_VALUE = 1e6
MAX_ROW_BYTES = MAX_WORD_BYTES + 32 * MAX_DIMENSIONS  # bytes, of text
CHUNK_BYTES = 1 << 18  # stays in the processor's cache while its rows are looked at

BOM = b"\xef\xbb\xbf"

Row = tuple[str, np.ndarray]


class VectorsError(UsageError):
    """A vectors file cannot be used."""


def parse_vectors(
    location: str, stream: BinaryIO, format: str, errors: str, keep: Callable[[str], bool]
) -> Iterator[Row]:
    """Yield the words that `keep` asks for, with their vectors, `(dimensions,)` float32, in the file's order.

    Args:
        where: what messages call the file.
        stream: the file, unpacked, at its start.
        format: auto, word2vec-binary, word2vec-text (with a first line of two numbers) or glove (without).
        errors: what is done with words that are not UTF-8, as in `bytes.decode`.
        keep: is asked for every word of the file.

    Raises:
        VectorsError: the file is of another format, or broken; says where.
    """
    first = stream.readline(MAX_ROW_BYTES).removeprefix(BOM)
    header = _header(first)
    if header is None:
        if format.startswith("word2vec"):
            raise VectorsError(
                f"{location}: does not begin with the two numbers of a word2vec file, words and dimensions"
            )
        dimensions = len(first.split()) - 1
        if dimensions < 2 or _text_row(first, dimensions) is None:
            raise VectorsError(f"{location}: is neither word2vec (binary or text) nor GloVe text")
        yield from _text_rows(location, stream, dimensions, None, first, errors, keep)
        return
    if format == "glove":
        raise VectorsError(f"{location}: begins with two numbers, as word2vec files do, and GloVe text does not")
    count, dimensions = header
    if not 0 < dimensions <= MAX_DIMENSIONS:
        raise VectorsError(f"{location}: its first line announces {dimensions} dimensions")
    start = stream.readline(MAX_ROW_BYTES)
    text = _is_text(start, dimensions) if format == "auto" else format == "word2vec-text"
    if text:
        yield from _text_rows(location, stream, dimensions, count, start, errors, keep)
    else:
        yield from _binary_rows(location, stream, dimensions, count, start, errors, keep)


def write_binary(stream: BinaryIO, count: int, dimensions: int, rows: Iterable[Row]) -> None:
    """Write word2vec binary, as gensim's `load_word2vec_format(binary=True)` and the original tool read it."""
    stream.write(f"{count} {dimensions}\n".encode())
    for word, vector in rows:
        stream.write(word.encode("utf-8") + b" " + np.ascontiguousarray(vector, "<f4").tobytes())


def is_single_token(word: str) -> bool:
    """Tell whether a word can stand in a word2vec file, and be a token: it is not empty and holds no white space."""
    return word.split() == [word]


def decode_word(location: str, raw: bytes, errors: str) -> str:
    """Return a word's text; VectorsError if it is not UTF-8 and `errors` is strict."""
    try:
        return raw.decode("utf-8", errors)
    except UnicodeDecodeError as error:
        raise VectorsError(
            f"{location}: the word {raw[:40]!r} is not UTF-8; vectors.unicode_errors=replace or ignore reads on"
        ) from error


def check_finite(location: str, vector: np.ndarray) -> np.ndarray:
    """Return a vector as it is; VectorsError if it holds NaN, or numbers that no training gives."""
    if not np.abs(vector).max(initial=0) < MAX_ABSOLUTE_VALUE:  # NaN is not below it either
        raise VectorsError(f"{location}: the vector holds NaN, or numbers beyond {MAX_ABSOLUTE_VALUE:g}")
    return vector


def _header(line: bytes) -> tuple[int, int] | None:
    fields = line.split()
    if len(fields) == 2 and all(field.isdigit() and len(field) < 16 for field in fields):
        return int(fields[0]), int(fields[1])
    return None


def _text_row(line: bytes, dimensions: int) -> tuple[bytes, np.ndarray] | None:
    fields = line.rsplit(None, dimensions)
    # GloVe's words may hold spaces; a number before the last space is no word's end but one number too many.
    if len(fields) != dimensions + 1 or (b" " in fields[0] and _is_number(fields[0].rsplit(b" ", 1)[1])):
        return None
    try:
        with np.errstate(over="ignore"):  # what is too large for float32 is infinite
            return fields[0], np.array([float(field) for field in fields[1:]]).astype(np.float32)
    except ValueError:
        return None


def _is_text(line: bytes, dimensions: int) -> bool:
    """Tell whether a row is text, though perhaps a broken one, and not the beginning of binary rows."""
    if _text_row(line, dimensions) is not None:
        return True
    fields = line.split()
    is_long_enough = len(fields) - 1 >= max(2, dimensions // 2)
    return is_long_enough and sum(_is_number(field) for field in fields[1:]) >= (len(fields) - 1) / 2


def _is_number(field: bytes) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def _text_rows(
    where: str,
    stream: BinaryIO,
    dimensions: int,
    count: int | None,
    line: bytes,
    errors: str,
    keep: Callable[[str], bool],
) -> Iterator[Row]:
    """Yield rows of a text file from `line` on, which is its first, or its second after the counts."""
    number = 1 if count is None else 2
    found = 0
    while line:
        if len(line) >= MAX_ROW_BYTES:
            raise VectorsError(f"{where}, line {number}: is longer than any row; not word2vec or GloVe text")
        if line.strip():
            found += 1
            here = f"{where}, line {number}"
            if keep(decode_word(here, line.split(None, 1)[0], errors)):
                row = _text_row(line, dimensions)
                if row is None:
                    raise VectorsError(f"{here}: is not a word and {dimensions} numbers")
                yield decode_word(here, row[0], errors), check_finite(here, row[1])
        line = stream.readline(MAX_ROW_BYTES)
        number += 1
    if count is not None and found != count:
        raise VectorsError(f"{where}: ends after {found:,} of the {count:,} words that its first line announces")


def _binary_rows(
    where: str,
    stream: BinaryIO,
    dimensions: int,
    count: int,
    buffer: bytes,
    errors: str,
    keep: Callable[[str], bool],
) -> Iterator[Row]:
    """Yield rows of a binary file whose first bytes, after the header, are in `buffer`."""
    size = 4 * dimensions
    start = 0
    for number in range(1, count + 1):
        end = buffer.find(b" ", start, start + MAX_WORD_BYTES)
        while end < 0 or end + 1 + size > len(buffer):
            if end < 0 and len(buffer) - start >= MAX_WORD_BYTES:
                raise VectorsError(
                    f"{where}, word {number}: is longer than {MAX_WORD_BYTES} bytes; not word2vec binary"
                )
            more = stream.read(CHUNK_BYTES)
            if not more:
                raise VectorsError(f"{where}: ends after {number - 1:,} of the {count:,} words that it announces")
            buffer, start = buffer[start:] + more, 0
            end = buffer.find(b" ", 0, MAX_WORD_BYTES)
        raw = buffer[start:end].lstrip(b"\n")  # the original tool ends each row with a line end
        try:
            word = raw.decode("utf-8")
        except UnicodeDecodeError:
            word = decode_word(f"{where}, word {number}", raw, errors)
        if keep(word):
            vector = np.frombuffer(buffer, "<f4", dimensions, end + 1).astype(np.float32)
            yield word, check_finite(f"{where}, word {number}", vector)
        start = end + 1 + size
    if (buffer[start:] + stream.read(CHUNK_BYTES)).strip(b"\n"):
        raise VectorsError(
            f"{where}: goes on after the {count:,} words of {dimensions} dimensions that its first line announces; "
            "is neither word2vec binary nor word2vec text"
        )
