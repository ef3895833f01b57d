"""Word vectors in memory, their coverage of a corpus, and their file in the cache."""

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from cluster import input_files, storage
from jobs.config.settings import VectorSettings
from jobs.datasets.tokenizer import fold_case
from jobs.embeddings.word2vec import is_single_token

LOW_SHARE = 0.7  # of the tokens with a letter that have a vector, for a warning; texts of the file's language have more
NUM_MISSING_WORDS = 3


@dataclass(frozen=True)
class WordVectors:
    """Vectors of some words, in the order of the file they come from, most frequent first.

    matrix: `(words, dimensions)` float32. from_ngrams: words that the file does not contain; their vectors are
    means of its n-grams (fastText).
    """

    words: list[str]
    matrix: np.ndarray
    from_ngrams: frozenset[str] = frozenset()

    def digest(self) -> str:
        """Return hex digits that identify words and vectors."""
        content = hashlib.sha256("\n".join(self.words).encode())
        content.update(np.ascontiguousarray(self.matrix).data)
        return content.hexdigest()

    def select(self, mask: np.ndarray) -> "WordVectors":
        """Return the vectors where `mask`, `(words,)` bool, is true."""
        words = [self.words[index] for index in mask.nonzero()[0]]
        return WordVectors(words, self.matrix[mask], self.from_ngrams.intersection(words))

    def restrict(self, target_words: set[str], extra_words: int) -> "WordVectors":
        """Return the vectors that reading the file for fewer target words would have returned."""
        selector = WordSelector(target_words, extra_words)
        mask = [word in target_words if word in self.from_ngrams else selector.select(word) for word in self.words]
        return self.select(np.array(mask, bool))


class WordSelector:
    """Selection of a file's words, in its order: the target words, in any letter case, and the first others.

    Args:
        extra_words: maximum number of others.
    """

    def __init__(self, target_words: Collection[str], extra_words: int) -> None:
        self._targets = {fold_case(word) for word in target_words}
        self._extra_words = extra_words
        self._selected: set[str] = set()

    def may_select(self, word: str) -> bool:
        """Return whether the next word could be selected; if not, its vector need not be read."""
        return self._extra_words > 0 or fold_case(word) in self._targets

    def select(self, word: str) -> bool:
        """Return whether the next word is selected."""
        if word in self._selected or not is_single_token(word):
            return False
        if fold_case(word) not in self._targets:
            if self._extra_words <= 0:
                return False
            self._extra_words -= 1
        self._selected.add(word)
        return True


def has_letter(word: str) -> bool:
    """Return whether a token is a word rather than a number or punctuation."""
    return any(character.isalpha() for character in word)


@dataclass(frozen=True)
class Coverage:
    """Number of words and tokens of the training texts that have a pretrained vector."""

    words: int
    covered_words: int
    tokens: int
    covered_tokens: int
    word_tokens: int
    """Tokens with a letter: vectors files differ in numbers and punctuation, whatever their language."""
    covered_word_tokens: int
    case_insensitive_matches: int
    """Words with the vector of the same word in another letter case (New for new)."""
    from_ngrams: int = 0
    """Words whose vectors are means of n-grams (fastText)."""
    frequent_missing_words: Sequence[str] = ()
    """The most frequent words with a letter and without a vector, up to `NUM_MISSING_WORDS`."""

    def describe_low_share(self, settings: VectorSettings) -> str | None:
        """Return a warning with the likely causes if few words of the training texts have a vector, else None."""
        if self.covered_word_tokens >= LOW_SHARE * self.word_tokens:
            return None
        cause = (
            f"lower vectors.min_count={settings.min_count}, or set vectors.path to vectors of more texts"
            if settings.path is None
            else f"likely {settings.path} is of another language or subject, spells words otherwise, or has few words"
        )
        words = ", ".join(f"'{word}'" for word in self.frequent_missing_words)
        share = f"{self.covered_word_tokens / self.word_tokens:.1%}"
        return f"only {share} of the training texts' words have a pretrained vector, not {words}; {cause}"

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


def compute_coverage(
    counts: list[tuple[str, int]],
    words: list[str],
    word_vectors: WordVectors,
    pretrained: np.ndarray,
    case_insensitive: np.ndarray,
) -> Coverage:
    """Return how many words and tokens of the training texts have a vector; entries 0 and 1 of the masks are
    padding and the unknown word."""
    covered = {word for word, is_pretrained in zip(words, pretrained[2:], strict=True) if is_pretrained}
    case_insensitive_words = {word for word, matches in zip(words, case_insensitive[2:], strict=True) if matches}
    return Coverage(
        words=len(counts),
        covered_words=sum(word in covered for word, _ in counts),
        tokens=sum(count for _, count in counts),
        covered_tokens=sum(count for word, count in counts if word in covered),
        word_tokens=sum(count for word, count in counts if has_letter(word)),
        covered_word_tokens=sum(count for word, count in counts if word in covered and has_letter(word)),
        case_insensitive_matches=sum(word in case_insensitive_words for word, _ in counts),
        from_ngrams=sum(word in word_vectors.from_ngrams for word, _ in counts),
        frequent_missing_words=[word for word, _ in counts if word not in covered and has_letter(word)][
            :NUM_MISSING_WORDS
        ],
    )
