"""Rows of csv and tsv files: delimiter, header, quoted fields."""

import contextlib
import csv
import itertools
import unicodedata
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence

from cluster import UsageError
from jobs.config.settings import DELIMITERS

MAX_RECORD_LINES = 100  # of a quoted record in a tsv file

NumberedFields = tuple[int, list[str]]
"""Line number and fields of a row."""


class DataError(UsageError):
    """The labelled texts are missing or invalid."""


def iter_columns(
    path: str,
    lines: Iterator[str],
    columns: Mapping[str, str],
    delimiter: str | None,
    *,
    is_tsv: bool,
    records: list[Mapping[str, object]] | None = None,
) -> Iterator[NumberedFields]:
    """Yield the line number of each row, and its values in some columns; blank lines are ignored.

    Args:
        path: name of the file in messages.
        columns: names of the columns, by the setting that names them.
        delimiter: None: that of tsv, or the first of `DELIMITERS` that divides a header with these columns.
        records: each row is added to it with the values of all its columns.

    Raises:
        DataError: a column is missing or occurs twice, or a row is invalid; for `records`, any column occurs twice.
    """
    csv.field_size_limit(1 << 30)
    blank_lines = 0
    first = next(lines, "")
    while first and not first.strip():
        blank_lines += 1
        first = next(lines, "")
    if not first:
        raise DataError(f"{path}: is empty; the first line must contain the column names")
    names = {key: unicodedata.normalize("NFC", name) for key, name in columns.items()}
    if delimiter is None:
        delimiter = "\t" if is_tsv else _detect_delimiter(first, names)
    lines = itertools.chain([first], lines)
    # In tsv of this project and others, a quote at the start of a field is part of it. A quoted header shows that
    # another program has quoted all fields.
    is_raw = is_tsv and delimiter == "\t" and not first.startswith('"')
    rows = _iter_tab_separated(lines) if is_raw else _iter_csv(path, lines, delimiter, blank_lines)
    header = [unicodedata.normalize("NFC", name.strip()) for name in next(rows)[1]]
    indices = [_find_column(path, header, key, name, delimiter) for key, name in names.items()]
    if records is not None:
        _check_names_differ(path, header)
    for number, row in rows:
        if len(row) != len(header):
            raise DataError(
                f"{path}, line {number + blank_lines}: has {len(row)} columns, but the header has {len(header)}; "
                f"they are divided by {_describe(delimiter)}"
            )
        if records is not None:
            records.append(dict(zip(header, row, strict=True)))
        yield number + blank_lines, [row[index] for index in indices]


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


def _find_column(path: str, header: list[str], key: str, name: str, delimiter: str) -> int:
    """Return the index of a column; DataError if it is missing or occurs twice."""
    if header.count(name) > 1:
        raise DataError(f"{path}: has the column '{name}' (data.{key}) twice; rename or remove one of them")
    if name not in header:
        raise DataError(
            f"{path}: has no column '{name}' (data.{key}); it has {', '.join(header)}; they are divided by "
            f"{_describe(delimiter)} (data.delimiter)"
        )
    return header.index(name)


def _check_names_differ(path: str, header: list[str]) -> None:
    """Raise a DataError if a column's name occurs twice: a record has one value for each name."""
    name, count = Counter(header).most_common(1)[0]
    if count > 1:
        columns = f"columns with the name '{name}'" if name else "columns without a name"
        raise DataError(f"{path}: has {count} {columns}; rename or remove all but one of them")


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
