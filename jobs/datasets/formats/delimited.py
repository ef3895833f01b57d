"""Rows of csv and tsv files: delimiter, header, quoted fields."""

import codecs
import contextlib
import csv
import itertools
import unicodedata
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from cluster.input_files import open_decompressed
from jobs.config.settings import DELIMITERS
from jobs.datasets.formats.labels import LabelParser
from jobs.datasets.formats.rows import (
    DataError,
    FilePart,
    ReadOptions,
    Row,
    SourceFile,
    check_names_differ,
    find_column,
)
from jobs.datasets.formats.text_lines import check_decoded, cut_at_lines, iter_lines

MAX_RECORD_LINES = 100  # of a quoted record in a tsv file

NumberedFields = tuple[int, list[str]]
"""Line number and fields of a row."""


def read_delimited(file: SourceFile, options: ReadOptions) -> Iterator[Row]:
    """Yield the rows of a csv or tsv file; blank lines are ignored.

    Without `data.delimiter`, that of csv is the first of `DELIMITERS` that divides a header with the columns.

    Raises:
        DataError: a column is missing or occurs twice, or a row is invalid; for records, any column occurs twice.
    """
    path, part, lines = file.path, file.part, iter_lines(file, options)
    layout, lines = _detect_layout(file, options, itertools.chain(part.header, lines) if part else lines)
    num_before = part.num_before - len(part.header) if part else layout.blank_lines
    rows = layout.iter_fields(file, options, lines, num_before)
    header, indices = _find_columns(path, next(rows)[1], layout, options)
    check_decoded(file, options, num_before + 1, layout.delimiter.join(header))
    if options.with_records:
        check_names_differ(path, header)
    text_index, label_index = indices[0], indices[-1]
    parser = LabelParser(file, options.data.label_column, options.data)
    for number, row in rows:
        try:
            if options.on_invalid_row:
                check_decoded(file, options, number, layout.delimiter.join(row))
            if len(row) != len(header):
                raise DataError(
                    f"{path}, line {number}: has {len(row)} columns, but the header has {len(header)}; they are "
                    f"separated by {_describe(layout.delimiter)}"
                )
            label = parser.parse(number, row[label_index]) if options.labelled else ""
        except DataError as error:
            options.reject(file, number, error)
            continue
        yield number, row[text_index], label, dict(zip(header, row, strict=True)) if options.with_records else None


@dataclass(frozen=True)
class DelimitedHeader:
    """Header of a csv or tsv file.

    lines: without blank lines before it. last_line: number of its last line. is_raw: fields are not quoted, or only
    where it is needed. text_column, label_column: indices; the label column is that of the texts without labels.
    """

    lines: tuple[str, ...]
    last_line: int
    delimiter: str
    is_raw: bool
    num_columns: int
    text_column: int
    label_column: int


def read_header(file: SourceFile, options: ReadOptions) -> DelimitedHeader:
    """Return the header of a file; DataError if there is none, or if it lacks a column."""
    layout, lines = _detect_layout(file, options, iter_lines(file, options))
    read: list[str] = []

    def iter_recorded() -> Iterator[str]:
        for line in lines:
            read.append(line)
            yield line

    last_line, fields = next(layout.iter_fields(file, options, iter_recorded(), layout.blank_lines))
    _, indices = _find_columns(file.path, fields, layout, options)
    header = tuple(read[: last_line - layout.blank_lines])
    return DelimitedHeader(header, last_line, layout.delimiter, layout.is_raw, len(fields), indices[0], indices[-1])


def divide_delimited(file: SourceFile, options: ReadOptions, part_bytes: int) -> list[FilePart]:
    """Return parts of a file, of whole rows and about some bytes each, in an encoding that has ASCII's bytes.

    Raises:
        DataError: as of `read_delimited`, of what must be parsed to find the ends of rows.
    """
    lines = iter_lines(file, options)
    layout, lines = _detect_layout(file, options, lines)
    header: list[str] = []
    # Line numbers and positions of the ends of the last lines.
    ends: deque[tuple[int, int]] = deque(maxlen=MAX_RECORD_LINES + 1)
    with open_decompressed(file.path) as stream:

        def iter_tracked() -> Iterator[str]:
            number, position = layout.blank_lines, sum(len(next(stream)) for _ in range(layout.blank_lines))
            for raw in stream:
                number, position = number + 1, position + len(raw)
                ends.append((number, position))
                # Quotes, delimiters and line ends are the same in Latin-1, which decodes all bytes.
                yield (raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw).decode("latin-1")

        rows = layout.iter_fields(file, options, iter_tracked(), layout.blank_lines)
        next(rows)
        num_header, start = ends[-1]
        header += itertools.islice(lines, num_header - layout.blank_lines)
        cuts = cut_at_lines(stream, part_bytes, start, num_header, unless=b'"')
        if cuts is None:  # a row may have several lines
            stream.seek(start)
            cuts = [(num_header, start)]
            for number, _ in rows:
                end = ends[number - ends[0][0]]
                if end[1] >= cuts[-1][1] + part_bytes:
                    cuts.append(end)
            if ends[-1] != cuts[-1]:
                cuts.append(ends[-1])
    return [FilePart(before[1], end[1], before[0], tuple(header)) for before, end in itertools.pairwise(cuts)]


