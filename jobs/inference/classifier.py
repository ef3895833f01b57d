"""Classifier without torch: a checkpoint's network from text to scores.

After training, a filter of width w applied to word vectors is a sum of w entries of a table that is computed once:
the products of each word with the filters. A text then costs look-ups, shifted sums and a maximum, which
`jobs.inference.scoring_kernel` computes from the bytes on; it describes the memory layouts. The table holds the
most frequent words, up to a memory budget. Other words are projected when they occur.
"""

from collections.abc import Sequence
from copy import copy
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np

from jobs.compilation.intrinsics import pack_addresses
from jobs.compilation.vectors import BLOCK, choose_blocks
from jobs.config.abstention import Objective, require_rule
from jobs.datasets.formats.columnar.encoded_texts import EncodedTexts
from jobs.datasets.tokenization import code_points
from jobs.datasets.tokenization.characters import BUILT_IN
from jobs.datasets.tokenization.installed import TokenizerError
from jobs.datasets.tokenization.word_index import build_dictionary
from jobs.datasets.tokenizer import PADDING, UNKNOWN, tokenize
from jobs.inference import scoring_kernel as kernel
from jobs.inference.explanation import Explanation, explain_label
from jobs.inference.linear_weights import LinearWeights
from jobs.inference.network_validation import validate_network
from jobs.inference.projection_table import (
    DEFAULT_TABLE_BYTES,
    DEFAULT_TABLE_DTYPE,
    PackedWeights,
    TableDtype,
    compute,
    load_or_compute,
)
from jobs.model.checkpoint import Checkpoint, CheckpointError

# A word in Python: its text, its id, and its entries of a list and a dict (`sys.getsizeof`, words of 8 letters).
WORD_OBJECT_BYTES = 160

_WHOLE = np.array([0, np.iinfo(np.int64).max])  # offsets of a single text, of any size
_NO_COUNTS = np.empty(0, np.int64)
_MAX_LOCKED_BYTES = 1 << 16  # of a text that is scored while other threads wait


class ScoringResult(NamedTuple):
    """Logits, `(texts, classes)` float32, and the numbers of tokens and unknown tokens of all texts."""

    logits: np.ndarray
    num_tokens: int
    num_unknown: int


