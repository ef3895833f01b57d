"""A checkpoint's network without torch: text in, scores out.

Once training is over, a filter of width w applied to word vectors is a sum of w rows of a table
(words x filter places) that is computed once. A text then costs look-ups, shifted sums and a
maximum, which `jobs.inference.scoring_kernel` does from the bytes on. The most frequent words are in the table, up to
a memory budget; others are projected when they come.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jobs.datasets.tokenizer import PADDING, UNKNOWN, Vocabulary, tokenize
from jobs.inference import projection_table as table
from jobs.inference import scoring_kernel as kernel
from jobs.model.checkpoint import Checkpoint, CheckpointError

# Far below the largest float32, so that no sum on the way overflows.
MAX_ABS_LOGIT = 1e30


class PackedWeights:
    """The network's filters in the order of their widths, the narrow first, and what they lead to.

    widths: `(filters,)`; lengths, places: for each place of a window how many filters are wide enough to have it,
    which are the last so many, and where their columns begin; projection: `(channels * dimensions, columns)`;
    biases: `(filters,)`; output: `(classes, filters)`; output_bias: `(classes,)`.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        weights, model = checkpoint.weights, checkpoint.experiment.model
        maps = model.feature_maps
        order = np.argsort(model.filter_widths, kind="stable")
        self.widths = np.repeat(np.array(model.filter_widths)[order], maps)
        columns = [
            weights[f"filters.{number}"][place * maps : (place + 1) * maps].T
            for place in range(max(model.filter_widths))
            for number in order
            if model.filter_widths[number] > place
        ]
        self.projection = np.concatenate(columns, axis=1)
        self.filter_counts = np.array([(self.widths > place).sum() for place in range(max(model.filter_widths))])
        self.column_offsets = np.cumsum(self.filter_counts) - self.filter_counts
        self.biases = np.concatenate([weights[f"biases.{number}"] for number in order])
        by_width = weights["output.weight"].reshape(-1, len(order), maps)
        self.output = by_width[:, order].reshape(len(checkpoint.labels), -1)
        self.output_bias = weights["output.bias"]


class ScoringResult(NamedTuple):
    """Scores (logits) `(texts, classes)` float32, and how many tokens there were and how many were unknown."""

    logits: np.ndarray
    num_tokens: int
    num_unknown: int


