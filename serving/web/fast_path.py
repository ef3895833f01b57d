"""The plain question, one text in ASCII and nothing else: from the request's body to the answer in one compiled call.

    {"inputs": "a text"}                          or with an empty "parameters"

It is what most requests are. Understanding it with pydantic, handing arrays to the kernel and writing the answer in
Python take longer than the classification, and push what Ray needs next out of the processor's caches; so here a body
is read, classified and answered without leaving compiled code, which takes its arrays by their addresses. Whatever is
not a plain question, or not quite valid, is left to `serving.web.protocol`, whose answers are the same, but for the
last digit of a score where what follows it is all but a half.
"""

import ctypes
import hashlib
from collections.abc import Callable
from functools import cache
from math import exp, floor, log10
from pathlib import Path

import numpy as np
from numba import carray, cfunc, njit, types
from numba.core.ccallback import CFunc
from numba.extending import intrinsic

from jobs.inference import scoring_kernel as kernel
from jobs.inference.classifier import Classifier
from jobs.inference.scoring_kernel import NUMBA_OPTIONS, score_ascii_text
from serving.web.metrics import ModelCounters
from serving.web.protocol import encode_label_prefix

_OPEN, _CLOSE, _COLON, _COMMA, _QUOTE, _BACKSLASH = (ord(letter) for letter in '{}:,"\\')
_INPUTS, _PARAMETERS = (np.frombuffer(name.encode(), np.uint8) for name in ('"inputs"', '"parameters"'))
_MINUS, _POINT, _ZERO, _E = (ord(letter) for letter in "-.0e")
# What a letter after a backslash stands for; 0 where that is for the ordinary road.
_ESCAPED = np.zeros(256, np.uint8)
for _letter, _meant in zip('"\\/bfnrt', '"\\/\b\f\n\r\t', strict=True):
    _ESCAPED[ord(_letter)] = ord(_meant)
_TENS = np.array([float(f"1e{power}") for power in range(309)])
SCORE_DIGITS = 9  # of a score
_LONGEST_NUMBER = 24  # bytes of one
# Of more labels the answer is written on the ordinary road, which sorts better.
MAX_LABELS = 200

# What compiled code finds in the state of a `Plain`: numbers, then each array's address and length.
_LOWERCASE, _COLUMNS, _LONGEST, _ARRAYS = range(4)
# The classifier's, what answers are made of, and scratch.
_WORDS, _STARTS, _SLOTS, _HASHES, _TABLE, _LENGTHS, _PLACES, _BIASES, _OUTPUT, _OUTPUT_BIAS = range(10)
_LABELS, _LABEL_STARTS, _ANSWER, _TALLY = range(10, 14)
_IDS, _SUMS, _FEATURES, _SCORES, _PROBABILITIES, _ORDER, _END = range(14, 21)
_KINDS = "BliLfllfffBlBdlfffdl"  # uint8 B, int32 i, int64 l, uint64 L, float32 f, float64 d


class FastPath:
    """Answers plain questions with one classifier; to be used from one thread at a time.

    Args:
        longest: characters of a text at most.
    """

    def __init__(self, classifier: Classifier, longest: int) -> None:
        labels = [encode_label_prefix(label).encode() for label in classifier.labels]
        label_starts = np.cumsum([0, *(len(label) for label in labels)])
        classes, filters = len(labels), len(classifier.weights.biases)
        self._answer = np.zeros(4 + label_starts[-1] + classes * (_LONGEST_NUMBER + 4), np.uint8)
        self._tally = np.zeros(3 + classes)  # confidence, tokens, unknown tokens, and texts by label
        self._arrays = [  # which must not go while their addresses are used
            *classifier.kernel_arrays(),
            *(np.frombuffer(b"".join(labels), np.uint8), label_starts, self._answer, self._tally),
            np.empty(max(1, min(classifier.text_settings.max_tokens, longest + 1)), np.int64),
            *(np.empty(size, np.float32) for size in (filters, filters, classes)),
            *(np.empty(classes), np.empty(classes, np.int64)),
        ]
        assert "".join(each.dtype.char for each in self._arrays) == _KINDS
        numbers = [
            int(classifier.text_settings.lowercase),
            classifier.num_columns,
            longest if classes <= MAX_LABELS else -1,
        ]
        self._state = np.array([*numbers, *(part for a in self._arrays for part in (a.ctypes.data, a.size))], np.int64)
        self._call = compile_entry()[1]
        self._where, self._view = self._state.ctypes.data, memoryview(self._answer)

    def try_classify(self, body: bytes, *, flat: bool) -> bytes | None:
        """Return the answer to a body, a list if `flat`, else a list of one list.

        None: it is no plain question, or holds a word that the classifier's table lacks; nothing was done.
        """
        length = self._call(body, len(body), self._where, flat)
        return None if length <= 0 else bytes(self._view[:length])

    def flush_counts(self, tally: ModelCounters) -> None:
        """Add what was answered since the last time to a tally."""
        confidence, tokens, unknown, *labels = self._tally.tolist()
        self._tally[:] = 0
        tally.confidence_sum += confidence
        tally.tokens += int(tokens)
        tally.unknown_tokens += int(unknown)
        for label, count in enumerate(labels):
            tally.label_counts[label] += int(count)


