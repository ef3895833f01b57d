"""Classifier without torch: a checkpoint's network from text to scores.

After training, a filter of width w applied to word vectors is a sum of w entries of a table that is computed once:
the products of each word with the filters. A text then costs look-ups, shifted sums and a maximum, which
`jobs.inference.scoring_kernel` computes from the bytes on; it describes the memory layouts. The table holds the
most frequent words, up to a memory budget. Other words are projected when they occur.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jobs.datasets.tokenizer import PADDING, UNKNOWN, Vocabulary, tokenize
from jobs.inference import code_points, tokenizer_kernel
from jobs.inference import scoring_kernel as kernel
from jobs.inference.projection_table import DEFAULT_TABLE_BYTES, compute, load_or_compute
from jobs.model.checkpoint import Checkpoint, CheckpointError, validate_names

# Far below the largest float32, so that no intermediate sum overflows.
MAX_ABS_LOGIT = 1e30


class PackedWeights:
    """The network's weights in the layout of `jobs.inference.scoring_kernel`.

    widths: `(filters,)` int64; filter_counts, column_offsets: `(max width,)` int64; projection:
    `(channels * dimensions, columns)`; biases: `(filters,)`; output: `(classes, filters)`; output_bias: `(classes,)`;
    all float32.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        weights, model = checkpoint.weights, checkpoint.experiment.model
        maps, max_width = model.feature_maps, max(model.filter_widths)
        order = np.argsort(model.filter_widths, kind="stable")
        self.widths = np.repeat(np.array(model.filter_widths)[order], maps)
        columns = [
            weights[f"filters.{index}"][position * maps : (position + 1) * maps].T
            for position in range(max_width)
            for index in order
            if model.filter_widths[index] > position
        ]
        self.projection = np.concatenate(columns, axis=1)
        self.filter_counts = np.array([(self.widths > position).sum() for position in range(max_width)])
        self.column_offsets = np.cumsum(self.filter_counts) - self.filter_counts
        self.biases = np.concatenate([weights[f"biases.{index}"] for index in order])
        by_width = weights["output.weight"].reshape(-1, len(order), maps)
        self.output = by_width[:, order].reshape(len(checkpoint.labels), -1)
        self.output_bias = weights["output.bias"]


class ScoringResult(NamedTuple):
    """Logits, `(texts, classes)` float32, and the numbers of tokens and unknown tokens of all texts."""

    logits: np.ndarray
    num_tokens: int
    num_unknown: int


