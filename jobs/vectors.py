"""Initial word vectors: read from a file, or drawn at random.

The file is only ever read. word2vec (binary and text), GloVe and fastText text come through jobs/word2vec,
fastText models through jobs/fasttext, plain or gzipped, from a path, a URI, or a name that gensim's
downloader knows. What a vocabulary needs of a file is kept in the storage, and not read again.
"""

import contextlib
import io
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np

from cluster import source, storage
from jobs import fasttext, word2vec
from jobs.experiment import Vectors as Settings
from jobs.experiment import digest
from jobs.progress import lines
from jobs.word2vec import VectorsError, is_one_word

GENSIM = "gensim:"  # before a name of gensim's downloader
ZIP, PICKLE = b"PK\x03\x04", b"\x80"  # what such files begin with


@dataclass(frozen=True)
class Vectors:
    """Some words of a vectors file, in the file's order, most frequent first.

    matrix: `(words, dimensions)` float32. composed: those that are not in the file but made of its n-grams.
    """

    words: list[str]
    matrix: np.ndarray
    composed: frozenset[str] = field(default_factory=frozenset)


@dataclass(frozen=True)
class Coverage:
    """How many words of the training texts, and how many of their tokens, have a pretrained vector."""

    words: int
    covered_words: int
    tokens: int
    covered_tokens: int
    respelled: int
    """Words found only under another spelling (New for new)."""
    composed: int = 0
    """Words that are not in the file and were composed of its n-grams (fastText)."""

    def __str__(self) -> str:
        text = (
            f"{self.covered_words:,} of {self.words:,} words have a pretrained vector "
            f"({self.covered_words / max(1, self.words):.1%}), and {self.covered_tokens / max(1, self.tokens):.1%} "
            "of the training tokens"
        )
        if self.respelled:
            text += f"; {self.respelled:,} were found in another case"
        if self.composed:
            text += f"; {self.composed:,} were composed of n-grams"
        return text


def read(settings: Settings, wanted: set[str], cache: str | None, say: Callable[[str], None]) -> Vectors:
    """Return the vectors of `wanted` words and of the first `extra_words` others.

    A wanted word in lower case takes the vector of another spelling if the file lacks its own.

    Args:
        cache: a folder or URI where what was found is kept, for the same file and words.
        say: is given a line of progress.

    Raises:
        VectorsError: the file is missing, of another format, or broken; says where.
    """
    name = str(settings.path)
    path = _located(name, say)
    try:
        known = source.fingerprint(path) if cache else None
        kept = None
        if cache and known:
            decides = [known, settings.format, settings.unicode_errors, settings.extra_words, sorted(wanted)]
            kept = storage.join(cache, f"vectors-{digest(decides)}.safetensors")
            found = _load(kept)
            if found is not None:
                say(f"vectors of {name}, as read before: {kept}")
                return found
        say(f"reading vectors from {name}")
        found = _read(name, path, settings, wanted, say)
        if not found.words:
            raise VectorsError(f"{name}: holds none of the words that occur in the texts")
        if kept:
            _save(kept, found)
        return found
    except storage.StorageError as error:
        raise VectorsError(f"{error} (vectors.path)") from error


@contextlib.contextmanager
def _unpacked(name: str, path: str, say: Callable[[str], None]) -> Iterator[BinaryIO]:
    """Hold a file's bytes; what takes long is told while it is read."""
    try:
        total = source.size(path)
        tell = lines(say, f"reading {name}", "bytes", total)
        done = 0

        def passed(length: int) -> None:
            nonlocal done
            done += length
            if done != total:
                tell(done)

        with source.unpacked(path, passed) as stream:
            yield stream
    except source.BROKEN as error:
        raise VectorsError(f"{name}: cannot be read: {error}") from error
    except storage.StorageError as error:
        raise VectorsError(f"{error} (vectors.path)") from error


def rows(name: str, settings: Settings, say: Callable[[str], None]) -> Iterator[word2vec.Row]:
    """Yield every word of a word2vec or GloVe file with its vector."""
    with _unpacked(name, _located(name, say), say) as stream:
        yield from word2vec.rows(name, stream, settings.format, settings.unicode_errors, lambda word: True)


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


def scaled(table: np.ndarray, norm: float | None) -> tuple[np.ndarray, np.ndarray]:
    """Return a table with every row that is not zero scaled to an L2 norm, and each row's factor, `(words,)`.

    Without a norm the table stays as it is.
    """
    lengths = np.linalg.norm(table, axis=1)
    if norm is None:
        return table, np.ones(len(table), np.float32)
    factors = np.where(lengths > 0, norm / np.where(lengths > 0, lengths, 1), 1).astype(np.float32)
    return table * factors[:, None], factors


def _located(name: str, say: Callable[[str], None]) -> str:
    """Return the path or URI that `vectors.path` means."""
    if name.startswith(GENSIM):
        return _downloaded(name.removeprefix(GENSIM), say)
    if storage.is_uri(name):
        return name
    try:
        path = Path(name).expanduser()
    except RuntimeError as error:
        raise VectorsError(f"{name}: {error}") from error
    if not path.is_file():
        hint = "" if path.suffix or path.exists() else f"; for a model of gensim's downloader write {GENSIM}{name}"
        raise VectorsError(f"{path}: no such vectors file (vectors.path){hint}")
    return str(path)


