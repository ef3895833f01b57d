"""fastText's own binary models: word vectors, and vectors for words that the model never saw.

A word's vector is the mean of its own row and the rows of its character n-grams, which are hashed into
buckets (Bojanowski et al. 2017); a word without a row of its own is the mean of its n-grams alone. The
file is read once from start to end, and rows are added up as they pass by, so that it takes the memory of
the wanted words and not of the buckets.

Layout, little-endian: magic and version, 12 int32 settings and a double; the dictionary: 3 int32 counts and
2 int64, then for each word its bytes, a zero byte, an int64 count and an int8 type; a quantised flag; the
matrix of words and buckets: 2 int64 sizes, then float32 rows.
"""

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from jobs.embeddings.word2vec import (
    MAX_DIMENSIONS,
    MAX_WORD_BYTES,
    VectorsError,
    check_finite,
    decode_word,
    is_single_token,
)

MAGIC = struct.pack("<i", 793712314)
CHUNK_BYTES = 1 << 20
VERSION = 12
LABEL_ENTRY = 1  # type of a dictionary entry that is no word


@dataclass(frozen=True)
class FastTextVectors:
    """Some words' vectors. matrix: `(words, dimensions)` float32; composed: those made of n-grams alone."""

    words: list[str]
    matrix: np.ndarray
    composed: frozenset[str]


@dataclass(frozen=True)
class _Header:
    dimensions: int
    buckets: int
    shortest: int
    longest: int
    entries: int
    words: int


def read_model(
    location: str, stream: BinaryIO, errors: str, target_words: Iterable[str], extra_words: int, file_size: int | None
) -> FastTextVectors:
    """Return the vectors of `wanted` words, of those in another case, and of the first `extra` others.

    A wanted word that the model does not know in any case is composed of its n-grams.

    Args:
        where: what messages call the file.
        stream: the file, unpacked, at its start.
        errors: what is done with words that are not UTF-8, as in `bytes.decode`.
        size: bytes of the file, where known.

    Raises:
        VectorsError: the file is of another format or version, quantised, or broken.
    """
    source = _Source(location, stream)
    header = _header(source)
    target_words = set(target_words)
    any_case = {word.lower() for word in target_words}
    places: dict[str, int] = {}  # row of each known word that is kept
    known_any_case = set()
    for number, word in enumerate(_dictionary(source, header, errors)):
        if word in places or not is_single_token(word):
            continue
        if word in target_words or word.lower() in any_case:
            known_any_case.add(word.lower())
        elif extra_words > 0:
            extra_words -= 1
        else:
            continue
        places[word] = number
    if source.unpack("<?")[0]:
        raise VectorsError(f"{location}: is quantised (.ftz); use the model's .bin")
    num_rows, columns = source.unpack("<2q")
    if (num_rows, columns) != (header.words + header.buckets, header.dimensions):
        raise VectorsError(
            f"{location}: its matrix is {num_rows:,} x {columns:,}, where {header.words + header.buckets:,} x "
            f"{header.dimensions:,} are announced"
        )
    if file_size is not None and file_size - source.read < num_rows * columns * 4:
        raise VectorsError(f"{location}: is cut off; {num_rows:,} rows are announced")
    missing = [word for word in sorted(target_words) if word.lower() not in known_any_case]
    words = [*places, *missing]
    parts = [
        ([places[word]] if word in places else []) + [header.words + bucket for bucket in _buckets(word, header)]
        for word in words
    ]
    matrix = _means(source, num_rows, header.dimensions, parts)
    kept = [number for number, part in enumerate(parts) if part]  # too short for an n-gram: no vector
    words = [words[number] for number in kept]
    return FastTextVectors(words, matrix[kept], frozenset(missing).intersection(words))


