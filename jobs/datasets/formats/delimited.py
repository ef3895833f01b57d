"""Rows of csv and tsv files: delimiter, header, quoted fields."""

import contextlib
import csv
import itertools
import unicodedata
from collections import deque
from collections.abc import Iterator, Mapping, Sequence

from jobs.config.settings import DELIMITERS
from jobs.datasets.formats.labels import LabelParser
from jobs.datasets.formats.rows import DataError, ReadOptions, Row, SourceFile, check_names_differ, find_column
from jobs.datasets.formats.text_lines import iter_lines

MAX_RECORD_LINES = 100  # of a quoted record in a tsv file

NumberedFields = tuple[int, list[str]]
"""Line number and fields of a row."""


def read_delimited(file: SourceFile, options: ReadOptions) -> Iterator[Row]:
    """Yield the rows of a csv or tsv file; blank lines are ignored.

    Without `data.delimiter`, that of csv is the first of `DELIMITERS` that divides a header with the columns.

    Raises:
        DataError: a column is missing or occurs twice, or a row is invalid; for records, any column occurs twice.
    """
    csv.field_size_limit(1 << 30)
    path, delimiter, lines = file.path, options.data.delimiter, iter_lines(file, options)
    blank_lines = 0
    first = next(lines, "")
    while first and not first.strip():
        blank_lines += 1
        first = next(lines, "")
    if not first:
        raise DataError(f"{path}: is empty; the first line must contain the column names")
    names, is_tsv = options.columns, file.format == "tsv"
    if delimiter is None:
        delimiter = "\t" if is_tsv else _detect_delimiter(first, names)
    lines = itertools.chain([first], lines)
    # In tsv of this project and others, a quote at the start of a field is part of it. A quoted header shows that
    # another program has quoted all fields.
    is_raw = is_tsv and delimiter == "\t" and not first.startswith('"')
    rows = _iter_tab_separated(lines) if is_raw else _iter_csv(path, lines, delimiter, blank_lines)
    header = [unicodedata.normalize("NFC", name.strip()) for name in next(rows)[1]]
    hint = f"; they are separated by {_describe(delimiter)} (data.delimiter)"
    indices = [find_column(path, header, key, name, hint) for key, name in names.items()]
    if options.with_records:
        check_names_differ(path, header)
    text_index, label_index = indices[0], indices[-1]
    parser = LabelParser(file, options.data.label_column)
    for number, row in rows:
        number += blank_lines
        if len(row) != len(header):
            raise DataError(
                f"{path}, line {number}: has {len(row)} columns, but the header has {len(header)}; they are separated "
                f"by {_describe(delimiter)}"
            )
        label = parser.parse(number, row[label_index]) if options.labelled else ""
        yield number, row[text_index], label, dict(zip(header, row, strict=True)) if options.with_records else None


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


def _iter_csv(path: str, lines: Iterator[str], delimiter: str, blank_lines: int) -> Iterator[NumberedFields]:
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        for row in reader:
            if row:
                yield reader.line_num, row
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num + blank_lines}: not valid csv: {error}") from error


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
        if num_columns and any(field.startswith('"') for field in row):
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
