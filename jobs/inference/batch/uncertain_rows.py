"""Selection of the rows to label next: those that a classifier is least certain of, and that differ from each other.

The candidates are the rows with the least margin, the difference of the two best probabilities. They are divided into
as many clusters as rows are wanted, and of each cluster the row next to its center is selected (Zhdanov 2019): rows
that resemble each other would teach the network the same thing.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from jobs.datasets.chunks import Chunk, join_chunks
from jobs.datasets.formats.rows import DataError
from jobs.datasets.tokenization.text_tokens import tokenize_texts
from jobs.inference.classifier import Classifier
from jobs.model.checkpoint import Checkpoint

CANDIDATES_PER_ROW = 5


def select_uncertain_rows(checkpoint: Checkpoint, classifier: Classifier, chunks: Iterable[Chunk], count: int) -> Chunk:
    """Return up to `count` rows with different texts, the least certain first; memory does not grow with the chunks.

    A text without words is left out: there is nothing to label.

    Raises:
        DataError: the checkpoint has a single label, no text has a word, or the rows are batches that differ in their
            columns or types.
    """
    if len(checkpoint.labels) < 2 and not checkpoint.is_multi_label:
        raise DataError("--uncertain: the checkpoint has a single label, of which it is always certain")
    candidates: dict[str, tuple[float, Chunk, int]] = {}  # by text: its margin, and the number of its row in a chunk
    for chunk in chunks:
        margins = _compute_margins(checkpoint, classifier.predict_proba(chunk.texts))
        tokenized = tokenize_texts(chunk.texts, checkpoint.experiment.text)
        for index, (text, margin, tokens) in enumerate(zip(chunk.texts, margins.tolist(), tokenized, strict=True)):
            if tokens:
                candidates.setdefault(text, (margin, chunk, index))
        ordered = sorted(candidates.items(), key=lambda item: item[1][0])[: CANDIDATES_PER_ROW * count]
        candidates = {
            text: (margin, own.select([index]), 0) if own is chunk else (margin, own, index)
            for text, (margin, own, index) in ordered
        }
    if not candidates:
        raise DataError("--uncertain: no text has a word")
    texts, margins = list(candidates), np.array([margin for margin, _, _ in candidates.values()])
    selected: Sequence[int] = range(len(texts))
    if len(texts) > count:
        selected = _select_diverse(_embed(checkpoint, texts), margins, count)
    rows = [row for _, row, _ in candidates.values()]
    return join_chunks([rows[index] for index in selected])


def _compute_margins(checkpoint: Checkpoint, probabilities: np.ndarray) -> np.ndarray:
    """Return how certain the label of each text is, `(texts,)`; of several labels, the least certain one."""
    if checkpoint.is_multi_label:
        return np.asarray(np.abs(probabilities - checkpoint.label_thresholds).min(axis=1))
    best = np.sort(probabilities, axis=1)[:, -2:]
    return np.asarray(best[:, 1] - best[:, 0])


def _select_diverse(embeddings: np.ndarray, margins: np.ndarray, count: int) -> list[int]:
    """Return the indices of the row next to the center of each cluster, ascending; of `count` clusters or fewer."""
    from sklearn.cluster import KMeans

    clusters = KMeans(count, n_init=1, random_state=0).fit(embeddings, sample_weight=1 - margins + 1e-3)
    distances = clusters.transform(embeddings)[np.arange(len(embeddings)), clusters.labels_]
    order = np.lexsort((distances, clusters.labels_))
    firsts = np.unique(clusters.labels_[order], return_index=True)[1]
    selected = set(order[firsts].tolist())
    # A cluster may be empty; then the least certain of the others are added.
    others = (index for index in range(len(embeddings)) if index not in selected)
    selected.update(index for index, _ in zip(others, range(count - len(selected)), strict=False))
    return sorted(selected)


def _embed(checkpoint: Checkpoint, texts: list[str]) -> np.ndarray:
    """Return the mean vector of each text's known words, with length 1 or 0, `(texts, dimensions)` float32."""
    vectors = checkpoint.weights["vectors" if "vectors" in checkpoint.weights else "fixed_vectors"]
    vocabulary, settings = checkpoint.vocabulary, checkpoint.experiment.text
    means = np.zeros((len(texts), vectors.shape[1]), np.float32)
    for row, tokens in enumerate(tokenize_texts(texts, settings)):
        ids = [index for index in vocabulary.encode(tokens[: settings.max_tokens]) if index > 1]  # known words
        if ids:
            means[row] = vectors[ids].mean(axis=0)
    lengths = np.linalg.norm(means, axis=1, keepdims=True)
    return np.asarray(means / np.where(lengths > 0, lengths, 1))
