"""Lines of text files: decompressed, decoded, without a byte order mark."""

import codecs
import io
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from cluster.input_files import READ_ERRORS, open_decompressed
from jobs.datasets.formats.rows import DataError, ReadOptions, Row, SourceFile

_UNDECODED = re.compile("[\udc80-\udcff]")


def iter_lines(file: SourceFile, options: ReadOptions) -> Iterator[str]:
    """Yield the lines of a file, or of its part, with their ends.

    If invalid rows are skipped, a line may have bytes that cannot be decoded, which `check_decoded` finds.

    Raises:
        DataError: the encoding is unknown or does not fit, or the file is damaged.
        StorageError: the file cannot be opened.
    """
    path, encoding = file.path, options.data.encoding
    try:
        if codecs.lookup(encoding).name == "utf-8-sig":
            encoding = "utf-8"  # a byte order mark is ignored in any case
        line_end = "\n".encode(encoding)
    except (LookupError, ValueError) as error:  # UnicodeError is a ValueError
        raise DataError(f"data.encoding: unknown encoding {encoding!r}") from error
    if line_end != b"\n":  # the bytes are split into lines before they are decoded
        raise DataError(f"data.encoding: {encoding} is not supported; convert {path} to utf-8")
    part = file.part
    errors = "strict" if options.on_invalid_row is None else "surrogateescape"
    number, rest = (part.num_before, part.end - part.start) if part else (0, math.inf)
    try:
        with _open(file, options) as stream:
            for raw in stream:
                if rest <= 0:
                    break
                rest -= len(raw)
                number += 1
                try:
                    line = raw.decode(encoding, errors)
                except UnicodeDecodeError as error:
                    message = _describe_byte(raw[error.start], error.start, encoding)
                    raise DataError(f"{path}, line {number}: {message}") from error
                yield line.removeprefix("\ufeff") if number == 1 else line
    except READ_ERRORS as error:
        position = f"{path}, after line {number}" if number else path
        raise DataError(f"{position}: cannot be read: {error}; the file may be damaged or incomplete") from error


def check_decoded(file: SourceFile, options: ReadOptions, number: int, line: str) -> None:
    """Raise a DataError if a byte of a line could not be decoded; number: of the line."""
    match = None if line.isascii() else _UNDECODED.search(line)
    if match:
        byte = ord(match[0]) - 0xDC00
        message = _describe_byte(byte, match.start(), options.data.encoding)
        raise DataError(f"{file.describe_position(number)}: {message}")


def _describe_byte(byte: int, index: int, encoding: str) -> str:
    return f"byte 0x{byte:02x} at position {index + 1} is not {encoding}; set data.encoding"


@contextmanager
def _open(file: SourceFile, options: ReadOptions) -> Iterator[BinaryIO]:
    """Yield a stream at the first byte of a file, or of its part."""
    if file.part and file.part.content is not None:
        yield io.BytesIO(file.part.content)
        return
    with open_decompressed(file.path, options.on_bytes_read) as stream:
        if file.part:
            stream.seek(file.part.start)
        yield stream


def cut_at_lines(
    stream: BinaryIO, part_bytes: int, start: int = 0, num_before: int = 0, unless: bytes | None = None
) -> list[tuple[int, int]] | None:
    """Return ends of lines that are about some bytes apart: the number of lines up to each, and its position in bytes.

    Args:
        start, num_before: position of the first line, which is the first of the ends, and number of the lines before.
        unless: the result is None if these bytes occur.
    """
    stream.seek(start)
    cuts = [(num_before, start)]
    while block := stream.read(part_bytes):
        block += stream.readline()
        if unless is not None and unless in block:
            return None
        num_before += block.count(b"\n") + (not block.endswith(b"\n"))
        start += len(block)
        cuts.append((num_before, start))
    return cuts


def read_plain(file: SourceFile, options: ReadOptions) -> Iterator[Row]:
    """Yield every line as a text without a label; errors as of `iter_lines`."""
    for number, line in enumerate(iter_lines(file, options), start=file.first_number):
        yield number, line.rstrip("\r\n"), "", None
