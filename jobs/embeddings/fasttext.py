"""Reader of fastText's binary models, which have vectors for known words and compose those of unknown words.

The vector of a known word is the mean of its own row and the rows of its character n-grams, which are hashed into
buckets (Bojanowski et al. 2017). The vector of an unknown word is the mean of the rows of its n-grams. The file is
read once from start to end and rows are summed on the way, so that memory depends on the number of selected words,
not of buckets.

Layout, little-endian: magic and version, 12 int32 settings and a double; the dictionary: 3 int32 counts and
2 int64, then for each word its bytes, a zero byte, an int64 count and an int8 type; a flag (quantized); the
matrix of words and buckets: 2 int64 sizes, then float32 rows.
"""

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from jobs.datasets.tokenizer import fold_case
from jobs.embeddings.word2vec import MAX_DIMENSIONS, MAX_WORD_BYTES, VectorsError, check_finite, decode_word
from jobs.embeddings.word_vectors import WordSelector, WordVectors

MAGIC = struct.pack("<i", 793712314)
CHUNK_BYTES = 1 << 20
VERSION = 12
LABEL_ENTRY = 1  # type of a dictionary entry that is not a word
ENTRY_SUFFIX_BYTES = 10  # zero byte, int64 count, int8 type


@dataclass(frozen=True)
class _Header:
    dimensions: int
    buckets: int
    min_ngram: int
    max_ngram: int
    entries: int
    words: int

    @property
    def rows(self) -> int:
        return self.words + self.buckets


def read_model(
    location: str, stream: BinaryIO, errors: str, target_words: Iterable[str], extra_words: int, file_size: int | None
) -> WordVectors:
    """Return the vectors of the target words, of their other spellings, and of the first `extra_words` others.

    A target word that the model does not contain in any case is composed of its n-grams.

    Args:
        location: name of the file in messages.
        stream: the decompressed file, at its start.
        errors: handling of words that are not UTF-8, as in `bytes.decode`.
        file_size: bytes of the file, if known.

    Raises:
        VectorsError: the file is of another format or version, quantized, or broken.
    """
    reader = _Reader(location, stream)
    header = _read_header(reader)
    target_words = set(target_words)
    selector = WordSelector(target_words, extra_words)
    dictionary = enumerate(_iter_dictionary(reader, header, errors))
    own_rows = {word: row for row, word in dictionary if selector.select(word)}
    if reader.unpack("<?")[0]:
        raise VectorsError(f"{location}: is quantized (.ftz); use the .bin file of the model")
    num_rows, columns = reader.unpack("<2q")
    if (num_rows, columns) != (header.rows, header.dimensions):
        raise VectorsError(
            f"{location}: the matrix has {num_rows:,} x {columns:,} values, but the header says "
            f"{header.rows:,} x {header.dimensions:,}"
        )
    if file_size is not None and file_size - reader.position < num_rows * columns * 4:
        raise VectorsError(f"{location}: is truncated; the header says {num_rows:,} rows")
    known_any_case = {fold_case(word) for word in own_rows}
    unknown = [word for word in sorted(target_words) if fold_case(word) not in known_any_case]
    words = [*own_rows, *unknown]
    rows_of_words = [
        ([own_rows[word]] if word in own_rows else [])
        + [header.words + bucket for bucket in _ngram_buckets(word, header)]
        for word in words
    ]
    matrix = _average_rows(reader, header, rows_of_words)
    # A word that is too short for an n-gram has no vector.
    return WordVectors(words, matrix, frozenset(unknown)).select(np.array([bool(rows) for rows in rows_of_words], bool))


def read_dimensions(location: str, stream: BinaryIO) -> int:
    """Return the number of dimensions in the header; VectorsError as of `read_model`."""
    return _read_header(_Reader(location, stream)).dimensions


class _Reader:
    """Stream of known length: reading beyond its end is an error."""

    def __init__(self, location: str, stream: BinaryIO) -> None:
        self.location = location
        self.stream = stream
        self.position = 0

    def read(self, size: int) -> bytes:
        content = self.stream.read(size)
        self.position += len(content)
        if len(content) < size:
            raise VectorsError(f"{self.location}: is truncated after {self.position:,} bytes")
        return content

    def unpack(self, layout: str) -> tuple[Any, ...]:
        return struct.unpack(layout, self.read(struct.calcsize(layout)))


