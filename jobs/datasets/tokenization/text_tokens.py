"""Tokens of many texts: those of `jobs.datasets.tokenizer.tokenize`, with a compiled tokenizer."""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from jobs.datasets.tokenization.code_points import encode_texts
from jobs.datasets.tokenization.word_index import WordIndex
from jobs.datasets.tokenizer import DEFAULT_SETTINGS, TokenizerSettings, tokenize

CHUNK_BYTES = 1 << 18

# Python tokenizes fewer characters than these before the tables of the compiled tokenizer are made.
MIN_CHARACTERS = 2_000_000


def tokenize_texts(texts: Sequence[str], settings: TokenizerSettings = DEFAULT_SETTINGS) -> list[list[str]]:
    """Return the tokens of each text; equal tokens of neighbouring texts are the same object."""
    if sum(map(len, texts)) < MIN_CHARACTERS:
        return [tokenize(text, settings) for text in texts]
    return [tokens for chunk in _split_into_chunks(texts) for tokens in _tokenize_chunk(chunk, settings)]


def find_words(texts: Sequence[str], settings: TokenizerSettings = DEFAULT_SETTINGS) -> set[str]:
    """Return the distinct tokens of texts."""
    if sum(map(len, texts)) < MIN_CHARACTERS:
        return {token for text in texts for token in tokenize(text, settings)}
    index = WordIndex(settings)
    for chunk in _split_into_chunks(texts):
        index.add_texts(*encode_texts(chunk))
    return set(index.list_words())


def _split_into_chunks(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    start = num_letters = 0
    for index, text in enumerate(texts):
        num_letters += len(text)
        if num_letters >= CHUNK_BYTES:
            yield texts[start : index + 1]
            start, num_letters = index + 1, 0
    if start < len(texts):
        yield texts[start:]


def _tokenize_chunk(texts: Sequence[str], settings: TokenizerSettings) -> Iterator[list[str]]:
    text, offsets = encode_texts(texts)
    index = WordIndex(settings, len(text))
    ids, starts = index.add_texts(text, offsets)
    tokens = np.array(index.list_words(), object)[ids].tolist()  # faster than a list comprehension
    bounds = starts.tolist()
    return (tokens[start:end] for start, end in itertools.pairwise(bounds))
