"""A checkpoint's network in plain numpy: text in, scores out. No torch, so replicas start fast and stay small.

Once training is over, a filter of width w applied to word vectors is a sum of w rows of a table
(words x filter places) that is computed once. A text then costs look-ups, shifted sums and a
maximum. The most frequent words are in the table, up to a memory budget; others are projected when
they come.
"""

from collections.abc import Sequence

import numpy as np

from jobs.checkpoint import Checkpoint
from jobs.text import PADDING, Vocabulary, tokenize

TABLE_BYTES = 256 << 20


class Classifier:
    """Scores texts; may be used from several threads.

    Args:
        checkpoint: the trained network.
        table_bytes: memory for the table; 0 projects every word when it comes.
    """

    def __init__(self, checkpoint: Checkpoint, table_bytes: int = TABLE_BYTES) -> None:
        weights = checkpoint.weights
        model = checkpoint.experiment.model
        self.labels = checkpoint.labels
        self._text = checkpoint.experiment.text
        self._vocabulary = Vocabulary(checkpoint.words)
        self._widths = model.filter_widths
        self._maps = model.feature_maps
        channels = [weights[name] for name in ("fixed_vectors", "vectors") if name in weights]
        self._vectors = np.concatenate(channels, axis=1)  # (words, channels * dimensions)
        # One column for each filter at each place of its window, width after width.
        self._filters = np.concatenate([weights[f"filters.{number}"] for number in range(len(self._widths))]).T
        self._biases = [weights[f"biases.{number}"] for number in range(len(self._widths))]
        self._output, self._output_bias = weights["output.weight"].T, weights["output.bias"]
        rows = min(len(self._vectors), table_bytes // (4 * self._filters.shape[1]))
        self._table = self._vectors[:rows] @ self._filters  # (rows, columns)
        if rows == len(self._vectors):
            self._vectors = self._vectors[:0]  # no longer needed

    @property
    def table_bytes(self) -> int:
        """Bytes that the table takes."""
        return self._table.nbytes

    def scores(self, texts: Sequence[str]) -> np.ndarray:
        """Return scores (logits), `(texts, classes)` float32."""
        features = np.stack([self._features(text) for text in texts])  # (texts, filters)
        return features @ self._output + self._output_bias

    def _features(self, text: str) -> np.ndarray:
        """Return each filter's maximum over the text, `(filters,)`."""
        tokens = tokenize(text, self._text.lowercase)[: self._text.max_tokens]
        ids = np.array(self._vocabulary.encode(tokens) or [PADDING])  # (tokens,); the empty text is padding
        projected = self._projected(ids)  # (tokens, columns)
        features, start = [], 0
        for width, bias in zip(self._widths, self._biases, strict=True):
            end = start + width * self._maps
            places = projected[:, start:end].reshape(len(ids), width, self._maps)
            windows = np.zeros((len(ids) + width - 1, self._maps), np.float32)
            for place in range(width):
                first = width - 1 - place
                windows[first : first + len(ids)] += places[:, place]
            features.append(np.maximum(windows.max(axis=0) + bias, 0))
            start = end
        return np.concatenate(features)

    def _projected(self, ids: np.ndarray) -> np.ndarray:
        """Return the product of each word with each filter place, `(tokens, columns)`."""
        inside = ids < len(self._table)
        if inside.all():
            return self._table[ids]
        projected = np.empty((len(ids), self._filters.shape[1]), np.float32)
        projected[inside] = self._table[ids[inside]]
        projected[~inside] = self._vectors[ids[~inside]] @ self._filters
        return projected
