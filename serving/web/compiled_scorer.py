"""Compiled path of a request's texts: from their bytes to scores in one call.

To apply softmax in Python takes longer than to classify a text, and evicts what Ray needs next from the processor's
caches. So one compiled function receives its arrays by address, scores all texts of a request, applies the request's
function, and counts, also in the bins of the checkpoint's distribution if it stores one. Texts that the kernel cannot
score, because a word is not in the table or Python must normalize them, are scored by the classifier; the rest is the
same.
"""

import ctypes
from collections.abc import Sequence
from functools import cache
from math import exp

import numpy as np
from msgspec import Struct
from numba.np.numpy_support import carray
from numpy.typing import NDArray

from jobs.compilation.decorator import compiled
from jobs.compilation.entry import Entry, compile_entry
from jobs.compilation.intrinsics import get_array, pack_addresses, view_read_only
from jobs.config.text_distribution import EDGES
from jobs.datasets.tokenization.code_points import join_texts
from jobs.inference.classifier import Classifier
from jobs.inference.projection_table import TableDtype
from jobs.inference.scoring_kernel import NUM_ARRAYS, TABLE, score_texts
from serving.web.metrics import ModelCounters
from serving.web.protocol import FUNCTIONS

_SOFTMAX, _SIGMOID = range(2)  # indices of FUNCTIONS

# The arrays of a CompiledScorer, after the classifier's.
_OFFSETS, _LOGITS, _SCORES, _BEST, _COUNTS, _TEMPERATURES = range(NUM_ARRAYS, NUM_ARRAYS + 6)
# Empty without a distribution: tokens and unknown tokens of each text; texts by bin; edges of the bins, as of EDGES.
_TOKEN_COUNTS, _BINS, _LENGTHS, _UNKNOWN_WORDS, _CONFIDENCES, _NUM_ARRAYS = range(NUM_ARRAYS + 6, NUM_ARRAYS + 12)
_DTYPES = "lfdlddllddd"  # int64 l, float32 f, float64 d
_CONFIDENCE, _TOKENS, _UNKNOWN, _FIRST_LABEL = range(4)  # of _COUNTS

# Each argument of a call takes as long as a few words of a text, so that one has several numbers: bit 0 is set if all
# texts are ASCII, then come two bits for the index of the function, then the number of texts.
_FUNCTION_BIT, _COUNT_BIT = 1, 3


class ScoredTexts(Struct):
    """Scores of each text, `(texts, classes)`, and the share of unknown words in all of them, in thousandths.

    The scores are in the scorer's memory: its next request overwrites them.
    """

    scores: NDArray[np.float64]
    unknown_permille: int


class CompiledScorer:
    """Scorer of one classifier; not safe for use from several threads at a time.

    Args:
        max_texts: maximum number of texts of a request.
        count_bins: count texts in the bins of `EDGES`.

    best: the best class of each text of the last request, `(max_texts,)` int64. memory_bytes: without the classifier.
    """

    def __init__(self, classifier: Classifier, max_texts: int, *, count_bins: bool = False) -> None:
        self._classifier = classifier
        classes = len(classifier.labels)
        self._offsets = np.zeros(max_texts + 1, np.int64)
        self._logits, self._scores = np.empty(max_texts * classes, np.float32), np.empty(max_texts * classes)
        self.best = np.zeros(max_texts, np.int64)
        self._counts = np.zeros(_FIRST_LABEL + classes)
        # Of softmax and of the sigmoid function: the checkpoint's own function has its temperature.
        sigmoid_temperature = classifier.temperature if classifier.is_multi_label else 1.0
        self._temperatures = np.array([classifier.temperature, sigmoid_temperature])
        self._edges = [np.array(edges, np.float64) for edges in EDGES.values()]
        self._token_counts = np.zeros(2 * max_texts if count_bins else 0, np.int64)
        self._bins = np.zeros(sum(len(edges) + 1 for edges in self._edges) if count_bins else 0, np.int64)
        arrays: list[np.ndarray] = [
            self._offsets, self._logits, self._scores, self.best, self._counts, self._temperatures,
            self._token_counts, self._bins, *self._edges,
        ]  # fmt: skip
        assert "".join(array.dtype.char for array in arrays) == _DTYPES
        self.memory_bytes = sum(array.nbytes for array in arrays)
        classifier.load_unicode_tables()
        self._addresses = np.concatenate([classifier.addresses, pack_addresses(arrays)])
        self._entry, self._address = compile_request(classifier.no_rows.dtype.name), self._addresses.ctypes.data
        self._matrix = self._scores.reshape(max_texts, classes)
        self._first_row = self._matrix[:1]

    def score(self, texts: Sequence[str], function: str) -> ScoredTexts:
        """Return the scores of texts after the function, and count them; `best` has their best classes."""
        count = len(texts)
        code = FUNCTIONS.index(function)
        if count == 1:
            content = texts[0].encode("utf-8", "surrogatepass")
        else:
            content, sizes = join_texts(texts)
            np.cumsum(sizes, out=self._offsets[1 : count + 1])
        options = content.isascii() | code << _FUNCTION_BIT | count << _COUNT_BIT
        permille = self._entry.call(content, len(content), options, self._address) - 1
        if permille < 0:
            permille = self._score_slowly(texts, code)
        rows = self._first_row if count == 1 else self._matrix[:count]
        return ScoredTexts(rows, permille)

    def _score_slowly(self, texts: Sequence[str], function: int) -> int:
        """Score texts as the classifier does; return the share of unknown words in thousandths."""
        groups = [[text] for text in texts] if len(self._bins) else [texts]
        results = [self._classifier.score_texts(group) for group in groups]
        tokens, unknown = sum(result.num_tokens for result in results), sum(result.num_unknown for result in results)
        if len(self._bins):
            self._token_counts[: 2 * len(texts)] = [count for result in results for count in result[1:]]
        temperature, sigmoid_temperature = self._temperatures.tolist()
        lengths, unknown_words, confidences = self._edges
        _apply_function(
            np.concatenate([result.logits for result in results]).reshape(-1), len(texts), function, self._scores,
            self.best, self._counts, tokens, unknown, temperature, sigmoid_temperature, self._token_counts, self._bins,
            lengths, unknown_words, confidences,
        )  # fmt: skip
        return _to_permille(tokens, unknown)

    def flush_counts(self, counters: ModelCounters) -> None:
        """Add the counts since the last flush to counters."""
        confidence, tokens, unknown, *labels = self._counts.tolist()
        self._counts[:] = 0
        counters.bins = self._bins.tolist()
        self._bins[:] = 0
        counters.confidence_sum += confidence
        counters.tokens += int(tokens)
        counters.unknown_tokens += int(unknown)
        for label, count in enumerate(labels):
            counters.label_counts[label] += int(count)


