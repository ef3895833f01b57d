"""Compiled reader of rows of jsonl: blocks of whole lines, as UTF-8.

It reads usual rows only, and exactly as `jobs.datasets.formats.json_lines`: of a block with anything else, such as an
invalid row, a key with an escape or beyond ASCII, NaN, or a label that is a list, it returns UNUSUAL, and the reader
there reads the block or raises its error.

Argument `columns` are the keys of the text and of the label. Arguments `rows` are as in row_kernel.py, but a label is
the JSON value as in the file, such as "a" with its quotes, 1.0 or null.
"""

import numpy as np

from jobs.compilation.decorator import compiled

Array = np.ndarray
Columns = tuple[Array, Array]
Rows = tuple[Array, Array, Array, Array, Array]

UNUSUAL = -1  # that of row_kernel.py
MAX_DEPTH = 16  # of objects and arrays
MAX_KEYS = 256  # of the objects around a value
MAX_DIGITS = 300  # Python has a limit of 4300
_LINE_FEED, _RETURN, _TAB, _SPACE, _QUOTE, _BACKSLASH, _COMMA, _COLON = (ord(letter) for letter in '\n\r\t "\\,:')
_OPEN_OBJECT, _CLOSE_OBJECT, _OPEN_ARRAY, _CLOSE_ARRAY = (ord(letter) for letter in "{}[]")
_ZERO, _NINE, _MINUS, _PLUS, _POINT, _SMALL_E, _LARGE_E = (ord(letter) for letter in "09-+.eE")
_LETTER_U = ord("u")
_ESCAPED = np.frombuffer(b'"\\/bfnrt', np.uint8)
_UNESCAPED = np.frombuffer(b'"\\/\b\f\n\r\t', np.uint8)
_TRUE, _FALSE, _NULL = (np.frombuffer(word, np.uint8) for word in (b"true", b"false", b"null"))


@compiled()
def _skip_space(content: Array, index: int) -> int:
    """Return the index of the first byte that is no white space of JSON inside a line."""
    while index < len(content) and (content[index] == _SPACE or content[index] == _TAB or content[index] == _RETURN):
        index += 1
    return index


@compiled()
def _read_hex(content: Array, index: int) -> int:
    """Return the number of four hexadecimal digits, -1 if they are none."""
    if index + 4 > len(content):
        return -1
    value = 0
    for position in range(index, index + 4):
        byte = int(content[position])
        if _ZERO <= byte <= _NINE:
            value = 16 * value + byte - _ZERO
        elif 97 <= (byte | 32) <= 102:
            value = 16 * value + (byte | 32) - 87
        else:
            return -1
    return value


@compiled()
def _skip_string(content: Array, index: int) -> int:
    """Return the index after the string whose first byte is at an index, UNUSUAL if it is invalid."""
    while index < len(content):
        byte = content[index]
        index += 1
        if byte == _QUOTE:
            return index
        if byte < _SPACE:
            return UNUSUAL
        if byte == _BACKSLASH:
            if index >= len(content):
                return UNUSUAL
            if content[index] == _LETTER_U:
                if _read_hex(content, index + 1) < 0:
                    return UNUSUAL
                index += 5
                continue
            is_known = False
            for known in _ESCAPED:
                is_known |= content[index] == known
            if not is_known:
                return UNUSUAL
            index += 1
    return UNUSUAL


@compiled()
def _copy_string(content: Array, index: int, end: int, texts: Array, text_end: int) -> int:
    """Write the characters of a valid string; return their end, UNUSUAL if it has a lone surrogate."""
    while index < end:
        byte = content[index]
        index += 1
        if byte != _BACKSLASH:
            texts[text_end] = byte
            text_end += 1
            continue
        if content[index] != _LETTER_U:
            for number in range(len(_ESCAPED)):
                if content[index] == _ESCAPED[number]:
                    texts[text_end] = _UNESCAPED[number]
            text_end += 1
            index += 1
            continue
        point = _read_hex(content, index + 1)
        index += 5
        if 0xD800 <= point < 0xE000:
            if point >= 0xDC00 or index + 6 > end or content[index] != _BACKSLASH or content[index + 1] != _LETTER_U:
                return UNUSUAL
            low = _read_hex(content, index + 2)
            if low < 0xDC00 or low >= 0xE000:
                return UNUSUAL
            point = 0x10000 + ((point - 0xD800) << 10) + low - 0xDC00
            index += 6
        if point < 0x80:
            texts[text_end] = point
            text_end += 1
            continue
        num_following = 1 if point < 0x800 else 2 if point < 0x10000 else 3
        first = 0xC0 if num_following == 1 else 0xE0 if num_following == 2 else 0xF0
        texts[text_end] = first | (point >> (6 * num_following))
        for number in range(num_following):
            texts[text_end + 1 + number] = 0x80 | ((point >> (6 * (num_following - 1 - number))) & 0x3F)
        text_end += 1 + num_following
    return text_end


@compiled()
def _skip_digits(content: Array, index: int) -> int:
    while index < len(content) and _ZERO <= content[index] <= _NINE:
        index += 1
    return index


@compiled()
def _is_word(content: Array, start: int, end: int, word: Array) -> bool:
    """Return whether the bytes between two indices are a word."""
    if end - start != len(word) or end > len(content):
        return False
    same = 0
    while same < len(word) and content[start + same] == word[same]:
        same += 1
    return same == len(word)


