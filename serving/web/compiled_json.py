"""Compiled JSON of single-text requests: the text in a body, and the scores in a response.

`serving.web.fast_path` describes which bodies these functions read. Those that take an offset in a body return the
next offset, which is beyond the end of the body if it contains something else.
"""

from math import floor, log10

import numpy as np
from numpy.typing import NDArray

from jobs.model.compilation import compiled

_OPEN, _CLOSE, _COLON, _COMMA, _QUOTE, _BACKSLASH = (ord(letter) for letter in '{}:,"\\')
_MINUS, _POINT, _ZERO, _E = (ord(letter) for letter in "-.0e")
_INPUTS, _PARAMETERS = (np.frombuffer(name.encode(), np.uint8) for name in ('"inputs"', '"parameters"'))
# Meaning of a letter after a backslash; 0 where the slow path must decode it.
_ESCAPES = np.zeros(256, np.uint8)
for _letter, _meaning in zip('"\\/bfnrt', '"\\/\b\f\n\r\t', strict=True):
    _ESCAPES[ord(_letter)] = ord(_meaning)
_POWERS_OF_TEN = np.array([float(f"1e{power}") for power in range(309)])
SCORE_DIGITS = 9  # that of serving.web.protocol: numba would not notice a change in another file
MAX_SCORE_BYTES = 24

Bytes = NDArray[np.uint8]


@compiled()
def _skip_space(body: Bytes, offset: int, end: int) -> int:
    while offset < end and (body[offset] == 32 or 9 <= body[offset] <= 10 or body[offset] == 13):
        offset += 1
    return offset


@compiled()
def _skip_letter(body: Bytes, offset: int, end: int, letter: int) -> int:
    """Return the offset after a letter and the white space around it."""
    offset = _skip_space(body, offset, end)
    return _skip_space(body, offset + 1, end) if offset < end and body[offset] == letter else end + 1


@compiled()
def _skip_name(body: Bytes, offset: int, end: int, name: Bytes) -> int:
    """Return the offset after a field's name and its colon."""
    if offset + len(name) >= end:
        return end + 1
    for index in range(len(name)):
        if body[offset + index] != name[index]:
            return end + 1
    return _skip_letter(body, offset + len(name), end, _COLON)


@compiled()
def find_text(body: Bytes, end: int) -> tuple[int, int, int]:
    """Return the start and end of the text in a body, and its number of escapes; -1, -1, 0 for other bodies."""
    none = (-1, -1, 0)
    start = _skip_name(body, _skip_letter(body, 0, end, _OPEN), end, _INPUTS)
    if start >= end or body[start] != _QUOTE:
        return none
    start += 1
    stop = start
    escapes = 0
    while stop < end and body[stop] != _QUOTE:
        if body[stop] < 32 or body[stop] > 127:
            return none
        if body[stop] == _BACKSLASH:
            stop += 1
            escapes += 1
            if stop >= end or _ESCAPES[body[stop]] == 0:
                return none
        stop += 1
    offset = _skip_space(body, stop + 1, end)
    if offset < end and body[offset] == _COMMA:
        offset = _skip_name(body, _skip_letter(body, offset, end, _COMMA), end, _PARAMETERS)
        offset = _skip_letter(body, _skip_letter(body, offset, end, _OPEN), end, _CLOSE)
    return (start, stop, escapes) if _skip_letter(body, offset, end, _CLOSE) == end else none


@compiled()
def unescape(text: Bytes, escapes: int) -> Bytes:
    """Return a text with its escapes decoded."""
    decoded = np.empty(len(text) - escapes, np.uint8)
    offset = 0
    for index in range(len(decoded)):
        decoded[index] = text[offset]
        if text[offset] == _BACKSLASH:
            offset += 1
            decoded[index] = _ESCAPES[text[offset]]
        offset += 1
    return decoded


@compiled()
def _write_digits(digits: int | np.int64, count: int, out: Bytes, offset: int) -> int:
    """Write an integer with `count` digits; return the offset after it."""
    for index in range(offset + count - 1, offset - 1, -1):
        out[index] = _ZERO + digits % 10
        digits //= 10
    return offset + count


@compiled()
def write_score(value: float, out: Bytes, offset: int) -> int:
    """Write a number between 0 and 1 as `serving.web.protocol.format_score`; return the offset after it."""
    power, digits = 0, np.int64(0)
    if value > 0:
        power = floor(log10(value))
        shift = SCORE_DIGITS - 1 - power
        if shift > 300:  # the table of powers ends at 308
            value *= _POWERS_OF_TEN[100]
            shift -= 100
        digits = np.int64(np.rint(value * _POWERS_OF_TEN[shift]))
        if digits < _POWERS_OF_TEN[SCORE_DIGITS - 1]:  # the logarithm was rounded up
            power -= 1
            digits = np.int64(np.rint(value * _POWERS_OF_TEN[shift] * 10))
        if digits >= _POWERS_OF_TEN[SCORE_DIGITS]:
            power += 1
            digits = (digits + 5) // 10
    count = SCORE_DIGITS
    while count > 1 and digits % 10 == 0:
        digits //= 10
        count -= 1
    if -5 < power < 0:  # 0.00123
        out[offset : offset + 1 - power] = _ZERO
        out[offset + 1] = _POINT
        return _write_digits(digits, count, out, offset + 1 - power)
    if power == 0:  # 1.0
        out[offset + 1], out[offset + 2] = _POINT, _ZERO
        if count == 1:
            _write_digits(digits, 1, out, offset)
            return offset + 3
    end = _write_digits(digits, count, out, offset + 1)  # 1.23e-05
    out[offset] = out[offset + 1]
    out[offset + 1] = _POINT
    if count == 1:
        end -= 1
    if power == 0:
        return end
    out[end], out[end + 1] = _E, _MINUS
    return _write_digits(-power, 3 if power < -99 else 2, out, end + 2)


@compiled()
def write_response(
    probabilities: NDArray[np.float64],
    order: NDArray[np.int64],
    label_bytes: Bytes,
    label_offsets: NDArray[np.int64],
    nested: int,
    out: Bytes,
) -> tuple[int, int]:
    """Write the response, the best label first; return its length and the best class.

    Args:
        order: scratch, `(classes,)`.
        label_bytes: JSON before the score of each label; those of a label start at its offset.
        nested: 1 for a list of one list, 0 for a list.
    """
    classes = len(probabilities)
    for label in range(classes):
        rank = label
        while rank > 0 and probabilities[order[rank - 1]] < probabilities[label]:
            order[rank] = order[rank - 1]
            rank -= 1
        order[rank] = label
    end = 1 + nested
    out[:end] = ord("[")
    for rank in range(classes):
        if rank:
            out[end], out[end + 1] = _COMMA, 32
            end += 2
        label = order[rank]
        for index in range(label_offsets[label], label_offsets[label + 1]):
            out[end] = label_bytes[index]
            end += 1
        end = write_score(probabilities[label], out, end)
        out[end] = _CLOSE
        end += 1
    out[end : end + 1 + nested] = ord("]")
    return end + 1 + nested, order[0]
