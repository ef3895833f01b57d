"""Compiled path of a request's texts: from their bytes to scores in one call.

To pass a kernel's arrays through numba's dispatcher, and to apply softmax in Python, takes longer than to classify a
text, and evicts what Ray needs next from the processor's caches. So one compiled function receives its arrays by
address, scores all texts of a request, applies the request's function, and counts. Texts that the kernel cannot score,
because a word is not in the table or Python must normalize them, are scored by the classifier; the rest is the same.
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
from msgspec import Struct
from numba import cfunc, types
from numba.core.ccallback import CFunc
from numba.core.typing.templates import Signature
from numba.extending import intrinsic
from numba.np.numpy_support import carray
from numpy.typing import NDArray

from jobs.inference import code_points, prefetch, scoring_kernel, tokenizer_kernel
from jobs.inference.classifier import Classifier
from jobs.inference.scoring_kernel import score_ascii_text, score_utf8_text
from jobs.model.compilation import compiled
from serving.web.metrics import ModelCounters
from serving.web.protocol import FUNCTIONS

# The files of all kernels that the entry calls.
KERNEL_MODULES = (scoring_kernel, tokenizer_kernel, code_points, prefetch)

_SOFTMAX, _SIGMOID = range(2)  # indices of FUNCTIONS

# The state of a CompiledScorer, int64: numbers, then the address and the size of each array.
_LOWERCASE, _NUM_COLUMNS, _FIRST_ARRAY = range(3)
# The arrays: the classifier's, then those for scores and counts, the temperature, then scratch, then the tables of
# `code_points`.
_WORD_BYTES, _WORD_OFFSETS, _SLOTS, _HASHES = range(4)
_TABLE, _FILTER_COUNTS, _COLUMN_OFFSETS, _BIASES, _OUTPUT, _OUTPUT_BIAS = range(4, 10)
_OFFSETS, _LOGITS, _SCORES, _BEST, _COUNTS, _TEMPERATURE = range(10, 16)
_TOKEN_IDS, _SUMS, _FEATURES, _ENTRIES, _COMPOSITIONS, _NUM_ARRAYS = range(16, 22)
_DTYPES = "BliLfllfffl" + "fdldd" + "lff" + "il"  # uint8 B, int32 i, int64 l, uint64 L, float32 f, float64 d
_CONFIDENCE, _TOKENS, _UNKNOWN, _FIRST_LABEL = range(4)  # of _COUNTS

Entry = Callable[[bytes, int, int, int, int, int], int]
CompiledEntry = Callable[[ctypes.c_void_p, int, int, int, int, ctypes.c_void_p], int]
Scalar = TypeVar("Scalar", bound=np.generic)


class ScoredTexts(Struct):
    """Scores of each text, `(texts, classes)`, and the share of unknown words in all of them, in thousandths."""

    scores: list[list[float]]
    unknown_permille: int


class CompiledScorer:
    """Scorer of one classifier; not safe for use from several threads at a time.

    Args:
        max_texts: maximum number of texts of a request.
        max_text_length: maximum number of characters of a text.

    best: the best class of each text of the last request, `(max_texts,)` int64.
    """

    def __init__(self, classifier: Classifier, max_texts: int, max_text_length: int) -> None:
        self._classifier = classifier
        classes, filters = len(classifier.labels), len(classifier.weights.biases)
        self._offsets = np.zeros(max_texts + 1, np.int64)
        self._logits, self._scores = np.empty(max_texts * classes, np.float32), np.empty(max_texts * classes)
        self.best = np.zeros(max_texts, np.int64)
        self._counts = np.zeros(_FIRST_LABEL + classes)
        self._temperature = np.array([classifier.temperature])
        arrays = [  # kept alive by the attribute: compiled code has only their addresses
            *classifier.kernel_arrays(),
            *(self._offsets, self._logits, self._scores, self.best, self._counts, self._temperature),
            np.empty(max(1, min(classifier.text_settings.max_tokens, 4 * max_text_length + 1)), np.int64),
            *(np.empty(size, np.float32) for size in (filters, filters)),
            *code_points.make_tables(classifier.text_settings.lowercase),
        ]
        assert "".join(array.dtype.char for array in arrays) == _DTYPES
        numbers = [int(classifier.text_settings.lowercase), classifier.num_columns]
        references = [number for array in arrays for number in (array.ctypes.data, array.size)]
        self._arrays, self._state = arrays, np.array([*numbers, *references], np.int64)
        self._entry, self._state_address = compile_entry()[1], self._state.ctypes.data
        self._matrix = self._scores.reshape(max_texts, classes)
        self._first_row = self._matrix[:1]

    def score(self, texts: Sequence[str], function: str) -> ScoredTexts:
        """Return the scores of texts after the function, and count them; `best` has their best classes."""
        count = len(texts)
        code = FUNCTIONS.index(function)
        if count == 1:
            content = texts[0].encode("utf-8", "surrogatepass")
        else:
            encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
            content = b"".join(encoded)
            np.cumsum([len(text) for text in encoded], out=self._offsets[1 : count + 1])
        permille = self._entry(content, len(content), content.isascii(), count, code, self._state_address)
        if permille < 0:
            permille = self._score_slowly(texts, code)
        rows = self._first_row if count == 1 else self._matrix[:count]
        return ScoredTexts(rows.tolist(), permille)

    def _score_slowly(self, texts: Sequence[str], function: int) -> int:
        """Score texts as the classifier does; return the share of unknown words in thousandths."""
        result = self._classifier.score_texts(texts)
        _apply_function(
            result.logits.reshape(-1), len(texts), function, self._scores, self.best, self._counts,
            result.num_tokens, result.num_unknown, self._temperature[0],
        )  # fmt: skip
        return _to_permille(result.num_tokens, result.num_unknown)

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
def _apply_function(
    logits: NDArray[np.float32], texts: int, function: int, scores: NDArray[np.float64], best: NDArray[np.int64],
    counts: NDArray[np.float64], tokens: int, unknown: int, temperature: float,
) -> None:  # fmt: skip
    """Write the scores and the best class of each text, and count; logits, scores: `(texts * classes,)`.

    The temperature divides the logits before softmax only: sigmoid and none are applied to the network's own logits.
    """
    classes = len(counts) - _FIRST_LABEL
    for start in range(0, texts * classes, classes):
        highest = start
        for index in range(start + 1, start + classes):
            if logits[index] > logits[highest]:
                highest = index
        total = 0.0
        for index in range(start, start + classes):
            scores[index] = exp((np.float64(logits[index]) - np.float64(logits[highest])) / temperature)
            total += scores[index]
        best[start // classes] = highest - start
        counts[_FIRST_LABEL + highest - start] += 1
        counts[_CONFIDENCE] += 1 / total
        for index in range(start, start + classes):
            if function == _SOFTMAX:
                scores[index] /= total
            elif function == _SIGMOID:
                scores[index] = 1 / (1 + exp(-np.float64(logits[index])))
            else:
                scores[index] = logits[index]
    counts[_TOKENS] += tokens
    counts[_UNKNOWN] += unknown


@compiled()
def _to_permille(tokens: int, unknown: int) -> int:
    """Return the share of unknown tokens in thousandths."""
    return (1000 * unknown + tokens // 2) // tokens if tokens else 0


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

    numba reuses a cached function unless its own file or a value in its closure has changed. The digest of the kernels'
    source is in the closure, so that numba recompiles `entry` when that changes.
    """
    source = "".join(map(inspect.getsource, KERNEL_MODULES))
    digest = hashlib.sha256(source.encode()).hexdigest()

    signature = types.int64(types.voidptr, *4 * [types.int64], types.voidptr)

    @cfunc(signature, cache=True, error_model="numpy")
    def entry(
        text_address: ctypes.c_void_p, size: int, is_ascii: int, texts: int, function: int,
        state_address: ctypes.c_void_p,
    ) -> int:  # fmt: skip
        """Score and count texts; return the share of unknown words, or -1 if a text is left to Python."""
        _ = digest
        state = carray(state_address, (_FIRST_ARRAY + 2 * _NUM_ARRAYS,), np.int64)
        offsets = _get_array(state, _OFFSETS, np.int64)
        offsets[texts] = size
        text = carray(text_address, (size,), np.uint8)
        logits, counts = _get_array(state, _LOGITS, np.float32), _get_array(state, _COUNTS, np.float64)
        output_bias = _get_array(state, _OUTPUT_BIAS, np.float32)
        classes = len(output_bias)
        tokens = unknown = 0
        arguments = (
            _get_array(state, _WORD_BYTES, np.uint8), _get_array(state, _WORD_OFFSETS, np.int64),
            _get_array(state, _SLOTS, np.int32), _get_array(state, _HASHES, np.uint64),
            _get_array(state, _TABLE, np.float32), int(state[_NUM_COLUMNS]),
            _get_array(state, _FILTER_COUNTS, np.int64), _get_array(state, _COLUMN_OFFSETS, np.int64),
            _get_array(state, _BIASES, np.float32), _get_array(state, _OUTPUT, np.float32), output_bias,
            _get_array(state, _TOKEN_IDS, np.int64), _get_array(state, _SUMS, np.float32),
            _get_array(state, _FEATURES, np.float32),
        )  # fmt: skip
        entries, compositions = _get_array(state, _ENTRIES, np.int32), _get_array(state, _COMPOSITIONS, np.int64)
        lowercase = bool(state[_LOWERCASE])
        for index in range(texts):
            start, end = offsets[index], offsets[index + 1]
            text_logits = logits[index * classes : (index + 1) * classes]
            if is_ascii:
                text_tokens, text_unknown = score_ascii_text(text, start, end, lowercase, *arguments, text_logits)
            else:
                text_tokens, text_unknown = score_utf8_text(
                    text, start, end, entries, compositions, *arguments, text_logits
                )
            if text_tokens < 0:
                return -1
            tokens += text_tokens
            unknown += text_unknown
        scores, best = _get_array(state, _SCORES, np.float64), _get_array(state, _BEST, np.int64)
        temperature = _get_array(state, _TEMPERATURE, np.float64)[0]
        _apply_function(logits, texts, function, scores, best, counts, tokens, unknown, temperature)
        return _to_permille(tokens, unknown)

    # PYFUNCTYPE keeps the interpreter lock: to release it takes longer than what another thread could do meanwhile.
    assert entry.address is not None
    arguments = (ctypes.c_char_p, *4 * [ctypes.c_int64], ctypes.c_void_p)
    return entry, ctypes.PYFUNCTYPE(ctypes.c_int64, *arguments)(entry.address)