def _find_columns(
    path: str, fields: Sequence[str], layout: "_Layout", options: ReadOptions
) -> tuple[list[str], list[int]]:
    """Return the names of all columns, and the indices of those to read; DataError if one is missing."""
    header = [unicodedata.normalize("NFC", name.strip()) for name in fields]
    hint = f"; they are separated by {_describe(layout.delimiter)} (data.delimiter)"
    return header, [find_column(path, header, key, name, hint) for key, name in options.columns.items()]


@dataclass(frozen=True)
class _Layout:
    """Layout of a file. is_raw: fields are not quoted, or only where it is needed; blank_lines: before the header."""

    delimiter: str
    is_raw: bool
    blank_lines: int

    def iter_fields(
        self, file: SourceFile, options: ReadOptions, lines: Iterator[str], num_before: int
    ) -> Iterator[NumberedFields]:
        """Yield the fields of the rows, header included; num_before: number of the lines before the first one."""
        if not self.is_raw:
            return _iter_csv(file, options, lines, self.delimiter, num_before)
        rows = _iter_tab_separated(lines)
        return ((number + num_before, row) for number, row in rows) if num_before else rows


def _detect_layout(file: SourceFile, options: ReadOptions, lines: Iterator[str]) -> tuple[_Layout, Iterator[str]]:
    """Return the layout of a file, and its lines from the header on; DataError if there is no header."""
    csv.field_size_limit(1 << 30)
    blank_lines = 0
    first = next(lines, "")
    while first and not first.strip():
        blank_lines += 1
        first = next(lines, "")
    if not first:
        raise DataError(f"{file.path}: is empty; the first line must contain the column names")
    is_tsv, delimiter = file.format == "tsv", options.data.delimiter
    if delimiter is None:
        delimiter = "\t" if is_tsv else _detect_delimiter(first, options.columns)
    # In tsv of this project and others, a quote at the start of a field is part of it. A quoted header shows that
    # another program has quoted all fields.
    is_raw = is_tsv and delimiter == "\t" and not first.startswith('"')
    return _Layout(delimiter, is_raw, blank_lines), itertools.chain([first], lines)


def _detect_delimiter(header: str, names: Mapping[str, str]) -> str:
    """Return the first delimiter that divides a header with these names, or else the one that divides it most."""
    headers = {}
    for delimiter in DELIMITERS:
        with contextlib.suppress(csv.Error):
            [fields] = csv.reader([header], delimiter=delimiter)
            headers[delimiter] = [unicodedata.normalize("NFC", name.strip()) for name in fields]
    complete = [delimiter for delimiter, fields in headers.items() if set(names.values()).issubset(fields)]
    if complete:
        return complete[0]
    return max(headers, key=lambda delimiter: len(headers[delimiter]), default=",")


def _describe(delimiter: str) -> str:
    return DELIMITERS.get(delimiter, repr(delimiter))


def _iter_csv(
    file: SourceFile, options: ReadOptions, lines: Iterator[str], delimiter: str, num_before: int
) -> Iterator[NumberedFields]:
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    last = 0
    while True:
        try:
            for row in reader:
                last = reader.line_num
                if row:
                    yield last + num_before, row
            return
        except csv.Error as error:
            number = reader.line_num + num_before
            invalid = DataError(f"{file.path}, line {number}: not valid csv: {error}")
            # A quote without its end may have swallowed valid rows.
            if not last or reader.line_num != last + 1:
                raise invalid from error
            options.reject(file, number, invalid)
            last = reader.line_num


def _iter_tab_separated(lines: Iterator[str]) -> Iterator[NumberedFields]:
    """Yield the rows of a tsv file.

    pandas quotes fields with a quote, a tab or a line feed, other programs quote none. So a field is quoted only if
    the row would be incomplete otherwise, or if the quotes inside it are doubled.
    """
    pending: deque[str] = deque()
    number = num_columns = 0
    while line := pending.popleft() if pending else next(lines, ""):
        number += 1
        row = line.rstrip("\r\n").split("\t")
        if num_columns and '"' in line and any(field.startswith('"') for field in row):
            pending.extend(itertools.islice(lines, MAX_RECORD_LINES - 1 - len(pending)))
            quoted, num_lines = _parse_quoted([line, *pending], num_columns)
            if quoted is not None:
                row = quoted
                for _ in range(num_lines - 1):
                    pending.popleft()
                number += num_lines - 1
        if row != [""]:
            num_columns = num_columns or len(row)
            yield number, row


def _parse_quoted(lines: Sequence[str], num_columns: int) -> tuple[list[str] | None, int]:
    """Return the quoted record at the start of some lines and its number of lines; None if it is not quoted."""
    quotes = 0
    is_complete = True  # each line is a row by itself
    for index, line in enumerate(lines):
        quotes += line.count('"')
        is_complete &= line.count("\t") == num_columns - 1
        if quotes % 2:
            continue  # the record ends in a later line
        try:
            [row] = csv.reader(lines[: index + 1], delimiter="\t", strict=True)
        except (csv.Error, ValueError):
            return None, 0
        has_doubled = index == 0 and any(field.startswith('"') and '""' in field[1:-1] for field in line.split("\t"))
        return (row if len(row) == num_columns and (has_doubled or not is_complete) else None), index + 1
    return None, 0
