"""Fast path of requests with one ASCII text: from the body to the response in one compiled call.

    {"inputs": "a text"}                          or with an empty "parameters"

Most requests have this form. To parse them with pydantic, pass arrays to the kernel and encode the response in Python
takes longer than the classification, and evicts what Ray needs next from the processor's caches. So one compiled
function, which receives its arrays by address, parses the body, classifies the text and writes the response. Every
other body, also an invalid one, is left to the slow path in `serving.web.protocol`. Its responses are the same, except
for the last digit of a score whose further digits are very nearly a half.
"""

import ctypes
import hashlib
import inspect
from collections.abc import Callable, Sequence
from functools import cache
from math import exp
from typing import TypeVar, cast

import numpy as np
from llvmlite import ir
from numba import cfunc, types
from numba.core.ccallback import CFunc
from numba.core.typing.templates import Signature
from numba.extending import intrinsic
from numba.np.numpy_support import carray
from numpy.typing import NDArray

from jobs.inference import scoring_kernel
from jobs.inference.classifier import Classifier
from jobs.inference.scoring_kernel import score_ascii_text
from jobs.model.compilation import compiled
from serving.web import compiled_json
from serving.web.compiled_json import MAX_SCORE_BYTES, find_text, unescape, write_response
from serving.web.metrics import ModelCounters
from serving.web.protocol import encode_label_prefix

MAX_LABELS = 200  # with more labels the slow path, which sorts them faster, writes the response

# The state of a FastPath, int64: numbers, then the address and the size of each array.
_LOWERCASE, _NUM_COLUMNS, _MAX_TEXT_LENGTH, _FIRST_ARRAY = range(4)
# The arrays: the classifier's, then those for responses and counts, then scratch.
_WORD_BYTES, _WORD_OFFSETS, _SLOTS, _HASHES = range(4)
_TABLE, _FILTER_COUNTS, _COLUMN_OFFSETS, _BIASES, _OUTPUT, _OUTPUT_BIAS = range(4, 10)
_LABEL_BYTES, _LABEL_OFFSETS, _RESPONSE, _COUNTS = range(10, 14)
_TOKEN_IDS, _SUMS, _FEATURES, _SCORES, _PROBABILITIES, _ORDER, _NUM_ARRAYS = range(14, 21)
_DTYPES = "BliLfllfffBlBdlfffdl"  # uint8 B, int32 i, int64 l, uint64 L, float32 f, float64 d

Entry = Callable[[bytes, int, int, bool], int]
CompiledEntry = Callable[[ctypes.c_void_p, int, ctypes.c_void_p, int], int]
# The result of the compiled entry: the length of the response, and above it the share of unknown words in thousandths.
_LENGTH_BITS = 40
Scalar = TypeVar("Scalar", bound=np.generic)


class FastPath:
    """Fast path of one classifier; not safe for use from several threads at a time.

    Args:
        max_text_length: maximum number of characters of a text.

    unknown_permille: share of unknown words in the text of the last response, in thousandths.
    """

    def __init__(self, classifier: Classifier, max_text_length: int) -> None:
        labels = [encode_label_prefix(label).encode() for label in classifier.labels]
        label_offsets = np.cumsum([0, *(len(label) for label in labels)])
        classes, filters = len(labels), len(classifier.weights.biases)
        self._response = np.zeros(4 + label_offsets[-1] + classes * (MAX_SCORE_BYTES + 4), np.uint8)
        self._counts = np.zeros(3 + classes)  # confidence, tokens, unknown tokens, and texts per label
        self._arrays = [  # kept alive here: compiled code has only their addresses
            *classifier.kernel_arrays(),
            *(np.frombuffer(b"".join(labels), np.uint8), label_offsets, self._response, self._counts),
            np.empty(max(1, min(classifier.text_settings.max_tokens, max_text_length + 1)), np.int64),
            *(np.empty(size, np.float32) for size in (filters, filters, classes)),
            *(np.empty(classes), np.empty(classes, np.int64)),
        ]
        assert "".join(array.dtype.char for array in self._arrays) == _DTYPES
        numbers = [
            int(classifier.text_settings.lowercase),
            classifier.num_columns,
            max_text_length if classes <= MAX_LABELS else -1,
        ]
        references = [number for array in self._arrays for number in (array.ctypes.data, array.size)]
        self._state = np.array([*numbers, *references], np.int64)
        self._entry = compile_entry()[1]
        self._state_address, self._response_view = self._state.ctypes.data, self._response.data
        self.unknown_permille = 0

    def try_classify(self, body: bytes, *, flat: bool) -> bytes | None:
        """Return the response to a body: a list if `flat`, else a list of one list.

        None, without any effect, if the body has another form or a word that is not in the classifier's table.
        """
        result = self._entry(body, len(body), self._state_address, flat)
        if result <= 0:
            return None
        self.unknown_permille = result >> _LENGTH_BITS
        return bytes(self._response_view[: result & ((1 << _LENGTH_BITS) - 1)])

    def flush_counts(self, counters: ModelCounters) -> None:
        """Add the counts since the last flush to counters."""
        confidence, tokens, unknown, *labels = self._counts.tolist()
        self._counts[:] = 0
        counters.confidence_sum += confidence
        counters.tokens += int(tokens)
        counters.unknown_tokens += int(unknown)
        for label, count in enumerate(labels):
            counters.label_counts[label] += int(count)


