"""Initial word vectors of a vocabulary: pretrained or random, scaled to the same length."""

from collections.abc import Sequence

import numpy as np

from jobs.datasets.tokenizer import fold_case, normalize
from jobs.embeddings.word_vectors import WordVectors


def initialize_vectors(
    words: Sequence[str], pretrained: WordVectors | None, dimensions: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the initial vectors, which of them are pretrained, and which of those match only in another letter case.

    Row 0 is padding and row 1 the unknown word, both zero; the words follow. A word without a pretrained vector
    gets U(-a, a), where a gives it the variance of the pretrained ones (Kim 2014, section 3.1), or a = 0.25
    if there are none.

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
    is_pretrained = np.zeros(len(words) + 2, bool)
    is_case_insensitive_match = np.zeros(len(words) + 2, bool)
    if pretrained is not None:
        exact: dict[str, int] = {}
        any_case: dict[str, int] = {}
        for row, word in enumerate(pretrained.words):
            exact.setdefault(normalize(word, lowercase=False), row)
            any_case.setdefault(fold_case(word), row)
        for number, word in enumerate(words, start=2):
            source = exact.get(word, any_case.get(fold_case(word)))
            if source is not None:
                table[number] = pretrained.matrix[source]
                is_pretrained[number] = True
                is_case_insensitive_match[number] = word not in exact
    return table, is_pretrained, is_case_insensitive_match


def scale_to_norm(table: np.ndarray, norm: float | None) -> tuple[np.ndarray, np.ndarray]:
    """Return a table whose nonzero rows have an L2 norm of `norm`, and the factor of each row, `(words,)` float32.

    With `norm=None` the table is returned unchanged.
    """
    if norm is None:
        return table, np.ones(len(table), np.float32)
    lengths = np.linalg.norm(table, axis=1)
    factors = np.where(lengths > 0, norm / np.where(lengths > 0, lengths, 1), 1).astype(np.float32)
    return table * factors[:, None], factors