@njit(**NUMBA_OPTIONS)
def _blank(body, place, end):
    """Return the place after white space."""
    while place < end and (body[place] == 32 or 9 <= body[place] <= 10 or body[place] == 13):
        place += 1
    return place


@njit(**NUMBA_OPTIONS)
def _after(body, place, end, letter):
    """Return the place after a letter and white space around it; beyond the end where another one stands."""
    place = _blank(body, place, end)
    return _blank(body, place + 1, end) if place < end and body[place] == letter else end + 1


@njit(**NUMBA_OPTIONS)
def _after_name(body, place, end, name):
    """Return the place after a field's name and colon; beyond the end where something else stands."""
    if place + len(name) >= end:
        return end + 1
    for each in range(len(name)):
        if body[place + each] != name[each]:
            return end + 1
    return _after(body, place + len(name), end, _COLON)


@njit(**NUMBA_OPTIONS)
def _text(body, end):
    """Return where the text of a plain question starts and ends, and how many escapes are in it; -1 if it is none."""
    none = (-1, -1, 0)
    start = _after_name(body, _after(body, 0, end, _OPEN), end, _INPUTS)
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
            if stop >= end or _ESCAPED[body[stop]] == 0:
                return none
        stop += 1
    place = _blank(body, stop + 1, end)
    if place < end and body[place] == _COMMA:
        place = _after_name(body, _after(body, place, end, _COMMA), end, _PARAMETERS)
        place = _after(body, _after(body, place, end, _OPEN), end, _CLOSE)
    return (start, stop, escapes) if _after(body, place, end, _CLOSE) == end else none


@njit(**NUMBA_OPTIONS)
def _unescaped(text, escapes):
    """Return a text with its escapes replaced."""
    found = np.empty(len(text) - escapes, np.uint8)
    place = 0
    for each in range(len(found)):
        found[each] = text[place]
        if text[place] == _BACKSLASH:
            place += 1
            found[each] = _ESCAPED[text[place]]
        place += 1
    return found


@njit(**NUMBA_OPTIONS)
def _write_number(value, out, place):
    """Write a number from 0 to 1 as `serving.web.protocol.number` does; return the place after it."""
    power, digits = 0, np.int64(0)
    if value > 0:
        power = floor(log10(value))
        shift = SCORE_DIGITS - 1 - power
        if shift > 300:  # beyond what a power of ten can be
            value *= _TENS[100]
            shift -= 100
        digits = np.int64(np.rint(value * _TENS[shift]))
        if digits < _TENS[SCORE_DIGITS - 1]:  # the logarithm was rounded up
            power -= 1
            digits = np.int64(np.rint(value * _TENS[shift] * 10))
        if digits >= _TENS[SCORE_DIGITS]:
            power += 1
            digits = (digits + 5) // 10
    count = SCORE_DIGITS
    while count > 1 and digits % 10 == 0:
        digits //= 10
        count -= 1
    if -5 < power < 0:  # 0.00123
        out[place : place + 1 - power] = _ZERO
        out[place + 1] = _POINT
        return _write_digits(digits, count, out, place + 1 - power)
    if power == 0:  # 1.0
        out[place + 1], out[place + 2] = _POINT, _ZERO
        if count == 1:
            _write_digits(digits, 1, out, place)
            return place + 3
    end = _write_digits(digits, count, out, place + 1)  # 1.23e-05
    out[place] = out[place + 1]
    out[place + 1] = _POINT
    if count == 1:
        end -= 1
    if power == 0:
        return end
    out[end], out[end + 1] = _E, _MINUS
    return _write_digits(-power, 3 if power < -99 else 2, out, end + 2)


@njit(**NUMBA_OPTIONS)
def _write_digits(digits, count, out, place):
    """Write a whole number with so many digits; return the place after it."""
    for each in range(place + count - 1, place - 1, -1):
        out[each] = _ZERO + digits % 10
        digits //= 10
    return place + count