@compiled()
def _find_bin(edges: NDArray[np.float64], value: float) -> int:
    """Return the number of edges that are less than a value."""
    index = 0
    while index < len(edges) and edges[index] < value:
        index += 1
    return index


@compiled()
def _apply_function(
    logits: NDArray[np.float32], texts: int, function: int, scores: NDArray[np.float64], best: NDArray[np.int64],
    counts: NDArray[np.float64], tokens: int, unknown: int, temperature: float, sigmoid_temperature: float,
    token_counts: NDArray[np.int64], bins: NDArray[np.int64], lengths: NDArray[np.float64],
    unknown_words: NDArray[np.float64], confidences: NDArray[np.float64],
) -> None:  # fmt: skip
    """Write the scores and the best class of each text, and count; logits, scores: `(texts * classes,)`.

    Without several labels per text the temperature divides the logits before softmax only: sigmoid and none are applied
    to the network's own logits.
    """
    classes = len(counts) - _FIRST_LABEL
    for number in range(texts):
        start = highest = number * classes
        for index in range(start + 1, start + classes):
            if logits[index] > logits[highest]:
                highest = index
        total = 0.0
        for index in range(start, start + classes):
            scores[index] = exp((np.float64(logits[index]) - np.float64(logits[highest])) / temperature)
            total += scores[index]
        best[number] = highest - start
        counts[_FIRST_LABEL + highest - start] += 1
        counts[_CONFIDENCE] += 1 / total
        if len(bins):
            length = token_counts[2 * number]
            bins[_find_bin(lengths, length)] += 1
            first = len(lengths) + 1
            bins[first + _find_bin(unknown_words, token_counts[2 * number + 1] / max(length, 1))] += 1
            first += len(unknown_words) + 1
            bins[first + _find_bin(confidences, 1 / total)] += 1
        for index in range(start, start + classes):
            if function == _SOFTMAX:
                scores[index] /= total
            elif function == _SIGMOID:
                scores[index] = 1 / (1 + exp(-np.float64(logits[index]) / sigmoid_temperature))
            else:
                scores[index] = logits[index]
    counts[_TOKENS] += tokens
    counts[_UNKNOWN] += unknown


@compiled()
def _to_permille(tokens: int, unknown: int) -> int:
    """Return the share of unknown tokens in thousandths."""
    return (1000 * unknown + tokens // 2) // tokens if tokens else 0


@cache
def compile_request(table_dtype: TableDtype) -> Entry:
    """Return the entry for the texts of a request; its number has several, as explained above."""
    dtype = np.dtype(table_dtype)

    def score(text_address: ctypes.c_void_p, size: int, options: int, address: ctypes.c_void_p) -> int:
        """Score and count texts; return the share of unknown words plus 1, or 0 if a text is left to Python."""
        is_ascii, function, texts = options & 1, options >> _FUNCTION_BIT & 3, options >> _COUNT_BIT
        addresses = carray(address, (2 * _NUM_ARRAYS,), np.int64)
        offsets = get_array(addresses, _OFFSETS, np.int64)
        offsets[texts] = size
        logits, counts = get_array(addresses, _LOGITS, np.float32), get_array(addresses, _COUNTS, np.float64)
        token_counts = get_array(addresses, _TOKEN_COUNTS, np.int64)
        scored, tokens, unknown = score_texts(
            view_read_only(carray(text_address, (size,), np.uint8)), offsets[: texts + 1], is_ascii != 0, addresses,
            get_array(addresses, TABLE, dtype), logits.reshape(-1, len(counts) - _FIRST_LABEL), token_counts,
        )  # fmt: skip
        if scored < texts:
            return 0
        scores, best = get_array(addresses, _SCORES, np.float64), get_array(addresses, _BEST, np.int64)
        temperatures = get_array(addresses, _TEMPERATURES, np.float64)
        _apply_function(
            logits, texts, function, scores, best, counts, tokens, unknown, temperatures[0], temperatures[1],
            token_counts, get_array(addresses, _BINS, np.int64), get_array(addresses, _LENGTHS, np.float64),
            get_array(addresses, _UNKNOWN_WORDS, np.float64), get_array(addresses, _CONFIDENCES, np.float64),
        )  # fmt: skip
        return _to_permille(tokens, unknown) + 1

    return compile_entry(score)
