"""Tokenizer and vocabulary: texts as tokens, and tokens as ids.

For ASCII there is a compiled twin, `jobs.inference.scoring_kernel.tokenize_ascii`: change both.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

PADDING, UNKNOWN = 0, 1
MAX_PUNCTUATION_RUN = 3  # characters of a token of punctuation marks

# English clitics are separate tokens, as in the Penn Treebank and in Kim's preprocessing (do n't, it 's). A run of
# the same punctuation mark is one token.
_TOKEN = re.compile(
    r"\w+(?=n't\b)|n't\b|'(?:s|m|d|re|ve|ll)\b|\w+|([^\w\s])\1*",
    re.IGNORECASE,
)


def tokenize(text: str, lowercase: bool = True) -> list[str]:
    """Return the tokens of a text; none contains white space."""
    text = text.replace("’", "'")
    if lowercase:
        text = text.lower()
    return [_match_token(match) for match in _TOKEN.finditer(text)]


def tokenize_with_offsets(text: str, lowercase: bool = True) -> list[tuple[str, int, int]]:
    """Return the tokens of a text, each with its start and end in the text, in characters."""
    normalized = text.replace("’", "'")
    lowered = normalized.lower() if lowercase else normalized
    # Index in the text of each lowered character: some letters become two.
    origin = list(range(len(text)))
    if len(lowered) != len(text):
        origin = [index for index, letter in enumerate(normalized) for _ in letter.lower()]
    return [
        (_match_token(match), origin[match.start()], origin[match.end() - 1] + 1) for match in _TOKEN.finditer(lowered)
    ]


def _match_token(match: re.Match[str]) -> str:
    return match.group() if match.group(1) is None else match.group()[:MAX_PUNCTUATION_RUN]


class Vocabulary:
    """Words and their ids: 0 is padding, 1 the unknown word, the words follow in the order of `words`."""

    def __init__(self, words: Sequence[str]) -> None:
        self.words = list(words)
        self._ids = {word: number for number, word in enumerate(self.words, start=2)}
        if len(self._ids) != len(self.words):
            raise ValueError("a vocabulary contains each word once")

    def __len__(self) -> int:
        return len(self.words) + 2

    def encode(self, tokens: Iterable[str]) -> list[int]:
        """Return the ids of the tokens."""
        get = self._ids.get
        return [get(token, UNKNOWN) for token in tokens]


@dataclass(frozen=True)
class Tokens:
    """Token ids of many texts as flat arrays, which Ray's object store maps without a copy.

    ids: `(tokens,)` int32, all texts one after the other; offsets: `(texts + 1,)` int64.
    """

    ids: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Number of tokens of each text, `(texts,)` int64."""
        return np.diff(self.offsets)


def encode(texts: Iterable[Sequence[str]], vocabulary: Vocabulary, max_tokens: int) -> Tokens:
    """Return tokenised texts as flat arrays, each text truncated to `max_tokens`."""
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