class Classifier:
    """Scores texts; may be used from several threads.

    Args:
        checkpoint: the trained network.
        table_bytes: memory for the table; 0 projects every word when it comes.

    Raises:
        CheckpointError: its tensors are not those that its settings, words and labels call for.
    """

    def __init__(self, checkpoint: Checkpoint, table_bytes: int = table.DEFAULT_TABLE_BYTES) -> None:
        weights = _checked(checkpoint)
        self.labels = checkpoint.labels
        self.text_settings = checkpoint.experiment.text
        self.vocabulary = Vocabulary(checkpoint.words)
        self.weights = filters = PackedWeights(checkpoint)
        channels = [weights[name] for name in ("fixed_vectors", "vectors") if name in weights]
        self._vectors = np.concatenate(channels, axis=1)  # (words, channels * dimensions)
        self.num_columns = filters.projection.shape[1]
        rows = min(len(self._vectors), table_bytes // (4 * self.num_columns))
        self._table = table.load_or_compute(self._vectors[:rows], filters.projection)  # (rows, columns)
        if rows == len(self._vectors):
            self._vectors = self._vectors[:0].copy()  # no longer needed; a view would keep them
        self._words = _index(checkpoint.words)
        self._scoring = (
            np.asarray(self._table).reshape(-1),
            self.num_columns,
            filters.filter_counts,
            filters.column_offsets,
            filters.biases,
            filters.output.reshape(-1),
            filters.output_bias,
        )
        self.predict_logits([""])  # compiles, or reads what is compiled

    @property
    def table_bytes(self) -> int:
        """Bytes that the table takes."""
        return self._table.nbytes

    def kernel_arrays(self) -> tuple[np.ndarray, ...]:
        """Return the kernel's arrays, in the order of its arguments."""
        return tuple(each for each in (*self._words, *self._scoring) if isinstance(each, np.ndarray))

    def predict_logits(self, texts: Sequence[str]) -> np.ndarray:
        """Return scores (logits), `(texts, classes)` float32."""
        return self.score_texts(texts).logits

    def score_texts(self, texts: Sequence[str]) -> ScoringResult:
        """Return scores, and how much of the texts was known."""
        scores = np.empty((len(texts), len(self.labels)), np.float32)
        tokens = unknown = start = 0
        while start < len(texts):
            end = start
            while end < len(texts) and texts[end].isascii():
                end += 1
            if start == end:  # other letters: not split in bytes
                end += 1
                found, strange = self._score_tokens(texts[start], scores[start])
            else:
                found, strange = self._score_bytes(texts[start:end], scores[start:end])
            tokens += found
            unknown += strange
            start = end
        return ScoringResult(scores, tokens, unknown)

    def encode_tokens(self, tokens: Sequence[str]) -> np.ndarray:
        """Return the numbers of a text's words, `(tokens,)` int64, at least one."""
        return np.array(self.vocabulary.encode(tokens[: self.text_settings.max_tokens]) or [PADDING])

    def project_tokens(self, ids: np.ndarray) -> np.ndarray:
        """Return the product of each word with each filter place, `(tokens, columns)`."""
        inside = ids < len(self._table)
        found = np.empty((len(ids), self.num_columns), np.float32)
        found[inside] = self._table[ids[inside]]
        if not inside.all():
            found[~inside] = self._vectors[ids[~inside]] @ self.weights.projection
        return found

    def _score_bytes(self, texts: Sequence[str], scores: np.ndarray) -> tuple[int, int]:
        """Write the scores of texts in ASCII; return their tokens, and how many are unknown."""
        letters = np.frombuffer("".join(texts).encode("ascii"), np.uint8)
        offsets = np.zeros(len(texts) + 1, np.int64)
        if len(texts) == 1:
            offsets[1] = len(letters)
        else:
            np.cumsum([len(text) for text in texts], out=offsets[1:])
        scratch = np.empty(min(self.text_settings.max_tokens, len(letters) + 1), np.int64)
        tokens = unknown = start = 0
        while start < len(texts):
            done, found, strange = kernel.score_ascii_texts(
                letters,
                offsets[start:],
                self.text_settings.lowercase,
                *self._words,
                *self._scoring,
                scratch,
                scores[start:],
            )
            start += done
            tokens += found
            unknown += strange
            if start < len(texts):  # a word that is not in the table
                found, strange = self._score_tokens(texts[start], scores[start])
                tokens += found
                unknown += strange
                start += 1
        return tokens, unknown

    def _score_tokens(self, text: str, scores: np.ndarray) -> tuple[int, int]:
        """Write the scores of any text; return its tokens, and how many are unknown."""
        tokens = tokenize(text, self.text_settings.lowercase)[: self.text_settings.max_tokens]
        ids = self.encode_tokens(tokens)
        if ids.max() < len(self._table):
            kernel.score_token_ids(ids, *self._scoring, scores)
        else:
            kernel.score_token_ids(
                np.arange(len(ids)), self.project_tokens(ids).reshape(-1), *self._scoring[1:], scores
            )
        return len(tokens), int((ids == UNKNOWN).sum())


def _index(words: Sequence[str]) -> tuple[np.ndarray, ...]:
    """Return the kernel's dictionary: the words' bytes, where each starts, and a hash table of those in ASCII."""
    encoded = [word.encode() for word in words]
    letters = np.frombuffer(b"".join(encoded), np.uint8)
    starts = np.zeros(len(words) + 1, np.int64)
    np.cumsum([len(word) for word in encoded], out=starts[1:])
    size = 1 << (2 * len(words) + 1).bit_length()  # at most half full
    slots, hashes = np.full(size, -1, np.int32), np.zeros(size, np.uint64)
    kernel.build_hash_table(letters, starts, np.array([word.isascii() for word in words], bool), slots, hashes)
    return letters, starts, slots, hashes


def _checked(checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    """Return the weights; CheckpointError unless they are what the settings call for."""
    model, words, labels = checkpoint.experiment.model, checkpoint.words, checkpoint.labels
    for name, found in (("labels.json", labels), ("vocabulary.json", words)):
        if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
            raise CheckpointError(f"{name}: is not a list of strings")
        if len(set(found)) != len(found):
            raise CheckpointError(f"{name}: names something twice")
    if not labels:
        raise CheckpointError("labels.json: is empty")
    channels = {"static": ["fixed_vectors"], "multichannel": ["fixed_vectors", "vectors"]}.get(
        model.embedding, ["vectors"]
    )
    weights = checkpoint.weights
    first = weights.get(channels[0])
    dimensions = first.shape[-1] if first is not None and first.ndim == 2 else 0
    wanted: dict[str, tuple[int, ...]] = {name: (len(words) + 2, dimensions) for name in channels}
    for number, width in enumerate(model.filter_widths):
        wanted[f"filters.{number}"] = (width * model.feature_maps, len(channels) * dimensions)
        wanted[f"biases.{number}"] = (model.feature_maps,)
    wanted["output.weight"] = (len(labels), len(model.filter_widths) * model.feature_maps)
    wanted["output.bias"] = (len(labels),)
    for name, shape in wanted.items():
        found = weights.get(name)
        if found is None or found.shape != shape or found.dtype != np.float32:
            told = "missing" if found is None else f"{found.dtype} of {found.shape}"
            raise CheckpointError(f"weights.safetensors: {name} is {told}; the settings call for float32 of {shape}")
        if not np.isfinite(found).all():
            raise CheckpointError(f"weights.safetensors: {name} holds values that are not finite")
    if _largest_score(weights, channels, model.filter_widths) > MAX_ABS_LOGIT:
        raise CheckpointError("weights.safetensors: holds values so large that scores would not be finite")
    return weights


def _largest_score(weights: dict[str, np.ndarray], channels: list[str], widths: Sequence[int]) -> float:
    """Return what no text's score can be above: products of vectors are at most those of their lengths."""

    def longest(name: str) -> float:
        return float(np.sqrt(np.square(weights[name], dtype=np.float64).sum(axis=1).max(initial=0.0)))

    vectors = sum(longest(name) for name in channels)
    feature = max(
        width * vectors * longest(f"filters.{number}") + float(np.abs(weights[f"biases.{number}"]).max(initial=0.0))
        for number, width in enumerate(widths)
    )
    output = np.abs(weights["output.weight"]).sum(axis=1, dtype=np.float64).max()
    return float(output) * feature + float(np.abs(weights["output.bias"]).max())
