"""Tokens of a large source, numbered in compiled code on several threads, in a file that is mapped into memory.

Arrays of the file, of all rows of the source:

    word_bytes    (bytes,) uint8, the distinct tokens in alphabetical order, one after the other
    word_offsets  (words + 1,) int64, word i has the bytes from word_offsets[i] to word_offsets[i + 1]
    ids           (tokens,) int32, the words of all rows, one after the other
    offsets       (rows + 1,) int64, row i has the tokens from offsets[i] to offsets[i + 1]
"""

import itertools
import os
import tempfile
import threading
import unicodedata
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import overload

import numpy as np
import pyarrow as pa
import pyarrow.compute

from cluster.machine import count_cpus
from jobs.config.experiment import digest
from jobs.config.settings import TextSettings
from jobs.datasets.prepared.array_file import ArrayFile, ArrayWriter, release
from jobs.datasets.prepared.cache import NUM_KEY_DIGITS, load_or_create
from jobs.datasets.prepared.equal_rows import find_first_rows, hash_rows
from jobs.datasets.prepared.texts import Texts
from jobs.datasets.tokenization.characters import BUILT_IN
from jobs.datasets.tokenization.word_index import WordIndex
from jobs.datasets.tokenizer import UNKNOWN, Tokens, Vocabulary

CACHE_VERSION = 1
BLOCK_ROWS = 1 << 14


