"""Where word vectors start: the file's, random ones for words that it lacks, all of one length."""

from collections.abc import Sequence

import numpy as np

from jobs.embeddings.vector_files import WordVectors


def initialize_vectors(
    words: Sequence[str], pretrained: WordVectors | None, dimensions: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a table of initial vectors, which of its words are pretrained, and which of those under another spelling.

    Row 0 is padding and row 1 the unknown word, both zero; words follow. A word without a pretrained
    vector gets U(-a, a), with a such that its variance is that of the pretrained ones (Kim 2014,
    section 3.1), or a = 0.25 when there are none.

    Returns:
        `(words + 2, dimensions)` float32, and twice `(words + 2,)` bool.
    """
    generator = np.random.default_rng(seed)
    bound = 0.25
    if pretrained is not None:
        dimensions = pretrained.matrix.shape[1]
        bound = float(np.sqrt(3 * pretrained.matrix.var(dtype=np.float64)))
    table = generator.uniform(-bound, bound, (len(words) + 2, dimensions)).astype(np.float32)
    table[:2] = 0
    known = np.zeros(len(words) + 2, bool)
    respelled = np.zeros(len(words) + 2, bool)
    if pretrained is not None:
        exact = {word: row for row, word in enumerate(pretrained.words)}
        any_case: dict[str, int] = {}
        for row, word in enumerate(pretrained.words):
            any_case.setdefault(word.lower(), row)
        for number, word in enumerate(words, start=2):
            row = exact.get(word)
            if row is None:
                row = any_case.get(word.lower())
                respelled[number] = row is not None
            if row is not None:
                table[number] = pretrained.matrix[row]
                known[number] = True
    return table, known, respelled


def scale_to_norm(table: np.ndarray, norm: float | None) -> tuple[np.ndarray, np.ndarray]:
    """Return a table with every row that is not zero scaled to an L2 norm, and each row's factor, `(words,)`.

    Without a norm the table stays as it is.
    """
    lengths = np.linalg.norm(table, axis=1)
    if norm is None:
        return table, np.ones(len(table), np.float32)
    factors = np.where(lengths > 0, norm / np.where(lengths > 0, lengths, 1), 1).astype(np.float32)
    return table * factors[:, None], factors