@compiled()
def _skip_scalar(content: Array, index: int) -> int:
    """Return the index after a number, true, false or null, UNUSUAL if there is none."""
    end = len(content)
    start = index
    if index < end and content[index] == _MINUS:
        index += 1
    if index < end and _ZERO <= content[index] <= _NINE:
        index = index + 1 if content[index] == _ZERO else _skip_digits(content, index)
        if index + 1 < end and content[index] == _POINT and _ZERO <= content[index + 1] <= _NINE:
            index = _skip_digits(content, index + 1)
        if index + 1 < end and (content[index] == _SMALL_E or content[index] == _LARGE_E):
            digits = index + 1
            if content[digits] == _PLUS or content[digits] == _MINUS:
                digits += 1
            index = _skip_digits(content, digits)
            if index == digits:
                return UNUSUAL
        return index if index - start <= MAX_DIGITS else UNUSUAL
    for word in (_TRUE, _FALSE, _NULL):
        if _is_word(content, start, start + len(word), word):
            return start + len(word)
    return UNUSUAL


@compiled()
def _find_values(content: Array, index: int, columns: Columns, keys: Array, first_keys: Array, values: Array) -> int:
    """Write where the values of the text and the label of the object at an index are.

    Return the index after the object, UNUSUAL if it is invalid or unusual.

    Args:
        keys: `(MAX_KEYS, 2)`, starts and ends of the keys of the object and of those around the current value.
        first_keys: `(MAX_DEPTH,)`, number of the first key of each of them, -1 of an array.
        values: `(2, 2)`, starts and ends; of the text without its quotes.
    """
    end = len(content)
    text_key, label_key = columns
    depth = num_keys = 0
    is_text = is_label = False
    values[:] = -1
    while True:
        index = _skip_space(content, index)
        if index >= end:
            return UNUSUAL
        start, byte = index, content[index]
        is_first = byte in (_OPEN_OBJECT, _OPEN_ARRAY)
        if is_first:
            if depth == MAX_DEPTH:
                return UNUSUAL
            first_keys[depth] = num_keys if byte == _OPEN_OBJECT else -1
            depth += 1
            index += 1
        else:
            index = _skip_string(content, index + 1) if byte == _QUOTE else _skip_scalar(content, index)
            if index < 0 or (is_text and byte != _QUOTE):
                return UNUSUAL
            if is_text:
                values[0, 0], values[0, 1] = start + 1, index - 1
            if is_label:
                values[1, 0], values[1, 1] = start, index
        is_object = False
        while depth:  # ends of objects and arrays
            index = _skip_space(content, index)
            if index >= end:
                return UNUSUAL
            is_object = first_keys[depth - 1] >= 0
            if content[index] != (_CLOSE_OBJECT if is_object else _CLOSE_ARRAY):
                break
            depth -= 1
            if is_object:
                num_keys = first_keys[depth]
            is_first = False
            index += 1
        if depth == 0:
            return index
        if not is_first:
            if content[index] != _COMMA:
                return UNUSUAL
            index += 1
        is_text = is_label = False
        if is_object:
            start = _skip_space(content, index) + 1
            index = _skip_key(content, start)
            if index < 0 or num_keys == MAX_KEYS:
                return UNUSUAL
            for number in range(first_keys[depth - 1], num_keys):
                if _is_word(content, start, index, content[keys[number, 0] : keys[number, 1]]):
                    return UNUSUAL
            keys[num_keys, 0], keys[num_keys, 1] = start, index
            num_keys += 1
            if depth == 1:
                is_text, is_label = (
                    _is_word(content, start, index, text_key),
                    _is_word(content, start, index, label_key),
                )
            index = _skip_space(content, index + 1)
            if index >= end or content[index] != _COLON:
                return UNUSUAL
            index += 1


@compiled()
def _skip_key(content: Array, start: int) -> int:
    """Return the end of a key, whose first byte is at an index, UNUSUAL if there is none of ASCII without escapes."""
    if start > len(content) or content[start - 1] != _QUOTE:
        return UNUSUAL
    for index in range(start, len(content)):
        byte = content[index]
        if byte == _QUOTE:
            return index
        if byte < _SPACE or byte >= 0x80 or byte == _BACKSLASH:
            return UNUSUAL
    return UNUSUAL


@compiled()
def read_jsonl(content: Array, columns: Columns, rows: Rows) -> int:
    """Write the rows of lines of JSON; return their number, or UNUSUAL."""
    texts, text_ends, labels, label_ends, lines = rows
    keys, first_keys = np.empty((MAX_KEYS, 2), np.int64), np.empty(MAX_DEPTH, np.int64)
    values = np.empty((2, 2), np.int64)
    index, end = 0, len(content)
    count = text_end = label_end = line = 0
    while index < end:
        line += 1
        index = _skip_space(content, index)
        if index == end:
            break
        if content[index] == _LINE_FEED:
            index += 1
            continue
        if content[index] != _OPEN_OBJECT:
            return UNUSUAL
        index = _find_values(content, index, columns, keys, first_keys, values)
        if index < 0 or values.min() < 0:
            return UNUSUAL
        text_end = _copy_string(content, values[0, 0], values[0, 1], texts, text_end)
        if text_end < 0:
            return UNUSUAL
        for position in range(values[1, 0], values[1, 1]):
            labels[label_end] = content[position]
            label_end += 1
        index = _skip_space(content, index)
        if index < end:
            if content[index] != _LINE_FEED:
                return UNUSUAL
            index += 1
        text_ends[count], label_ends[count], lines[count] = text_end, label_end, line
        count += 1
    return count
