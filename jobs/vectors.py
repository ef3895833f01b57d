"""Initial word vectors: read from a file, trained here by gensim, or drawn at random.

The file is only ever read. Of word2vec binary, word2vec text and GloVe text, plain or gzipped, one
row after the other is looked at and only the wanted ones are kept.
"""

import gzip
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from cluster import UsageError
from cluster.storage import is_uri, replacing
from jobs.experiment import Vectors as Settings

LONGEST_WORD = 4096  # bytes; more without a space means that the file is no vectors file
LARGEST_DIMENSION = 10_000
LONGEST_ROW = LONGEST_WORD + 32 * LARGEST_DIMENSION  # bytes, of text


class VectorsError(UsageError):
    """A vectors file cannot be used."""


@dataclass(frozen=True)
class Vectors:
    """Some words of a vectors file, in the file's order, most frequent first.

    matrix: `(words, dimensions)` float32.
    """

    words: list[str]
    matrix: np.ndarray


@dataclass(frozen=True)
class Coverage:
    """How many words of the training texts, and how many of their tokens, have a pretrained vector."""

    words: int
    covered_words: int
    tokens: int
    covered_tokens: int
    respelled: int
    """Words found only under another spelling (New for new)."""

    def __str__(self) -> str:
        text = (
            f"{self.covered_words:,} of {self.words:,} words have a pretrained vector "
            f"({self.covered_words / max(1, self.words):.1%}), and {self.covered_tokens / max(1, self.tokens):.1%} "
            "of the training tokens"
        )
        return text + (f"; {self.respelled:,} were found in another case" if self.respelled else "")


def read(settings: Settings, wanted: set[str]) -> Vectors:
    """Return the vectors of `wanted` words and of the first `extra_words` others.

    A wanted word in lower case takes the vector of another spelling if the file lacks its own.

    Raises:
        VectorsError: the file is missing, of another format, or broken; says where.
    """
    if is_uri(str(settings.path)):
        raise VectorsError(f"{settings.path}: vectors are read from files, not from URIs")
    try:
        path = Path(str(settings.path)).expanduser()
    except RuntimeError as error:
        raise VectorsError(f"{settings.path}: {error}") from error
    if not path.is_file():
        raise VectorsError(f"{path}: no such vectors file (vectors.path)")
    wanted_any_case = {word.lower() for word in wanted}
    words: dict[str, np.ndarray] = {}
    extra = settings.extra_words
    try:
        with _open(path) as stream:
            for word, vector in _rows(path, stream, settings.format):
                if word in words:
                    continue
                if word in wanted or word.lower() in wanted_any_case:
                    words[word] = vector
                elif extra > 0:
                    words[word] = vector
                    extra -= 1
    except (OSError, EOFError, zlib.error) as error:
        raise VectorsError(f"{path}: cannot be read: {error}") from error
    if not words:
        raise VectorsError(f"{path}: holds none of the words that occur in the texts")
    return Vectors(list(words), np.stack(list(words.values())))


def train(
    texts: Path, target: Path, settings: Settings, seed: int, workers: int, progress: Callable[[str], None]
) -> None:
    """Train word2vec with gensim on a file of tokenised texts, one a line; write word2vec binary.

    With more than one worker gensim's result depends on the threads' timing.
    """
    import gensim
    from gensim.models.callbacks import CallbackAny2Vec

    class Epochs(CallbackAny2Vec):
        done = 0
        told = 0.0

        def on_epoch_end(self, model: object) -> None:
            self.done += 1
            if time.monotonic() - self.told > 1 or self.done == settings.epochs:
                self.told = time.monotonic()
                progress(f"word2vec: epoch {self.done} of {settings.epochs}")

    try:
        model = gensim.models.Word2Vec(
            corpus_file=str(texts),
            vector_size=settings.dimensions,
            sg=int(settings.algorithm == "skip-gram"),
            window=settings.window,
            negative=settings.negative,
            sample=settings.sample,
            min_count=settings.min_count,
            epochs=settings.epochs,
            workers=workers,
            seed=seed,
            callbacks=[Epochs()],
        )
    except RuntimeError as error:
        raise VectorsError(
            f"word2vec cannot be trained on these texts: {error}; lower vectors.min_count "
            f"({settings.min_count}) or use model.embedding=rand"
        ) from error
    with replacing(target) as part:
        model.wv.save_word2vec_format(str(part), binary=True)


def initial(
    words: Sequence[str], pretrained: Vectors | None, dimensions: int, seed: int
) -> tuple[np.ndarray, np.ndarray, int]:
    """Return a table of initial vectors, which of its words are pretrained, and how many were respelled.

    Row 0 is padding and row 1 the unknown word, both zero; words follow. A word without a pretrained
    vector gets U(-a, a), with a such that its variance is that of the pretrained ones (Kim 2014,
    section 3.1), or a = 0.25 when there are none.

    Returns:
        `(words + 2, dimensions)` float32, `(words + 2,)` bool, and a count.
    """
    generator = np.random.default_rng(seed)
    bound = 0.25
    if pretrained is not None:
        dimensions = pretrained.matrix.shape[1]
        bound = float(np.sqrt(3 * pretrained.matrix.var()))
    table = generator.uniform(-bound, bound, (len(words) + 2, dimensions)).astype(np.float32)
    table[:2] = 0
    known = np.zeros(len(words) + 2, bool)
    respelled = 0
    if pretrained is not None:
        exact = {word: row for row, word in enumerate(pretrained.words)}
        any_case: dict[str, int] = {}
        for row, word in enumerate(pretrained.words):
            any_case.setdefault(word.lower(), row)
        for number, word in enumerate(words, start=2):
            row = exact.get(word)
            if row is None:
                row = any_case.get(word.lower())
                respelled += row is not None
            if row is not None:
                table[number] = pretrained.matrix[row]
                known[number] = True
    return table, known, respelled


