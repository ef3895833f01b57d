"""Compiled readers of rows: blocks of whole rows of csv, tsv and fastText files, as UTF-8.

They read usual rows only, and exactly as the readers in `jobs.datasets.formats`: of a block with anything else, such as
an invalid row, they return UNUSUAL, and the readers there read it or raise its error.

Arguments `columns` are the delimiter, the number of columns, and the indices of the columns of the text and the label;
all 0 for fastText. Arguments `rows` are arrays that the rows are written into:

    texts        (bytes,) uint8, all texts, one after the other; text_ends (rows,) int64, the end of each
    labels       (bytes,) uint8, all labels as in the file; label_ends (rows,) int64
    lines        (rows,) int64, number of the last line of each row; the first line of the block is 1
"""

import numpy as np

from jobs.compilation.decorator import compiled

Array = np.ndarray
Columns = tuple[int, int, int, int]
Rows = tuple[Array, Array, Array, Array, Array]

UNUSUAL = -1
MAX_RECORD_LINES = 100  # that of `jobs.datasets.formats.delimited`
LABEL_PREFIX = np.frombuffer(b"__label__", np.uint8)  # that of `jobs.datasets.formats.fasttext_lines`
_LINE_FEED, _RETURN, _TAB, _SPACE, _QUOTE = (ord(letter) for letter in '\n\r\t "')
_FIELD_START, _UNQUOTED, _QUOTED, _AFTER_QUOTE = range(4)


@compiled()
def find_csv_cut(content: Array, delimiter: int) -> int:
    """Return the end of the last complete row of a csv file, 0 if there is none; the bytes start with a row."""
    cut = 0
    state = _FIELD_START
    for index in range(len(content)):
        byte = content[index]
        if state == _QUOTED:
            if byte == _QUOTE:
                state = _AFTER_QUOTE
        elif byte == _QUOTE:
            if state != _UNQUOTED:  # at the start, or the second of two quotes
                state = _QUOTED
        elif byte == _LINE_FEED:
            cut, state = index + 1, _FIELD_START
        else:
            state = _FIELD_START if byte == delimiter else _UNQUOTED
    return cut


@compiled()
def find_tsv_cut(content: Array) -> int:
    """Return the end of the last row of a tsv file after which no quoted row of several lines may continue, or 0.

    A quoted row starts in a line in which a field starts with a quote, and if it has several lines, the number of
    quotes in the first one is odd.
    """
    cut = line_start = number = 0
    last_open = -MAX_RECORD_LINES  # number of the last line that may start a row of several lines
    num_quotes = 0
    is_open = False
    for index in range(len(content)):
        byte = content[index]
        if byte == _QUOTE:
            num_quotes += 1
            is_open |= index == line_start or content[index - 1] == _TAB
        elif byte == _LINE_FEED:
            if is_open and num_quotes % 2:
                last_open = number
            number += 1
            line_start = index + 1
            num_quotes, is_open = 0, False
            if number - last_open >= MAX_RECORD_LINES:
                cut = line_start
    return cut


@compiled()
def read_csv(content: Array, columns: Columns, rows: Rows) -> int:
    """Write the rows of csv, with quoted fields; return their number, or UNUSUAL."""
    delimiter, num_columns, text_column, label_column = columns
    texts, text_ends, labels, label_ends, lines = rows
    index, end = 0, len(content)
    count = text_end = label_end = 0
    line = 1
    while index < end:
        if content[index] == _LINE_FEED or (
            content[index] == _RETURN and index + 1 < end and content[index + 1] == _LINE_FEED
        ):  # an empty line
            index += 1 if content[index] == _LINE_FEED else 2
            line += 1
            continue
        column = 0
        while True:  # fields
            is_text, is_label = column == text_column, column == label_column
            if index < end and content[index] == _QUOTE:
                index += 1
                while True:
                    if index >= end:
                        return UNUSUAL
                    byte = content[index]
                    index += 1
                    if byte == _QUOTE:
                        if index >= end or content[index] != _QUOTE:
                            break
                        index += 1
                    elif byte == _LINE_FEED:
                        line += 1
                    if is_text:
                        texts[text_end] = byte
                        text_end += 1
                    if is_label:
                        labels[label_end] = byte
                        label_end += 1
            else:
                while index < end and content[index] != delimiter and content[index] != _LINE_FEED:
                    byte = content[index]
                    if byte == _RETURN:
                        break
                    if byte == 0:
                        return UNUSUAL
                    if is_text:
                        texts[text_end] = byte
                        text_end += 1
                    if is_label:
                        labels[label_end] = byte
                        label_end += 1
                    index += 1
            column += 1
            if index < end and content[index] == delimiter:
                index += 1
                continue
            break
        if index < end and content[index] == _RETURN:
            index += 1
            if index >= end or content[index] != _LINE_FEED:
                return UNUSUAL
        if index < end:
            if content[index] != _LINE_FEED:
                return UNUSUAL
            index += 1
        if column != num_columns:
            return UNUSUAL
        text_ends[count], label_ends[count], lines[count] = text_end, label_end, line
        count += 1
        line += 1
    return count