def _read_header(reader: _Reader) -> _Header:
    if reader.read(4) != MAGIC:
        raise VectorsError(f"{reader.location}: is not a fastText model")
    [version] = reader.unpack("<i")
    if version != VERSION:
        raise VectorsError(
            f"{reader.location}: is a fastText model of version {version}; only version {VERSION} is supported"
        )
    dimensions, _, _, _, _, _, _, _, buckets, min_ngram, max_ngram, _, _ = reader.unpack("<12id")
    entries, words, _ = reader.unpack("<3i")
    _, pruned = reader.unpack("<2q")
    if not (0 < dimensions <= MAX_DIMENSIONS and buckets >= 0 and 0 <= words <= entries and min_ngram >= 0):
        raise VectorsError(
            f"{reader.location}: the header is invalid: {dimensions} dimensions, {buckets} buckets, {words} words of "
            f"{entries} entries, n-grams of at least {min_ngram} letters"
        )
    if pruned > 0:
        raise VectorsError(f"{reader.location}: is pruned and quantized (.ftz); use the .bin file of the model")
    return _Header(dimensions, buckets, min_ngram, max_ngram, entries, words)


def _iter_dictionary(reader: _Reader, header: _Header, errors: str) -> Iterator[str]:
    """Yield the words; the labels, which follow them, are skipped."""
    buffer, start = b"", 0
    for number in range(1, header.entries + 1):
        location = f"{reader.location}, word {number}"
        end = buffer.find(b"\0", start)
        while end < 0 or end + ENTRY_SUFFIX_BYTES > len(buffer):
            available = len(buffer) - start
            if end < 0 and available > MAX_WORD_BYTES:
                raise VectorsError(f"{location}: is longer than {MAX_WORD_BYTES} bytes")
            # Not beyond the dictionary: each remaining entry has at least its suffix.
            remaining = ENTRY_SUFFIX_BYTES * (header.entries - number + 1) - available
            buffer, start = buffer[start:] + reader.read(max(1, min(CHUNK_BYTES, remaining))), 0
            end = buffer.find(b"\0")
        entry_type = buffer[end + ENTRY_SUFFIX_BYTES - 1]
        if (entry_type == LABEL_ENTRY) != (number > header.words):
            raise VectorsError(f"{location}: is of a type that is not possible here")
        if entry_type != LABEL_ENTRY:
            yield decode_word(location, buffer[start:end], errors)
        start = end + ENTRY_SUFFIX_BYTES


def _ngram_buckets(word: str, header: _Header) -> list[int]:
    """Return the buckets of the n-grams of a word."""
    from gensim.models.fasttext import ft_ngram_hashes

    if header.buckets == 0 or header.max_ngram < 1 or word == "</s>":
        return []
    return list(ft_ngram_hashes(word, header.min_ngram, header.max_ngram, header.buckets))


def _average_rows(reader: _Reader, header: _Header, rows_of_words: list[list[int]]) -> np.ndarray:
    """Return the mean of the rows of each word, `(words, dimensions)` float32, reading the matrix once."""
    lengths = np.array([len(rows) for rows in rows_of_words], np.int64)
    rows = np.array([row for rows in rows_of_words for row in rows], np.int64)
    word_indices = np.repeat(np.arange(len(rows_of_words)), lengths)
    order = np.argsort(rows, kind="stable")
    rows, word_indices = rows[order], word_indices[order]
    row_bytes = 4 * header.dimensions
    sums = np.zeros((len(rows_of_words), header.dimensions), np.float32)
    chunk_rows = max(1, CHUNK_BYTES // row_bytes)
    for first in range(0, header.rows, chunk_rows):
        last = min(first + chunk_rows, header.rows)
        chunk = np.frombuffer(reader.read(row_bytes * (last - first)), "<f4").reshape(-1, header.dimensions)
        low, high = np.searchsorted(rows, [first, last])
        if low < high:
            vectors = check_finite(f"{reader.location}, rows {first} to {last}", chunk[rows[low:high] - first])
            np.add.at(sums, word_indices[low:high], vectors)
    means: np.ndarray = sums / np.maximum(lengths, 1)[:, None].astype(np.float32)
    return means