class Classifier:
    """Scores texts; may be used from several threads.

    Args:
        checkpoint: the trained network.
        table_bytes: memory for the projection table; with 0 every word is projected when it occurs.
        share_table: share the table with other processes of this machine, in a file.

    Raises:
        CheckpointError: its tensors do not fit its settings, words and labels.
    """

    def __init__(
        self, checkpoint: Checkpoint, table_bytes: int = DEFAULT_TABLE_BYTES, *, share_table: bool = True
    ) -> None:
        channels = _validate_checkpoint(checkpoint)
        self.labels = checkpoint.labels
        self.text_settings = checkpoint.experiment.text
        self.temperature = checkpoint.temperature
        self.vocabulary = Vocabulary(checkpoint.words)
        self.weights = packed = PackedWeights(checkpoint)
        # (words, channels * dimensions)
        self._vectors = np.concatenate([checkpoint.weights[name] for name in channels], axis=1)
        self.num_columns = packed.projection.shape[1]
        num_rows = min(len(self._vectors), table_bytes // (4 * self.num_columns))
        make_table = load_or_compute if share_table else compute
        self._table = make_table(self._vectors[:num_rows], packed.projection)  # (num_rows, columns)
        if num_rows == len(self._vectors):
            self._vectors = self._vectors[:0].copy()  # no longer needed; a view would keep them in memory
        self._layers = (
            np.asarray(self._table).reshape(-1),
            self.num_columns,
            packed.filter_counts,
            packed.column_offsets,
            packed.biases,
            packed.output.reshape(-1),
            packed.output_bias,
        )
        self._arguments = (*_build_dictionary(checkpoint.words), *self._layers)
        self._compile_kernels()

    def _compile_kernels(self) -> None:
        """Compile every kernel, or read it from numba's cache, so that no text waits for it."""
        logits = np.empty(len(self.labels), np.float32)
        for texts in ([""], ["", ""]):
            self.predict_logits(texts)
        self._score_tokens("", logits)
        # Made when the first text needs them: they take a tenth of a second.
        tables = np.zeros(1, np.int32), np.zeros(1, np.int64)
        self._score_utf8_text("", logits, tables)
        self._normalize_texts([""], tables)

    @property
    def table_bytes(self) -> int:
        """Size of the projection table in bytes."""
        return self._table.nbytes

    def kernel_arrays(self) -> tuple[np.ndarray, ...]:
        """Return the kernel's arrays, in the order of its arguments."""
        return tuple(value for value in self._arguments if isinstance(value, np.ndarray))

    def predict(self, texts: Sequence[str]) -> list[str]:
        """Return the most likely label of each text."""
        return [self.labels[best] for best in self.predict_logits(texts).argmax(axis=1).tolist()]

    def predict_logits(self, texts: Sequence[str]) -> np.ndarray:
        """Return the logits of texts, `(texts, classes)` float32, as the network computes them, without temperature."""
        return self.score_texts(texts).logits

    def predict_proba(self, texts: Sequence[str]) -> np.ndarray:
        """Return the probability of each class for each text, `(texts, classes)` float32.

        It is the softmax of the logits, divided by the checkpoint's temperature.
        """
        logits = self.predict_logits(texts) / np.float32(self.temperature)
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True))

    def score_texts(self, texts: Sequence[str]) -> ScoringResult:
        """Return the logits of texts, and how many of their tokens are known."""
        logits = np.empty((len(texts), len(self.labels)), np.float32)
        if len(texts) == 1:
            return ScoringResult(logits, *self._score_text(texts[0], logits[0]))
        normalized, classes, offsets, is_left = self._normalize_texts(texts)
        ids = self._make_ids(np.diff(offsets).max(initial=0))
        num_tokens = num_unknown = start = 0
        while start < len(texts):
            scored, tokens, unknown = kernel.score_texts(
                normalized, classes, offsets[start:], is_left[start:], *self._arguments, ids, logits[start:]
            )
            start += scored
            if start < len(texts):
                more_tokens, more_unknown = self._score_tokens(texts[start], logits[start])
                tokens, unknown, start = tokens + more_tokens, unknown + more_unknown, start + 1
            num_tokens += tokens
            num_unknown += unknown
        return ScoringResult(logits, num_tokens, num_unknown)

    def encode_tokens(self, tokens: Sequence[str]) -> np.ndarray:
        """Return the word ids of a text, `(tokens,)` int64; the empty text is one word of padding."""
        return np.array(self.vocabulary.encode(tokens[: self.text_settings.max_tokens]) or [PADDING])

    def project_tokens(self, ids: np.ndarray) -> np.ndarray:
        """Return the products of words with the filters, `(tokens, columns)` float32; ids: `(tokens,)` int64."""
        in_table = ids < len(self._table)
        projected = np.empty((len(ids), self.num_columns), np.float32)
        projected[in_table] = self._table[ids[in_table]]
        if not in_table.all():
            projected[~in_table] = self._vectors[ids[~in_table]] @ self.weights.projection
        return projected

    def _score_text(self, text: str, logits: np.ndarray) -> tuple[int, int]:
        """Write the logits of a text; return its numbers of tokens and unknown tokens."""
        if text.isascii():
            encoded = np.frombuffer(text.encode("ascii"), np.uint8)
            counts = kernel.score_ascii_text(
                encoded, 0, len(encoded), self.text_settings.lowercase, *self._arguments,
                *self._make_scratch(len(encoded)), logits,
            )  # fmt: skip
        else:
            counts = self._score_utf8_text(text, logits, code_points.make_tables(self.text_settings.lowercase))
        return self._score_tokens(text, logits) if counts[0] < 0 else counts

    def _score_utf8_text(self, text: str, logits: np.ndarray, tables: tuple[np.ndarray, np.ndarray]) -> tuple[int, int]:
        """As `_score_text`; the number of tokens is -1 if the text is left to Python."""
        encoded = np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8)
        scratch = self._make_scratch(len(encoded))
        return kernel.score_utf8_text(encoded, 0, len(encoded), *tables, *self._arguments, *scratch, logits)

    def _normalize_texts(
        self, texts: Sequence[str], tables: tuple[np.ndarray, np.ndarray] | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return normalized texts as `kernel.score_texts` reads them: bytes, classes, offsets and is_left.

        tables: those of `code_points`; by default they are made if a text is not in ASCII.
        """
        joined, offsets = code_points.encode_texts(texts)
        lowercase, is_left = self.text_settings.lowercase, np.zeros(len(texts), bool)
        normalized, classes = np.empty((2, 2 * len(joined)), np.uint8)
        if tables is None and len(joined) == sum(map(len, texts)):  # all in ASCII
            tokenizer_kernel.normalize_ascii(joined, 0, len(joined), lowercase, normalized, classes)
            return normalized, classes, offsets, is_left
        ends = np.empty_like(offsets)
        code_points.normalize_texts(
            joined, offsets, *(tables or code_points.make_tables(lowercase)), normalized, classes, ends, is_left
        )
        return normalized, classes, ends, is_left

    def _make_scratch(self, num_bytes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the kernel's ids, sums and features for a text of some bytes."""
        sums, features = np.empty((2, len(self.weights.biases)), np.float32)
        return self._make_ids(num_bytes), sums, features

    def _make_ids(self, num_bytes: int) -> np.ndarray:
        """Return room for the word ids of a text of some bytes."""
        return np.empty(min(self.text_settings.max_tokens, num_bytes + 1), np.int64)

    def _score_tokens(self, text: str, logits: np.ndarray) -> tuple[int, int]:
        """Write the logits of any text; return its numbers of tokens and unknown tokens."""
        tokens = tokenize(text, self.text_settings.lowercase)[: self.text_settings.max_tokens]
        ids = self.encode_tokens(tokens)
        # A copy of the rows, so that the kernel is compiled for one kind of table.
        kernel.score_token_ids(np.arange(len(ids)), self.project_tokens(ids).reshape(-1), *self._layers[1:], logits)
        return len(tokens), int((ids == UNKNOWN).sum())


def _build_dictionary(words: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the kernel's vocabulary: word_bytes, word_offsets, slots and hashes."""
    encoded = [word.encode("utf-8", "surrogatepass") for word in words]
    word_bytes = np.frombuffer(b"".join(encoded), np.uint8)
    word_offsets = np.zeros(len(words) + 1, np.int64)
    np.cumsum([len(word) for word in encoded], out=word_offsets[1:])
    size = 1 << (2 * len(words) + 1).bit_length()  # at most half full
    slots, hashes = np.full(size, -1, np.int32), np.zeros(size, np.uint64)
    tokenizer_kernel.build_hash_table(word_bytes, word_offsets, slots, hashes)
    return word_bytes, word_offsets, slots, hashes


def _validate_checkpoint(checkpoint: Checkpoint) -> list[str]:
    """Return the names of the channels; CheckpointError unless labels, words and weights are what the settings need."""
    labels, words, weights = checkpoint.labels, checkpoint.words, checkpoint.weights
    validate_names("labels.json", labels)
    validate_names("vocabulary.json", words)
    if not labels:
        raise CheckpointError("labels.json: is empty")
    model = checkpoint.experiment.model
    channels = {"static": ["fixed_vectors"], "multichannel": ["fixed_vectors", "vectors"]}.get(
        model.embedding, ["vectors"]
    )
    first = weights.get(channels[0])
    dimensions = first.shape[-1] if first is not None and first.ndim == 2 else 0
    shapes: dict[str, tuple[int, ...]] = {name: (len(words) + 2, dimensions) for name in channels}
    for index, width in enumerate(model.filter_widths):
        shapes[f"filters.{index}"] = (width * model.feature_maps, len(channels) * dimensions)
        shapes[f"biases.{index}"] = (model.feature_maps,)
    shapes["output.weight"] = (len(labels), len(model.filter_widths) * model.feature_maps)
    shapes["output.bias"] = (len(labels),)
    for name, shape in shapes.items():
        _validate_tensor(name, weights.get(name), shape)
    if _bound_abs_logit(weights, channels, model.filter_widths) > MAX_ABS_LOGIT:
        raise CheckpointError("weights.safetensors: holds values so large that scores would not be finite")
    return channels


def _validate_tensor(name: str, value: np.ndarray | None, shape: tuple[int, ...]) -> None:
    if value is None or value.shape != shape or value.dtype != np.float32:
        actual = "missing" if value is None else f"{value.dtype} of {value.shape}"
        raise CheckpointError(f"weights.safetensors: {name} is {actual}; the settings call for float32 of {shape}")
    if not np.isfinite(value).all():
        raise CheckpointError(f"weights.safetensors: {name} holds values that are not finite")


def _bound_abs_logit(weights: dict[str, np.ndarray], channels: list[str], widths: Sequence[int]) -> float:
    """Return an upper bound of any text's absolute logits: a product of vectors is at most that of their norms."""

    def max_norm(name: str) -> float:
        value = weights[name]
        # Unlike a sum of squares, this makes no copy in float64.
        return float(np.sqrt(np.einsum("ij,ij->i", value, value, dtype=np.float64).max(initial=0.0)))

    vectors = sum(max_norm(name) for name in channels)
    feature = max(
        width * vectors * max_norm(f"filters.{index}") + float(np.abs(weights[f"biases.{index}"]).max(initial=0.0))
        for index, width in enumerate(widths)
    )
    output = np.abs(weights["output.weight"]).sum(axis=1, dtype=np.float64).max()
    return float(output) * feature + float(np.abs(weights["output.bias"]).max())