@compiled()
def read_tsv(content: Array, columns: Columns, rows: Rows) -> int:
    """Write the rows of tsv without quoted fields; return their number, or UNUSUAL."""
    delimiter, num_columns, text_column, label_column = columns
    texts, text_ends, labels, label_ends, lines = rows
    index, end = 0, len(content)
    count = text_end = label_end = 0
    line = 0
    while index < end:
        line += 1
        column = num_quotes = 0
        field_start = line_start = index
        has_quoted = has_doubled = False
        while True:
            byte = content[index] if index < end else np.uint8(_LINE_FEED)
            if byte in (delimiter, _LINE_FEED):
                field_end = index
                if byte == _LINE_FEED:
                    while field_end > line_start and content[field_end - 1] == _RETURN:
                        field_end -= 1
                    if field_end == line_start:  # an empty line
                        break
                    field_start = min(field_start, field_end)
                if column == text_column:
                    for position in range(field_start, field_end):
                        texts[text_end + position - field_start] = content[position]
                    text_end += field_end - field_start
                if column == label_column:
                    for position in range(field_start, field_end):
                        labels[label_end + position - field_start] = content[position]
                    label_end += field_end - field_start
                column += 1
                if byte == _LINE_FEED:
                    break
                field_start = index + 1
            elif byte == _QUOTE:
                num_quotes += 1
                has_quoted |= index == field_start
                has_doubled |= index > field_start and content[index - 1] == _QUOTE
            index += 1
        index += 1
        if column == 0:
            continue
        if column != num_columns or (has_quoted and (num_quotes % 2 or has_doubled)):
            return UNUSUAL
        text_ends[count], label_ends[count], lines[count] = text_end, label_end, line
        count += 1
    return count


@compiled()
def _is_ascii_space(byte: int) -> bool:
    return byte == _SPACE or 9 <= byte <= 13 or 28 <= byte <= 31


@compiled()
def read_fasttext(content: Array, columns: Columns, rows: Rows) -> int:
    """Write the rows of fastText lines that start with their only label; return their number, or UNUSUAL.

    What surrounds the text is ASCII: other white space would be removed too.
    """
    texts, text_ends, labels, label_ends, lines = rows
    index, end = 0, len(content)
    count = text_end = label_end = 0
    line = 0
    size = len(LABEL_PREFIX)
    while index < end:
        line += 1
        line_end = index
        while line_end < end and content[line_end] != _LINE_FEED:
            line_end += 1
        start, stop, index = index, line_end, line_end + 1
        while stop > start and _is_ascii_space(content[stop - 1]):
            stop -= 1
        if stop == start:
            continue
        if stop - start < size or content[stop - 1] >= 0x80:
            return UNUSUAL
        for offset in range(size):
            if content[start + offset] != LABEL_PREFIX[offset]:
                return UNUSUAL
        start += size
        while start < stop and not _is_ascii_space(content[start]):
            if content[start] >= 0x80:
                return UNUSUAL
            labels[label_end] = content[start]
            label_end += 1
            start += 1
        while start < stop and _is_ascii_space(content[start]):
            start += 1
        if start < stop and content[start] >= 0x80:
            return UNUSUAL
        for position in range(start, stop):
            if content[position] == LABEL_PREFIX[0] and position + size <= stop:
                same = 1
                while same < size and content[position + same] == LABEL_PREFIX[same]:
                    same += 1
                if same == size:
                    return UNUSUAL
            texts[text_end] = content[position]
            text_end += 1
        text_ends[count], label_ends[count], lines[count] = text_end, label_end, line
        count += 1
    return count