def _open(path: Path) -> BinaryIO:
    with path.open("rb") as stream:
        gzipped = stream.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rb") if gzipped else path.open("rb", buffering=1 << 20)  # type: ignore[return-value]


def _rows(path: Path, stream: BinaryIO, format: str) -> Iterator[tuple[str, np.ndarray]]:
    first = stream.readline(LONGEST_ROW)
    header = _header(first)
    if header is None:
        if format.startswith("word2vec"):
            raise VectorsError(f"{path}: does not begin with the two numbers of a word2vec file, words and dimensions")
        dimensions = len(first.split()) - 1
        if dimensions < 2 or _text_row(first, dimensions) is None:
            raise VectorsError(f"{path}: is neither word2vec (binary or text) nor GloVe text")
        yield from _text_rows(path, stream, dimensions, None, first, 1)
        return
    if format == "glove":
        raise VectorsError(f"{path}: begins with two numbers, as word2vec files do, and GloVe text does not")
    count, dimensions = header
    if not 0 < dimensions <= LARGEST_DIMENSION:
        raise VectorsError(f"{path}: its first line announces {dimensions} dimensions")
    start = stream.readline(LONGEST_ROW)
    text = _text_row(start, dimensions) is not None if format == "auto" else format == "word2vec-text"
    if text:
        yield from _text_rows(path, stream, dimensions, count, start, 2)
    else:
        yield from _binary_rows(path, stream, dimensions, count, start)


def _header(line: bytes) -> tuple[int, int] | None:
    fields = line.split()
    if len(fields) == 2 and all(field.isdigit() for field in fields):
        return int(fields[0]), int(fields[1])
    return None


def _text_row(line: bytes, dimensions: int) -> tuple[bytes, np.ndarray] | None:
    fields = line.rsplit(None, dimensions)
    # GloVe's words may hold spaces; a number before the last space is no word's end but one number too many.
    if len(fields) != dimensions + 1 or (b" " in fields[0] and _is_number(fields[0].rsplit(b" ", 1)[1])):
        return None
    try:
        return fields[0], np.array([float(field) for field in fields[1:]], np.float32)
    except ValueError:
        return None


def _is_number(field: bytes) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def _text_rows(
    path: Path, stream: BinaryIO, dimensions: int, count: int | None, line: bytes, number: int
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the rows of a text file from `line` on, which is the file's line `number`."""
    found = 0
    while line:
        row = _text_row(line, dimensions)
        if row is None:
            raise VectorsError(f"{path}, line {number}: is not a word and {dimensions} numbers")
        found += 1
        yield _word(path, f"line {number}", row[0]), _finite(path, f"line {number}", row[1])
        line = stream.readline()
        number += 1
    if count is not None and found != count:
        raise VectorsError(f"{path}: ends after {found:,} of the {count:,} words that its first line announces")


def _binary_rows(
    path: Path, stream: BinaryIO, dimensions: int, count: int, buffer: bytes
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the rows of a binary file whose first bytes, after the header, are in `buffer`."""
    size = 4 * dimensions
    start = 0
    for number in range(1, count + 1):
        end = buffer.find(b" ", start)
        while end < 0 or end + 1 + size > len(buffer):
            if end < 0 and len(buffer) - start > LONGEST_WORD:
                raise VectorsError(f"{path}, word {number}: is longer than {LONGEST_WORD} bytes; not word2vec binary")
            more = stream.read(1 << 20)
            if not more:
                raise VectorsError(f"{path}: ends after {number - 1:,} of the {count:,} words that it announces")
            buffer, start = buffer[start:] + more, 0
            end = buffer.find(b" ")
        word = buffer[start:end].lstrip(b"\n")
        vector = np.frombuffer(buffer, "<f4", dimensions, end + 1)
        yield _word(path, f"word {number}", word), _finite(path, f"word {number}", vector).copy()
        start = end + 1 + size
    if (buffer[start:] + stream.read(1 << 20)).strip(b"\n"):
        raise VectorsError(
            f"{path}: goes on after the {count:,} words of {dimensions} dimensions that its first line announces; "
            "is neither word2vec binary nor word2vec text"
        )


def _word(path: Path, where: str, raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise VectorsError(f"{path}, {where}: the word {raw[:40]!r} is not UTF-8") from error


def _finite(path: Path, where: str, vector: np.ndarray) -> np.ndarray:
    if not np.isfinite(vector).all():
        raise VectorsError(f"{path}, {where}: the vector holds NaN or infinite numbers")
    return vector
