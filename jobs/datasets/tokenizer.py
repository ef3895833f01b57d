"""Texts as words, and words as numbers."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

PADDING, UNKNOWN = 0, 1

# English clitics apart, as in Penn Treebank and Kim's preprocessing (do n't, it 's); runs of one
# punctuation mark are one token of at most three.
_TOKEN = re.compile(
    r"\w+(?=n't\b)|n't\b|'(?:s|m|d|re|ve|ll)\b|\w+|([^\w\s])\1*",
    re.IGNORECASE,
)


def tokenize(text: str, lowercase: bool = True) -> list[str]:
    """Return the tokens of a text; none holds white space."""
    text = text.replace("’", "'")
    if lowercase:
        text = text.lower()
    return [match.group() if match.group(1) is None else match.group()[:3] for match in _TOKEN.finditer(text)]


def tokenize_with_offsets(text: str, lowercase: bool = True) -> list[tuple[str, int, int]]:
    """Return the tokens of a text with where each starts and ends in it, in characters."""
    plain = text.replace("’", "'")
    lowered = plain.lower() if lowercase else plain
    # Some letters are two when lowered.
    origin = None if len(lowered) == len(text) else [at for at, letter in enumerate(plain) for _ in letter.lower()]
    found = []
    for match in _TOKEN.finditer(lowered):
        token = match.group() if match.group(1) is None else match.group()[:3]
        start, end = match.span() if origin is None else (origin[match.start()], origin[match.end() - 1] + 1)
        found.append((token, start, end))
    return found


class Vocabulary:
    """Words and their numbers: 0 is padding, 1 any unknown word, then the words in the order given."""

    def __init__(self, words: Sequence[str]) -> None:
        self.words = list(words)
        self._ids = {word: number for number, word in enumerate(self.words, start=2)}
        if len(self._ids) != len(self.words):
            raise ValueError("a vocabulary names each word once")

    def __len__(self) -> int:
        return len(self.words) + 2

    def encode(self, tokens: Iterable[str]) -> list[int]:
        """Return the numbers of the tokens."""
        find = self._ids.get
        return [find(token, UNKNOWN) for token in tokens]


@dataclass(frozen=True)
class Tokens:
    """Many texts as flat arrays, which Ray's object store maps without a copy.

    ids: `(tokens,)` int32, all texts one after the other; offsets: `(texts + 1,)` int64.
    """

    ids: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each text, `(texts,)` int64."""
        return np.diff(self.offsets)


def encode(texts: Iterable[Sequence[str]], vocabulary: Vocabulary, max_tokens: int) -> Tokens:
    """Return tokenised texts as flat arrays, each cut after `max_tokens`."""
    ids: list[int] = []
    offsets = [0]
    for tokens in texts:
        ids += vocabulary.encode(tokens[:max_tokens])
        offsets.append(len(ids))
    return Tokens(np.array(ids, np.int32), np.array(offsets, np.int64))


def count_words(texts: Iterable[Sequence[str]], max_words: int) -> list[tuple[str, int]]:
    """Return words with their counts, the most frequent first, ties in alphabetical order."""
    counts = Counter(token for tokens in texts for token in tokens)
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:max_words]