class TokenizedTexts(Sequence[list[str]]):
    """Tokens of texts.

    Args:
        file: tokens of all rows of the source.
        rows: `(texts,)` int64, the numbers of the texts' rows.
    """

    def __init__(self, file: ArrayFile, rows: np.ndarray) -> None:
        self._file, self._rows = file, rows

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> list[str]: ...
    @overload
    def __getitem__(self, index: slice) -> list[list[str]]: ...
    def __getitem__(self, index: int | slice) -> list[str] | list[list[str]]:
        """Return the tokens of a text, or of several."""
        if isinstance(index, slice):
            return list(TokenizedTexts(self._file, self._rows[index]))
        return next(iter(TokenizedTexts(self._file, self._rows[[index]])))

    def __iter__(self) -> Iterator[list[str]]:
        """Yield the tokens of each text."""
        words = np.array(self._list_words(None), object)
        for ids, lengths in self._iter_blocks():
            tokens, bounds = words[ids].tolist(), [0, *lengths.cumsum().tolist()]
            yield from (tokens[start:end] for start, end in itertools.pairwise(bounds))

    @cached_property
    def lengths(self) -> np.ndarray:
        """Number of tokens of each text, `(texts,)` int64."""
        offsets = self._file.arrays["offsets"]
        return np.asarray(offsets[self._rows + 1] - offsets[self._rows])

    def count_words(self, max_words: int) -> list[tuple[str, int]]:
        """Return words with their counts, as `jobs.datasets.tokenizer.count_words`."""
        counts = np.zeros(self._num_words, np.int64)
        for ids, _ in self._iter_blocks():
            counts += np.bincount(ids, minlength=len(counts))
        order = np.argsort(-counts, kind="stable")[: min(max_words, np.count_nonzero(counts))]
        return list(zip(self._list_words(order), counts[order].tolist(), strict=True))

    def encode(self, vocabulary: Vocabulary, max_tokens: int) -> Tokens:
        """Return the ids of a vocabulary's words, as `jobs.datasets.tokenizer.encode`."""
        numbers = pyarrow.compute.index_in(self._words, pa.array(map(_encode, vocabulary.words), pa.large_binary()))
        table = (numbers.fill_null(UNKNOWN - 2).to_numpy() + 2).astype(np.int32)
        if vocabulary.max_edit_distance:
            unknown = np.flatnonzero(table == UNKNOWN)
            table[unknown] = vocabulary.encode(self._list_words(unknown))
        offsets = np.zeros(len(self) + 1, np.int64)
        np.minimum(self.lengths, max_tokens).cumsum(out=offsets[1:])
        ids = np.empty(offsets[-1], np.int32)
        position = 0
        for block, lengths in self._iter_blocks():
            encoded = table[block]
            if len(lengths) and lengths.max() > max_tokens:
                starts = lengths.cumsum() - lengths
                encoded = encoded[np.arange(len(block)) - np.repeat(starts, lengths) < max_tokens]
            ids[position : position + len(encoded)] = encoded
            position += len(encoded)
        return Tokens(ids, offsets)

    def find_copies(self) -> np.ndarray:
        """Return the indices of the texts that have tokens, and the same as an earlier text."""
        blocks = [hash_rows(ids, np.concatenate([[0], lengths.cumsum()])) for ids, lengths in self._iter_blocks()]
        firsts = find_first_rows(np.concatenate(blocks))
        return np.flatnonzero((firsts != np.arange(len(firsts))) & (self.lengths > 0))

    @property
    def _num_words(self) -> int:
        return len(self._file.arrays["word_offsets"]) - 1

    @property
    def _words(self) -> pa.LargeBinaryArray:
        return _to_arrow(self._file.arrays["word_bytes"], self._file.arrays["word_offsets"])

    def _list_words(self, numbers: np.ndarray | None) -> list[str]:
        words = self._words if numbers is None else self._words.take(pa.array(numbers))
        return [word.decode("utf-8", "surrogatepass") for word in words.to_pylist()]

    def _iter_blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the token ids of blocks of texts, one text after the other, and the lengths of the texts."""
        ids, offsets = self._file.arrays["ids"], self._file.arrays["offsets"]
        for first in range(0, len(self), BLOCK_ROWS):
            rows, lengths = self._rows[first : first + BLOCK_ROWS], self.lengths[first : first + BLOCK_ROWS]
            starts, ends = offsets[rows], lengths.cumsum()
            yield ids[np.repeat(starts - ends + lengths, lengths) + np.arange(ends[-1])], lengths
            release(ids[starts.min() : (starts + lengths).max()])


def tokenize(texts: Texts, settings: TextSettings) -> TokenizedTexts:
    """Return the tokens of texts: those that `jobs.datasets.tokenizer.tokenize` returns for each."""
    path = None
    # The name of an installed tokenizer says nothing of what it does: another version has other tokens.
    if texts.cache is not None and texts.file.path is not None and settings.tokenizer in BUILT_IN:
        versions = [CACHE_VERSION, unicodedata.unidata_version, settings.lowercase, settings.tokenizer]
        path = texts.cache / f"tokens-{digest([texts.file.metadata['key'], versions], NUM_KEY_DIGITS)}.arrays"
    memo: dict[tuple[str, bool], ArrayFile] = texts.tokens
    key = settings.tokenizer, settings.lowercase
    if key not in memo:
        memo[key] = load_or_create(path, lambda writer, folder: _write_tokens(writer, folder, texts, settings))
    return TokenizedTexts(memo[key], texts.rows)


def _write_tokens(writer: ArrayWriter, folder: Path, texts: Texts, settings: TextSettings) -> None:
    """Number the tokens of all rows: first each thread by itself, then with a common list of words."""
    everything = Texts(texts.file, None)
    blocks = list(enumerate(everything.iter_blocks()))
    lengths = np.empty(len(everything), np.int64)
    queue = iter(blocks)
    lock = threading.Lock()
    pieces: dict[int, tuple[int, int, int]] = {}  # thread, position and number of the ids of each block
    with ExitStack() as stack:
        num_threads = min(count_cpus(), len(blocks))
        scratch = [stack.enter_context(tempfile.TemporaryFile(dir=folder)) for _ in range(num_threads)]
        indices = [WordIndex(settings) for _ in scratch]

        def number_blocks(thread: int) -> None:
            position = 0
            while True:
                with lock:
                    number, rows = next(queue, (None, None))
                if number is None or rows is None:
                    return
                ids, starts = indices[thread].add_texts(*_read_block(everything, rows))
                lengths[rows] = np.diff(starts)
                scratch[thread].write(ids.data)
                pieces[number] = thread, position, len(ids)
                position += ids.nbytes

        with ThreadPoolExecutor(num_threads) as pool:
            list(pool.map(number_blocks, range(num_threads)))
        words = [_to_arrow(*index.get_words()) for index in indices]
        distinct = pyarrow.compute.unique(pa.chunked_array(words))
        distinct = distinct.take(pyarrow.compute.sort_indices(distinct))
        tables = [pyarrow.compute.index_in(of_thread, distinct).to_numpy().astype(np.int32) for of_thread in words]
        _, offsets, content = distinct.buffers()
        writer.append("word_bytes", np.frombuffer(content, np.uint8, int(np.frombuffer(offsets, np.int64)[-1])))
        writer.append("word_offsets", np.frombuffer(offsets, np.int64, len(distinct) + 1))
        for number in range(len(blocks)):
            thread, position, count = pieces[number]
            scratch[thread].flush()
            ids = np.frombuffer(os.pread(scratch[thread].fileno(), 4 * count, position), np.int32)
            writer.append("ids", tables[thread][ids])
    writer.append("offsets", np.concatenate([[0], lengths.cumsum()]))
    writer.finish({})


def _read_block(texts: Texts, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the bytes of consecutive rows, and their offsets."""
    offsets = texts.file.arrays["offsets"][rows[0] : rows[-1] + 2]
    content = texts.file.arrays["content"][offsets[0] : offsets[-1]]
    copied = np.frombuffer(content.tobytes(), np.uint8)
    release(content)
    return copied, offsets - offsets[0]


def _encode(word: str) -> bytes:
    return word.encode("utf-8", "surrogatepass")


def _to_arrow(content: np.ndarray, offsets: np.ndarray) -> pa.LargeBinaryArray:
    buffers = [None, pa.py_buffer(np.ascontiguousarray(offsets)), pa.py_buffer(content)]
    return pa.Array.from_buffers(pa.large_binary(), len(offsets) - 1, buffers)