@compiled()
def _write_softmax(scores: NDArray[np.float32], probabilities: NDArray[np.float64]) -> None:
    highest = scores[0]
    for label in range(1, len(scores)):
        highest = max(highest, scores[label])
    total = 0.0
    for label in range(len(scores)):
        probabilities[label] = exp(np.float64(scores[label]) - np.float64(highest))
        total += probabilities[label]
    for label in range(len(scores)):
        probabilities[label] /= total


def _convert_to_pointer(_typing_context: object, address: types.Type) -> tuple[Signature, Callable[..., ir.Value]]:
    def generate(
        _context: object, builder: ir.IRBuilder, _signature: object, arguments: Sequence[ir.Value]
    ) -> ir.Value:
        return builder.inttoptr(arguments[0], ir.IntType(8).as_pointer())

    return types.voidptr(types.int64), generate


# In compiled code: the pointer of an address.
_to_pointer = cast("Callable[[int], ctypes.c_void_p]", intrinsic(_convert_to_pointer))


@compiled()
def _get_array(state: NDArray[np.int64], array: int, dtype: type[Scalar]) -> NDArray[Scalar]:
    index = _FIRST_ARRAY + 2 * array
    return carray(_to_pointer(int(state[index])), (int(state[index + 1]),), dtype)


@cache
def compile_entry() -> "tuple[CFunc[CompiledEntry], Entry]":
    """Compile the entry, or read it from numba's cache; return it, and as a function for Python.

    numba reuses a cached function unless its own file or a value in its closure has changed. The digest of the other
    source files is in the closure, so that numba recompiles `entry` when one of them changes.
    """
    sources = inspect.getsource(scoring_kernel) + inspect.getsource(compiled_json)
    digest = hashlib.sha256(sources.encode()).hexdigest()

    @cfunc(types.int64(types.voidptr, types.int64, types.voidptr, types.int64), cache=True, error_model="numpy")
    def entry(body: ctypes.c_void_p, size: int, state_address: ctypes.c_void_p, flat: int) -> int:
        """Write and count the response to a body; return its length and unknown words, or -1 for the slow path."""
        _ = digest
        state = carray(state_address, (_FIRST_ARRAY + 2 * _NUM_ARRAYS,), np.int64)
        text = carray(body, (size,), np.uint8)
        start, stop, escapes = find_text(text, size)
        if start < 0 or stop - start - escapes > state[_MAX_TEXT_LENGTH]:
            return -1
        if escapes:
            text = unescape(text[start:stop], escapes)
            start, stop = 0, len(text)
        scores = _get_array(state, _SCORES, np.float32)
        tokens, unknown = score_ascii_text(
            text, start, stop, bool(state[_LOWERCASE]),
            _get_array(state, _WORD_BYTES, np.uint8), _get_array(state, _WORD_OFFSETS, np.int64),
            _get_array(state, _SLOTS, np.int32), _get_array(state, _HASHES, np.uint64),
            _get_array(state, _TABLE, np.float32), int(state[_NUM_COLUMNS]),
            _get_array(state, _FILTER_COUNTS, np.int64), _get_array(state, _COLUMN_OFFSETS, np.int64),
            _get_array(state, _BIASES, np.float32),
            _get_array(state, _OUTPUT, np.float32), _get_array(state, _OUTPUT_BIAS, np.float32),
            _get_array(state, _TOKEN_IDS, np.int64), _get_array(state, _SUMS, np.float32),
            _get_array(state, _FEATURES, np.float32), scores,
        )  # fmt: skip
        if tokens < 0:
            return -1
        probabilities = _get_array(state, _PROBABILITIES, np.float64)
        _write_softmax(scores, probabilities)
        length, best = write_response(
            probabilities, _get_array(state, _ORDER, np.int64),
            _get_array(state, _LABEL_BYTES, np.uint8), _get_array(state, _LABEL_OFFSETS, np.int64),
            1 - flat, _get_array(state, _RESPONSE, np.uint8),
        )  # fmt: skip
        counts = _get_array(state, _COUNTS, np.float64)
        counts[0] += probabilities[best]
        counts[1] += tokens
        counts[2] += unknown
        counts[3 + best] += 1
        unknown_permille = (1000 * unknown + tokens // 2) // tokens if tokens else 0
        return length + (unknown_permille << _LENGTH_BITS)

    # PYFUNCTYPE keeps the interpreter lock: to release it takes longer than what another thread could do meanwhile.
    assert entry.address is not None
    arguments = (ctypes.c_char_p, ctypes.c_int64, ctypes.c_void_p, ctypes.c_int64)
    return entry, ctypes.PYFUNCTYPE(ctypes.c_int64, *arguments)(entry.address)
