"""Tokens of the parts of a dataset: as lists, or, of large sources, as numbers in a file; counted and encoded alike."""

from collections.abc import Sequence

from jobs.config.settings import TextSettings
from jobs.datasets import tokenizer
from jobs.datasets.prepared import tokens as large_source_tokens
from jobs.datasets.prepared.texts import Texts
from jobs.datasets.prepared.tokens import TokenizedTexts
from jobs.datasets.tokenization import text_tokens
from jobs.datasets.tokenizer import Tokens, Vocabulary


def tokenize_texts(texts: Sequence[str], settings: TextSettings) -> Sequence[list[str]]:
    """Return the tokens of each text."""
    if isinstance(texts, Texts):
        return large_source_tokens.tokenize(texts, settings)
    return text_tokens.tokenize_texts(texts, settings)


def count_words(texts: Sequence[list[str]], max_words: int) -> list[tuple[str, int]]:
    """Return words with their counts, the most frequent first, ties in alphabetical order."""
    return (
        texts.count_words(max_words) if isinstance(texts, TokenizedTexts) else tokenizer.count_words(texts, max_words)
    )


def encode(texts: Sequence[list[str]], vocabulary: Vocabulary, max_tokens: int) -> Tokens:
    """Return tokenized texts as flat arrays, each text truncated to `max_tokens`."""
    if isinstance(texts, TokenizedTexts):
        return texts.encode(vocabulary, max_tokens)
    return tokenizer.encode(texts, vocabulary, max_tokens)