def _downloaded(model: str, say: Callable[[str], None]) -> str:
    """Return the file of a model that gensim's downloader has or fetches; its code is not run."""
    import gensim.downloader

    logging.getLogger("gensim.api").setLevel(logging.CRITICAL)  # it logs a traceback where the list is not reached
    say(f"asking gensim's downloader for {model}")
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            known = gensim.downloader.info()["models"]
            if model not in known:
                names = ", ".join(sorted(each for each in known if not each.startswith("__")))
                raise VectorsError(f"{GENSIM}{model}: gensim's downloader knows no such model; it has {names}")
            return gensim.downloader.load(model, return_path=True)
    except VectorsError:
        raise
    except Exception as error:  # it raises bare Exception too
        raise VectorsError(f"{GENSIM}{model}: gensim's downloader failed: {error}") from error


def _read(name: str, path: str, settings: Settings, wanted: set[str], say: Callable[[str], None]) -> Vectors:
    with _unpacked(name, path, say) as stream:
        beginning = stream.peek(4)[:4]  # type: ignore[attr-defined]
        format = settings.format
        if format == "auto":
            if beginning == fasttext.MAGIC:
                format = "fasttext"
            elif beginning == ZIP:
                raise VectorsError(f"{name}: is a zip archive; unpack it and name one of its files")
            elif beginning[:1] == PICKLE:
                format = "keyed-vectors"
        if format == "keyed-vectors":
            return _read_pickled(name, path, settings, wanted)
        if format == "fasttext":
            plain = isinstance(stream, io.BufferedReader) and not storage.is_uri(path)
            size = Path(path).stat().st_size if plain else None
            found = fasttext.read(name, stream, settings.unicode_errors, wanted, settings.extra_words, size)
            return Vectors(found.words, found.matrix, found.composed)
        return _chosen(
            wanted,
            settings.extra_words,
            lambda keep: word2vec.rows(name, stream, format, settings.unicode_errors, keep),
        )


def _chosen(wanted: set[str], extra: int, rows: Callable[[Callable[[str], bool]], Iterator[word2vec.Row]]) -> Vectors:
    """Return the rows that are wanted, in any case, and the first `extra` others."""
    any_case = {word.lower() for word in wanted}
    found: dict[str, np.ndarray] = {}

    def keep(word: str) -> bool:
        return extra > 0 or word in wanted or word.lower() in any_case

    for word, vector in rows(keep):
        if word in found or not is_one_word(word):
            continue
        if word not in wanted and word.lower() not in any_case:
            extra -= 1
        found[word] = vector
    return Vectors(list(found), np.stack(list(found.values())) if found else np.empty((0, 0), np.float32))


def _read_pickled(name: str, path: str, settings: Settings, wanted: set[str]) -> Vectors:
    """Return rows of gensim KeyedVectors, or of a whole Word2Vec or FastText model, that gensim saved."""
    if not settings.allow_pickle:
        raise VectorsError(
            f"{name}: is a pickle, as gensim saves KeyedVectors, and reading one runs whatever code it holds; "
            "vectors.allow_pickle=true reads it, for a file that you trust"
        )
    if storage.is_uri(path):
        raise VectorsError(f"{name}: KeyedVectors are read from a path; gensim keeps parts of them in files beside it")
    from gensim.models import KeyedVectors

    try:
        loaded = KeyedVectors.load(path, mmap="r")
        keyed = getattr(loaded, "wv", loaded)
        index = [str(word) for word in keyed.index_to_key]
        shape = keyed.vectors.shape
        if len(shape) != 2 or len(index) != shape[0]:
            raise ValueError(f"{len(index)} words with vectors of shape {shape}")
    except Exception as error:  # a pickle may raise anything
        raise VectorsError(f"{name}: gensim cannot load it as KeyedVectors: {error!r}") from error

    def kept(keep: Callable[[str], bool]) -> Iterator[word2vec.Row]:
        for row, word in enumerate(index):
            if keep(word):
                yield word, word2vec.finite(f"{name}, '{word}'", np.array(keyed.vectors[row], np.float32))

    return _chosen(wanted, settings.extra_words, kept)


def _save(path: str, found: Vectors) -> None:
    from safetensors.numpy import save

    words = np.frombuffer("\n".join(found.words).encode("utf-8"), np.uint8)
    composed = np.array([word in found.composed for word in found.words])
    storage.write_bytes(path, save({"matrix": found.matrix, "words": words, "composed": composed}))


def _load(path: str) -> Vectors | None:
    """Return what `_save` wrote, None if it is not there or not whole."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    if not storage.exists(path):
        return None
    try:
        with source.opened(path) as stream:
            tensors = load(stream.read())
        words = tensors["words"].tobytes().decode("utf-8").split("\n")
        composed = frozenset(word for word, is_composed in zip(words, tensors["composed"], strict=True) if is_composed)
        return Vectors(words, tensors["matrix"], composed)
    except (SafetensorError, OSError, KeyError, ValueError):
        return None
