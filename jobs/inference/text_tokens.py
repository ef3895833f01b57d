"""Tokens of many texts: those of `jobs.datasets.tokenizer.tokenize`, with a compiled tokenizer."""

from collections.abc import Iterator, Sequence

import numpy as np

from jobs.datasets.tokenizer import tokenize
from jobs.inference import code_points, tokenizer_kernel

CHUNK_BYTES = 1 << 18

# Python tokenizes fewer characters than these before the tables of the compiled tokenizer are made.
MIN_CHARACTERS = 2_000_000


def tokenize_texts(texts: Sequence[str], lowercase: bool = True) -> list[list[str]]:
    """Return the tokens of each text; equal tokens of neighbouring texts are the same object."""
    if sum(map(len, texts)) < MIN_CHARACTERS:
        return [tokenize(text, lowercase) for text in texts]
    return [tokens for chunk in _split_into_chunks(texts) for tokens in _tokenize_chunk(chunk, lowercase)]


def find_words(texts: Sequence[str], lowercase: bool = True) -> set[str]:
    """Return the distinct tokens of texts."""
    if sum(map(len, texts)) < MIN_CHARACTERS:
        return {token for text in texts for token in tokenize(text, lowercase)}
    words: set[str] = set()
    for chunk in _split_into_chunks(texts):
        chunk_words, _, _, is_left = _index_tokens(chunk, lowercase)
        words.update(chunk_words)
        for text, left in zip(chunk, is_left.tolist(), strict=True):
            if left:
                words.update(tokenize(text, lowercase))
    return words


def _split_into_chunks(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    start = num_letters = 0
    for index, text in enumerate(texts):
        num_letters += len(text)
        if num_letters >= CHUNK_BYTES:
            yield texts[start : index + 1]
            start, num_letters = index + 1, 0
    if start < len(texts):
        yield texts[start:]


def _tokenize_chunk(texts: Sequence[str], lowercase: bool) -> Iterator[list[str]]:
    words, ids, id_offsets, is_left = _index_tokens(texts, lowercase)
    tokens = np.array(words, object)[ids[: id_offsets[-1]]].tolist()  # faster than a list comprehension
    bounds = id_offsets.tolist()
    for text, left, start, end in zip(texts, is_left.tolist(), bounds[:-1], bounds[1:], strict=True):
        yield tokenize(text, lowercase) if left else tokens[start:end]


def _index_tokens(texts: Sequence[str], lowercase: bool) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
    """Return distinct tokens, the numbers of the texts' tokens, where each text starts, and which texts Python handles.

    Text i has the tokens numbered ids[id_offsets[i]] to ids[id_offsets[i + 1] - 1], unless is_left[i].
    """
    encoded, offsets = code_points.encode_texts(texts)
    normalized, classes = np.empty((2, 2 * len(encoded)), np.uint8)
    ends, is_left = np.empty_like(offsets), np.empty(len(texts), bool)
    tables = code_points.make_tables(lowercase)
    code_points.normalize_texts(encoded, offsets, *tables, normalized, classes, ends, is_left)
    num_bytes = int(ends[-1])
    ids, id_offsets = np.empty(num_bytes, np.int32), np.empty_like(ends)
    size = 1 << (num_bytes // 8).bit_length()  # usually enough, and small enough for the processor's caches
    num_words = -1
    while num_words < 0:
        size *= 2
        slots, hashes = np.full(size, -1, np.int32), np.empty(size, np.uint64)
        spans = np.empty((size // 2, 2), np.int64)
        num_words = tokenizer_kernel.index_tokens(normalized, classes, ends, slots, hashes, spans, ids, id_offsets)
    content = normalized[:num_bytes].tobytes()
    words = [content[start:end].decode() for start, end in zip(*spans[:num_words].T.tolist(), strict=True)]
    return words, ids, id_offsets, is_left
