"""Initial word vectors of a vocabulary: pretrained or random, scaled to the same length."""

from collections.abc import Iterator, Sequence

import numpy as np

from jobs.datasets.tokenizer import fold_case, normalize
from jobs.embeddings.word_vectors import WordVectors

BLOCK_ROWS = 256


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
    bound = 0.25
    sources: list[int | None] = [None] * len(words)  # (words,) index of each word's pretrained vector
    is_exact = np.zeros(len(words), bool)
    if pretrained is not None:
        dimensions = pretrained.matrix.shape[1]
        bound = float(np.sqrt(3 * compute_variance(pretrained.matrix)))
        sources, is_exact = _find_vectors(words, pretrained.words)
    table = np.zeros((len(words) + 2, dimensions), np.float32)
    is_pretrained = np.array([False, False, *(source is not None for source in sources)])
    if pretrained is not None:
        rows = is_pretrained.nonzero()[0]
        source_rows = np.array([source for source in sources if source is not None], np.int64)
        for block in _iter_blocks(len(rows)):
            table[rows[block]] = pretrained.matrix[source_rows[block]]
    _draw_rows(table, (~is_pretrained[2:]).nonzero()[0] + 2, bound, seed)
    return table, is_pretrained, is_pretrained & ~np.concatenate([[False, False], is_exact])


def compute_variance(matrix: np.ndarray) -> float:
    """Return the variance of all numbers, in blocks: numpy would copy the whole matrix in float64."""
    mean = matrix.mean(dtype=np.float64)
    # A product by BLAS would depend on its threads and the processor.
    squares = (float(np.square(matrix[block] - mean).sum()) for block in _iter_blocks(len(matrix)))
    return sum(squares) / max(1, matrix.size)


def _find_vectors(words: Sequence[str], pretrained_words: Sequence[str]) -> tuple[list[int | None], np.ndarray]:
    """Return the index of each word among the pretrained words, None if absent, and whether its spelling is the same.

    The first of several spellings counts.
    """
    exact: dict[str, int] = {}
    for index, word in enumerate(pretrained_words):
        exact.setdefault(normalize(word, lowercase=False), index)
    sources = [exact.get(word) for word in words]
    is_exact = np.array([source is not None for source in sources], bool)
    missing = {fold_case(word) for word, source in zip(words, sources, strict=True) if source is None}
    any_case: dict[str, int] = {}
    for index, word in enumerate(pretrained_words if missing else ()):
        folded = fold_case(word)
        if folded in missing:
            any_case.setdefault(folded, index)
    return [
        any_case.get(fold_case(word)) if source is None else source for word, source in zip(words, sources, strict=True)
    ], is_exact


def _draw_rows(table: np.ndarray, rows: np.ndarray, bound: float, seed: int) -> None:
    """Draw rows of a table, `(drawn,)` int64 and ascending, from U(-bound, bound).

    A row does not depend on which others are drawn: the numbers of the others are skipped.
    """
    bits = np.random.PCG64(seed)  # that of `default_rng`
    generator = np.random.Generator(bits)
    position = 0
    for run in np.split(rows, (np.diff(rows) != 1).nonzero()[0] + 1) if len(rows) else ():
        bits.advance(int(run[0] - position) * table.shape[1])  # a number of 64 bits for each drawn number
        table[run[0] : run[-1] + 1] = generator.uniform(-bound, bound, (len(run), table.shape[1]))
        position = run[-1] + 1


def scale_to_norm(table: np.ndarray, norm: float | None) -> np.ndarray:
    """Scale the nonzero rows of a table to an L2 norm of `norm`, and return the factor of each, `(words,)` float32.

    With `norm=None` the table does not change.
    """
    factors = np.ones(len(table), np.float32)
    for block in _iter_blocks(len(table)) if norm is not None else ():
        lengths = np.linalg.norm(table[block], axis=1)
        factors[block] = np.where(lengths > 0, norm / np.where(lengths > 0, lengths, 1), 1)
        table[block] *= factors[block, None]
    return factors


def _iter_blocks(num_rows: int) -> Iterator[slice]:
    """Yield slices of rows: numpy would copy a whole table, which may be most of the memory."""
    return (slice(start, start + BLOCK_ROWS) for start in range(0, num_rows, BLOCK_ROWS))
