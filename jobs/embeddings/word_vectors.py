"""Word vectors in memory, their coverage of a corpus, and their file in the cache."""

from dataclasses import dataclass

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from cluster import input_files, storage


@dataclass(frozen=True)
class WordVectors:
    """Vectors of some words, in the order of the file they come from, most frequent first.

    matrix: `(words, dimensions)` float32. from_ngrams: words that the file does not contain; their vectors are
    sums of its n-grams (fastText).
    """

    words: list[str]
    matrix: np.ndarray
    from_ngrams: frozenset[str] = frozenset()

    def select(self, mask: np.ndarray) -> "WordVectors":
        """Return the vectors where `mask`, `(words,)` bool, is true."""
        words = [self.words[index] for index in mask.nonzero()[0]]
        return WordVectors(words, self.matrix[mask], self.from_ngrams.intersection(words))


@dataclass(frozen=True)
class Coverage:
    """Number of words and tokens of the training texts that have a pretrained vector."""

    words: int
    covered_words: int
    tokens: int
    covered_tokens: int
    case_insensitive_matches: int
    """Words with the vector of the same word in another letter case (New for new)."""
    from_ngrams: int = 0
    """Words whose vectors are sums of n-grams (fastText)."""

    def __str__(self) -> str:
        text = (
            f"{self.covered_words:,} of {self.words:,} words have a pretrained vector "
            f"({self.covered_words / max(1, self.words):.1%}), and {self.covered_tokens / max(1, self.tokens):.1%} "
            "of the training tokens"
        )
        if self.case_insensitive_matches:
            text += f"; {self.case_insensitive_matches:,} were found in another case"
        if self.from_ngrams:
            text += f"; {self.from_ngrams:,} were composed of n-grams"
        return text


def save_word_vectors(path: str, vectors: WordVectors) -> None:
    """Write word vectors as safetensors, at a path or URI."""
    words = np.frombuffer("\n".join(vectors.words).encode("utf-8"), np.uint8)
    from_ngrams = np.array([word in vectors.from_ngrams for word in vectors.words])
    storage.write_bytes(path, save({"matrix": vectors.matrix, "words": words, "composed": from_ngrams}))


def load_word_vectors(path: str) -> WordVectors | None:
    """Return what `save_word_vectors` wrote; None if there is no such file, or if it is incomplete."""
    if not storage.exists(path):
        return None
    try:
        with input_files.open_stream(path) as stream:
            tensors = load(stream.read())
        words = tensors["words"].tobytes().decode("utf-8").split("\n")
        is_composed = tensors["composed"]
        from_ngrams = frozenset(word for word, composed in zip(words, is_composed, strict=True) if composed)
        return WordVectors(words, tensors["matrix"], from_ngrams)
    except (SafetensorError, OSError, KeyError, ValueError):
        return None