class _Source:
    """A stream that is read to fixed lengths; what ends too early is an error."""

    def __init__(self, where: str, stream: BinaryIO) -> None:
        self.where = where
        self.stream = stream
        self.read = 0

    def take(self, size: int) -> bytes:
        content = self.stream.read(size)
        self.read += len(content)
        if len(content) < size:
            raise VectorsError(f"{self.where}: is cut off after {self.read:,} bytes")
        return content

    def unpack(self, layout: str) -> tuple:
        return struct.unpack(layout, self.take(struct.calcsize(layout)))


def _header(source: _Source) -> _Header:
    if source.take(4) != MAGIC:
        raise VectorsError(f"{source.where}: is no fastText model")
    [version] = source.unpack("<i")
    if version != VERSION:
        raise VectorsError(f"{source.where}: is a fastText model of version {version}; version {VERSION} is read")
    dimensions, _, _, _, _, _, _, _, buckets, shortest, longest, _, _ = source.unpack("<12id")
    entries, words, _ = source.unpack("<3i")
    _, pruned = source.unpack("<2q")
    if not (0 < dimensions <= MAX_DIMENSIONS and buckets >= 0 and 0 <= words <= entries and shortest >= 0):
        raise VectorsError(
            f"{source.where}: announces {dimensions} dimensions, {buckets} buckets, {words} words of {entries} and "
            f"n-grams from {shortest} letters on"
        )
    if pruned > 0:
        raise VectorsError(f"{source.where}: is pruned and quantised (.ftz); use the model's .bin")
    return _Header(dimensions, buckets, shortest, longest, entries, words)


def _dictionary(source: _Source, header: _Header, errors: str) -> Iterator[str]:
    """Yield the words; labels, which follow them, are passed over."""
    buffer, start = b"", 0
    for number in range(1, header.entries + 1):
        end = buffer.find(b"\0", start)
        while end < 0 or end + 10 > len(buffer):
            if end < 0 and len(buffer) - start > MAX_WORD_BYTES:
                raise VectorsError(f"{source.where}, word {number}: is longer than {MAX_WORD_BYTES} bytes")
            # Never beyond the dictionary: each entry still to come has 10 bytes at least.
            more = source.take(max(1, min(CHUNK_BYTES, 10 * (header.entries - number + 1) - (len(buffer) - start))))
            buffer, start = buffer[start:] + more, 0
            end = buffer.find(b"\0")
        kind = buffer[end + 9]
        if (kind == LABEL_ENTRY) != (number > header.words):
            raise VectorsError(f"{source.where}, word {number}: is of a kind that cannot stand there")
        if kind != LABEL_ENTRY:
            yield decode_word(f"{source.where}, word {number}", buffer[start:end], errors)
        start = end + 10


def _buckets(word: str, header: _Header) -> list[int]:
    """Return the buckets of a word's n-grams."""
    from gensim.models.fasttext import ft_ngram_hashes

    if header.buckets == 0 or header.longest < 1 or word == "</s>":
        return []
    return ft_ngram_hashes(word, header.shortest, header.longest, header.buckets)


def _means(source: _Source, num_rows: int, dimensions: int, parts: list[list[int]]) -> np.ndarray:
    """Return the mean of each word's rows, `(words, dimensions)` float32, while the matrix passes by."""
    lengths = np.array([len(part) for part in parts])
    places = np.array([place for part in parts for place in part], np.int64)
    owners = np.repeat(np.arange(len(parts)), lengths)
    order = np.argsort(places, kind="stable")
    places, owners = places[order], owners[order]
    sums = np.zeros((len(parts), dimensions), np.float32)
    at_once = max(1, CHUNK_BYTES // (4 * dimensions))
    for first in range(0, num_rows, at_once):
        last = min(first + at_once, num_rows)
        chunk = np.frombuffer(source.take(4 * dimensions * (last - first)), "<f4").reshape(-1, dimensions)
        low, high = np.searchsorted(places, [first, last])
        if low < high:
            found = check_finite(f"{source.where}, rows {first} to {last}", chunk[places[low:high] - first])
            np.add.at(sums, owners[low:high], found)
    return sums / np.maximum(lengths, 1)[:, None].astype(np.float32)