class Classifier:
    """Scores texts; may be used from several threads, and pickled.

    >>> import finetune_cnn
    >>> classifier = finetune_cnn.load("model")  # what `TextCNNClassifier.save` or `finetune-cnn train` wrote
    >>> classifier.labels
    ['bad', 'good']

    Args:
        checkpoint: the trained network.
        table_bytes: memory for the projection table; with 0 every word is projected when it occurs.
        table_dtype: type of the table, and of the weights of a linear classifier. int16 takes half of the memory and
            less time; logits differ from those of the network by at most `max_rounding_error`.
        share_table: share the table, and a linear classifier, with other processes of this machine, in files.

    Raises:
        CheckpointError: its tensors do not fit its settings, words and labels, or its tokenizer is not installed.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        table_bytes: int = DEFAULT_TABLE_BYTES,
        *,
        table_dtype: TableDtype = DEFAULT_TABLE_DTYPE,
        share_table: bool = True,
    ) -> None:
        channels = validate_network(checkpoint)
        self.labels, self._metrics = checkpoint.labels, checkpoint.metrics
        self.text_settings = checkpoint.experiment.text
        self.temperature = checkpoint.temperature
        self.is_multi_label, self.label_thresholds = checkpoint.is_multi_label, checkpoint.label_thresholds
        self.vocabulary = checkpoint.vocabulary
        self.weights = packed = PackedWeights(checkpoint)
        linear = LinearWeights(checkpoint, table_dtype, share=share_table)
        # (words, channels * dimensions)
        self._vectors = np.concatenate([checkpoint.weights[name] for name in channels], axis=1)
        self.num_columns = packed.projection.shape[1]
        self.num_rows = min(len(self._vectors), table_bytes // (np.dtype(table_dtype).itemsize * self.num_columns))
        make_table = load_or_compute if share_table else compute
        self._table = make_table(self._vectors[: self.num_rows], packed.projection, packed.filter_indices, table_dtype)
        if self.num_rows == len(self._vectors):
            self._vectors = self._vectors[:0].copy()  # no longer needed; a view would keep them in memory
        self.no_rows = np.empty(0, table_dtype)
        self._entry: kernel.BestClassEntry | None = None  # made for the first single text: to load it takes time
        settings, is_compiled = self.text_settings, self.text_settings.tokenizer in BUILT_IN
        maps = packed.padded_maps, choose_blocks(packed.padded_maps // BLOCK)
        numbers = [settings.lowercase, settings.max_tokens, self.num_columns, *maps, is_compiled, 0, 0]
        arrays = {
            kernel.NUMBERS: np.array(numbers),
            **dict(enumerate(build_dictionary(self.vocabulary), kernel.WORD_BYTES)),
            kernel.TABLE: self._table.values,
            kernel.SCALES: self._table.scales,
            kernel.WIDTHS: packed.widths,
            kernel.BIASES: packed.biases,
            kernel.OUTPUT: packed.output,
        }
        # Those of `code_points` are made when the first text needs them: they take a tenth of a second.
        self._unicode_tables: list[np.ndarray] = []
        self._arrays = [arrays.get(index, np.empty(0)) for index in range(kernel.NUM_ARRAYS)]
        assert "".join(array.dtype.char for array in self._arrays[: kernel.ENTRIES]) == "lBllil"
        self.set_linear(linear)
        self._compile_kernels()

    def set_linear(self, linear: LinearWeights) -> None:
        """Set the linear classifier, the arrays that depend on it, and the addresses of all arrays."""
        self._arrays = [*self._arrays]  # a copy of this classifier has the former ones
        self.linear, numbers = linear, self._arrays[kernel.NUMBERS].copy()
        numbers[kernel.LINEAR_WORDS :] = linear.num_words, linear.rows.shape[1]
        self._arrays[kernel.NUMBERS] = numbers
        self._arrays[kernel.OUTPUT_BIAS] = self.weights.output_bias + linear.bias
        self._arrays[kernel.LINEAR_ROWS : kernel.NUM_ARRAYS] = linear.rows, linear.pairs, linear.filter, linear.scales
        self.addresses = pack_addresses(self._arrays)

    def without_linear(self) -> "Classifier":
        """Return the classifier without the scores of the linear classifier; all other arrays are shared."""
        network = copy(self)
        network.set_linear(self.linear.without_rows())
        return network

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for another process, where the arrays have other addresses."""
        return self.__dict__ | {"_unicode_tables": [], "addresses": None, "_entry": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        # It is an argument of the kernel: for an array that cannot be written it would be compiled again.
        self.no_rows = self.no_rows.copy()
        self.addresses = pack_addresses(self._arrays)

    def _compile_kernels(self) -> None:
        """Compile every kernel, or read it from the cache, so that no text waits for it."""
        # An installed tokenizer loads its dictionary for the first text that is not empty.
        text = "" if self.text_settings.tokenizer in BUILT_IN else " ".join(self.vocabulary.words[:20])
        try:
            self.predict_logits([text])
        except TokenizerError as error:
            raise CheckpointError(str(error)) from error
        self._score_tokens("", np.empty(len(self.labels), np.float32))
        self.vocabulary.encode([""])

    def load_unicode_tables(self) -> None:
        """Make the tables of `code_points` and add their addresses, if that has not been done."""
        if not self._unicode_tables and self.text_settings.tokenizer in BUILT_IN:
            arrays = [*self._arrays]
            settings = self.text_settings
            tables = code_points.make_tables(settings.lowercase, settings.tokenizer)
            arrays[kernel.ENTRIES], arrays[kernel.COMPOSITIONS] = tables
            self.addresses = pack_addresses(arrays)
            # Last, since another thread takes this to mean that the addresses are there. Threads that make tables at
            # the same time may have different ones and use the addresses of any, so all stay alive.
            self._unicode_tables.extend(tables)

    @property
    def table_bytes(self) -> int:
        """Size of the projection table in bytes."""
        return self._table.values.nbytes

    @property
    def memory_bytes(self) -> int:
        """Size in bytes of everything that it holds, including what it shares with other processes."""
        arrays = [*self._arrays, *self._unicode_tables, self._vectors, self.weights.projection]
        return sum(array.nbytes for array in arrays) + WORD_OBJECT_BYTES * len(self.vocabulary)

    @property
    def max_rounding_error(self) -> np.ndarray:
        """Upper bound of the differences of each class's logits that are due to int16, `(classes,)`."""
        if self.no_rows.dtype == np.float32:
            return np.zeros(len(self.labels))
        features = self._table.scales * np.repeat(self.weights.widths, self.weights.maps) / 2.0
        linear = self.linear.max_rounding_error(self.text_settings.max_tokens)
        return np.asarray(np.abs(self.weights.output) @ features + linear)

    def predict(self, texts: Sequence[str], abstain: Objective | None = None) -> list[Any]:
        """Return the most likely label of each text, as text; with several labels per text, those of `predict_labels`.

        >>> classifier.predict(["a good film", "a bad film"])
        ['good', 'bad']

        Args:
            abstain: objective of the checkpoint's threshold: retention, precision or balanced. The result is None for
                a text whose score is too low, and where the label is `out_of_scope`.

        Raises:
            MissingThreshold: the checkpoint has no threshold for the objective.
        """
        if abstain is not None:
            best, _ = require_rule(self._metrics, abstain).apply(self.predict_proba(texts))
            return [None if index < 0 else self.labels[index] for index in best.tolist()]
        if self.is_multi_label:
            return self.predict_labels(texts)
        if isinstance(texts, list) and len(texts) == 1 and isinstance(texts[0], str):
            return [self.labels[self._find_best_class(texts[0])]]
        return [self.labels[best] for best in self.predict_logits(texts).argmax(axis=1).tolist()]

    def predict_labels(self, texts: Sequence[str]) -> list[list[str]]:
        """Return the labels of each text, the likeliest first: those with at least the score of their thresholds.

        >>> classifier.predict_labels(["a good film", "a bad film"])
        [['good'], ['bad']]

        A checkpoint with one label per text returns the most likely one.
        """
        probabilities = self.predict_proba(texts)
        if not self.is_multi_label:
            return [[self.labels[best]] for best in probabilities.argmax(axis=1).tolist()]
        return [[self.labels[index] for index in row] for row in select_labels(probabilities, self.label_thresholds)]

    def predict_logits(self, texts: Sequence[str]) -> np.ndarray:
        """Return the logits of texts, `(texts, classes)` float32, as the network computes them, without temperature.

        >>> classifier.predict_logits(["a good film", "a bad film"]).argmax(axis=1)
        array([1, 0])
        """
        return self._score_texts(texts)[0]

    def predict_proba(self, texts: Sequence[str]) -> np.ndarray:
        """Return the probability of each class for each text, `(texts, classes)` float32.

        >>> classifier.predict_proba(["a good film", "a bad film"]).round(2)  # in the order of `labels`
        array([[0., 1.],
               [1., 0.]], dtype=float32)

        It is the softmax of the logits, divided by the checkpoint's temperature; with several labels per text, the
        sigmoid function of these.
        """
        logits = self.predict_logits(texts) / np.float32(self.temperature)
        if self.is_multi_label:
            with np.errstate(over="ignore"):  # exp of a large number is infinite, and the result 0
                return np.asarray(1 / (1 + np.exp(-logits)))
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True))

    def explain(self, text: str, label: str | None = None) -> Explanation:
        """Return the phrases of a text that contribute to the score of a label, by default the most likely one.

        >>> classifier.explain("this is a good film").phrases[0].text
        'a good film'

        Raises:
            ValueError: it is not one of the labels.
        """
        return explain_label(self, text, label)

    def score_texts(self, texts: Sequence[str]) -> ScoringResult:
        """Return the logits of texts, and how many of their tokens are known."""
        return ScoringResult(*self._score_texts(texts))

    def _score_texts(self, texts: Sequence[str]) -> tuple[np.ndarray, int, int]:
        logits = np.empty((len(texts), len(self.labels)), np.float32)
        if isinstance(texts, EncodedTexts):
            encoded, offsets = texts.content, texts.offsets
        else:
            encoded, sizes = code_points.join_texts(texts := code_points.list_texts(texts))
            offsets = _WHOLE if len(sizes) == 1 else np.array([0, *accumulate(sizes)])
        is_ascii, content = self._prepare(encoded), np.frombuffer(encoded, np.uint8)
        start, num_tokens, num_unknown = kernel.score_texts(
            content, offsets, is_ascii, self.addresses, self.no_rows, logits, _NO_COUNTS
        )
        while start < len(texts):
            tokens, unknown = self._score_tokens(texts[start], logits[start])
            start, num_tokens, num_unknown = start + 1, num_tokens + tokens, num_unknown + unknown
            scored, tokens, unknown = kernel.score_texts(
                content, offsets[start:], is_ascii, self.addresses, self.no_rows, logits[start:], _NO_COUNTS
            )
            start, num_tokens, num_unknown = start + scored, num_tokens + tokens, num_unknown + unknown
        return logits, num_tokens, num_unknown

    def _find_best_class(self, text: str) -> int:
        """Return the most likely class of a text."""
        content, best = text.encode("utf-8", "surrogatepass"), -1
        if len(content) <= _MAX_LOCKED_BYTES:
            is_ascii, addresses = self._prepare(content), self.addresses  # another thread may replace the addresses
            entry = self._entry
            if entry is None or entry.addresses is not addresses:
                entry = self._entry = kernel.BestClassEntry(addresses, self.no_rows.dtype)
            best = entry.find(content, is_ascii)
        return best if best >= 0 else int(self.predict_logits([text]).argmax())

    def _prepare(self, content: bytes) -> bool:
        """Return whether texts are ASCII; others need the tables of `code_points`."""
        if not (is_ascii := content.isascii()):
            self.load_unicode_tables()
        return is_ascii

    def encode_tokens(self, tokens: Sequence[str]) -> np.ndarray:
        """Return the word ids of a text, `(tokens,)` int64; the empty text is one word of padding."""
        return np.array(self.vocabulary.encode(tokens[: self.text_settings.max_tokens]) or [PADDING])

    def project_tokens(self, ids: np.ndarray) -> np.ndarray:
        """Return the products of words with the filters, `(tokens, columns)` float32; ids: `(tokens,)` int64."""
        values, scales = self._table
        in_table = ids < len(values)
        projected = np.empty((len(ids), self.num_columns), np.float32)
        projected[in_table] = values[ids[in_table]] * scales[self.weights.filter_indices]
        if not in_table.all():
            projected[~in_table] = self._vectors[ids[~in_table]] @ self.weights.projection
        return projected

    def _score_tokens(self, text: str, logits: np.ndarray) -> tuple[int, int]:
        """Write the logits of any text; return its numbers of tokens and unknown tokens."""
        tokens = tokenize(text, self.text_settings)[: self.text_settings.max_tokens]
        ids = self.encode_tokens(tokens)
        kernel.score_token_ids(ids, self.project_tokens(ids).reshape(-1), self.addresses, self.no_rows, logits)
        return len(tokens), int((ids == UNKNOWN).sum())


def select_labels(probabilities: np.ndarray, thresholds: np.ndarray) -> list[list[int]]:
    """Return the labels of each text with at least the probability of their thresholds, the likeliest first.

    Args:
        probabilities: `(texts, labels)`. thresholds: `(labels,)` float64.
    """
    order = np.argsort(-probabilities, axis=1, kind="stable")
    is_selected = np.take_along_axis(probabilities >= thresholds, order, axis=1)
    return [row[selected].tolist() for row, selected in zip(order, is_selected, strict=True)]