@njit(**NUMBA_OPTIONS)
def _write(probabilities, order, letters, starts, nested, out):
    """Write the answer, the likeliest label first; return its length and the best class. order: scratch."""
    classes = len(probabilities)
    for each in range(classes):
        place = each
        while place > 0 and probabilities[order[place - 1]] < probabilities[each]:
            order[place] = order[place - 1]
            place -= 1
        order[place] = each
    end = 1 + nested
    out[:end] = ord("[")
    for each in range(classes):
        if each:
            out[end], out[end + 1] = _COMMA, 32
            end += 2
        label = order[each]
        for place in range(starts[label], starts[label + 1]):
            out[end] = letters[place]
            end += 1
        end = _write_number(probabilities[label], out, end)
        out[end] = _CLOSE
        end += 1
    out[end : end + 1 + nested] = ord("]")
    return end + 1 + nested, order[0]


@njit(**NUMBA_OPTIONS)
def _softmax(scores, probabilities):
    """Write what scores are as probabilities."""
    highest = scores[0]
    for each in range(1, len(scores)):
        highest = max(highest, scores[each])
    total = 0.0
    for each in range(len(scores)):
        probabilities[each] = exp(np.float64(scores[each]) - np.float64(highest))
        total += probabilities[each]
    for each in range(len(scores)):
        probabilities[each] /= total


@intrinsic
def _at(typing_context, address):
    """Return the pointer with an address, an int64."""

    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], context.get_value_type(types.voidptr))

    return types.voidptr(types.int64), generate


@njit(**NUMBA_OPTIONS)
def _array(state, number, dtype):
    place = _ARRAYS + 2 * number
    return carray(_at(state[place]), (state[place + 1],), dtype)


@cache
def compile_entry() -> tuple[CFunc, Callable[[bytes, int, int, bool], int]]:
    """Compile the entry, or read what is compiled; return it, and as Python calls it.

    numba takes what it compiled before unless this file has changed, whatever it calls in others; but a function that
    encloses something else is another one.
    """
    stamp = hashlib.sha256(Path(kernel.__file__).read_bytes()).hexdigest()

    @cfunc(types.int64(types.voidptr, types.int64, types.voidptr, types.int64), cache=True, error_model="numpy")
    def entry(body, size, where, flat):
        """Write the answer to a body and count it; return the answer's length, -1 if the body is left."""
        _ = stamp
        state = carray(where, (_ARRAYS + 2 * _END,), np.int64)
        letters = carray(body, (size,), np.uint8)
        start, stop, escapes = _text(letters, size)
        if start < 0 or stop - start - escapes > state[_LONGEST]:
            return -1
        if escapes:
            letters = _unescaped(letters[start:stop], escapes)
            start, stop = 0, len(letters)
        scores = _array(state, _SCORES, np.float32)
        tokens, unknown = score_ascii_text(
            letters, start, stop, state[_LOWERCASE] != 0,
            _array(state, _WORDS, np.uint8), _array(state, _STARTS, np.int64),
            _array(state, _SLOTS, np.int32), _array(state, _HASHES, np.uint64),
            _array(state, _TABLE, np.float32), state[_COLUMNS],
            _array(state, _LENGTHS, np.int64), _array(state, _PLACES, np.int64), _array(state, _BIASES, np.float32),
            _array(state, _OUTPUT, np.float32), _array(state, _OUTPUT_BIAS, np.float32),
            _array(state, _IDS, np.int64), _array(state, _SUMS, np.float32), _array(state, _FEATURES, np.float32),
            scores,
        )  # fmt: skip
        if tokens < 0:
            return -1
        probabilities = _array(state, _PROBABILITIES, np.float64)
        _softmax(scores, probabilities)
        length, best = _write(
            probabilities, _array(state, _ORDER, np.int64),
            _array(state, _LABELS, np.uint8), _array(state, _LABEL_STARTS, np.int64),
            1 - flat, _array(state, _ANSWER, np.uint8),
        )  # fmt: skip
        tally = _array(state, _TALLY, np.float64)
        tally[0] += probabilities[best]
        tally[1] += tokens
        tally[2] += unknown
        tally[3 + best] += 1
        return length

    # PYFUNCTYPE: the interpreter is held, since to let go of it takes longer than what another thread could do.
    given = (ctypes.c_char_p, ctypes.c_int64, ctypes.c_void_p, ctypes.c_int64)
    return entry, ctypes.PYFUNCTYPE(ctypes.c_int64, *given)(entry.address)
