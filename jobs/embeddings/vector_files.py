"""Pretrained word vectors, read from a file.

The file is only ever read. word2vec (binary and text), GloVe and fastText text come through jobs/word2vec,
fastText models through jobs/fasttext, plain or gzipped, from a path, a URI, or a name that gensim's
downloader knows. What a vocabulary needs of a file is kept in the storage, and not read again.
"""

import contextlib
import io
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np

from cluster import input_files as source
from cluster import storage
from jobs.config.experiment import digest
from jobs.config.settings import VectorSettings as Settings
from jobs.embeddings import fasttext, word2vec
from jobs.embeddings.progress import make_progress_logger
from jobs.embeddings.word2vec import VectorsError, is_single_token

logger = logging.getLogger(__name__)

GENSIM_PREFIX = "gensim:"  # before a name of gensim's downloader
ZIP_MAGIC, PICKLE_MAGIC = b"PK\x03\x04", b"\x80"  # what such files begin with


@dataclass(frozen=True)
class WordVectors:
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


def read_vectors(settings: Settings, target_words: set[str], cache: str | None) -> WordVectors:
    """Return the vectors of `wanted` words and of the first `extra_words` others.

    A wanted word in lower case takes the vector of another spelling if the file lacks its own.

    Args:
        cache: a folder or URI where what was found is kept, for the same file and words.

    Raises:
        VectorsError: the file is missing, of another format, or broken; says where.
    """
    name = str(settings.path)
    path = _located(name)
    try:
        # gensim keeps parts of its own files beside them, which no fingerprint sees.
        known = source.fingerprint(path) if cache and not settings.allow_pickle else None
        kept = None
        if cache and known:
            decides = [known, settings.format, settings.unicode_errors, settings.extra_words, sorted(target_words)]
            kept = storage.join(cache, f"vectors-{digest(decides)}.safetensors")
            found = _load(kept)
            if found is not None:
                logger.info(f"vectors of {name}, as read before: {kept}")
                return _of_dimensions(name, settings, found)
        logger.info(f"reading vectors from {name}")
        found = _checked(name, _read(name, path, settings, target_words))
        if kept:
            _save(kept, found)
        return _of_dimensions(name, settings, found)
    except storage.StorageError as error:
        raise VectorsError(f"{error} (vectors.path)") from error


def _of_dimensions(name: str, settings: Settings, found: WordVectors) -> WordVectors:
    """Return what was found; VectorsError if it has other dimensions than were set."""
    dimensions = found.matrix.shape[1]
    if settings.dimensions not in (dimensions, Settings.model_fields["dimensions"].default):
        raise VectorsError(f"{name}: has {dimensions} dimensions, where vectors.dimensions says {settings.dimensions}")
    return found


def _checked(name: str, found: WordVectors) -> WordVectors:
    """Return what was read without words whose vector is zero; VectorsError if nothing can be used."""
    if not found.words:
        raise VectorsError(f"{name}: holds none of the words that occur in the texts")
    filled = found.matrix.any(axis=1)
    if filled.all():
        return found
    if not filled.any():
        raise VectorsError(f"{name}: holds nothing but zeros for the words that occur in the texts")
    logger.info(f"{(~filled).sum():,} words have a vector of zeros in {name}; they count as words without one")
    words = [word for word, is_filled in zip(found.words, filled, strict=True) if is_filled]
    return WordVectors(words, found.matrix[filled], found.composed.intersection(words))


@contextlib.contextmanager
def _unpacked(name: str, path: str, *, log_progress: bool = True) -> Iterator[BinaryIO]:
    """Hold a file's bytes; progress is logged while it is read."""
    try:
        total = source.file_size(path)
        tell = make_progress_logger(f"reading {name}", "bytes", total)
        done = 0

        def passed(length: int) -> None:
            nonlocal done
            done += length
            if log_progress and done != total:
                tell(done)

        with source.open_decompressed(path, passed) as stream:
            yield stream
    except source.READ_ERRORS as error:
        raise VectorsError(f"{name}: cannot be read: {error}") from error
    except storage.StorageError as error:
        raise VectorsError(f"{error} (vectors.path)") from error


def fingerprint(settings: Settings) -> str | None:
    """Return what identifies the file that is read; None for vectors that are trained here."""
    if settings.path is None:
        return None
    try:
        return source.fingerprint(_located(settings.path))
    except storage.StorageError as error:
        raise VectorsError(f"{error} (vectors.path)") from error


def is_same_file(name: str, path: Path) -> bool:
    """Tell whether `vectors.path` means a file of this machine, whatever it is called."""
    if name.startswith(GENSIM_PREFIX):
        import gensim.downloader

        model = name.removeprefix(GENSIM_PREFIX)
        name = str(Path(gensim.downloader.BASE_DIR, model, f"{model}.gz"))
    other = Path(name.removeprefix("file://")).expanduser()
    return path.exists() and other.exists() and path.samefile(other)


def iter_vectors(name: str, settings: Settings) -> Iterator[word2vec.Row]:
    """Yield every word of a word2vec or GloVe file with its vector; VectorsError if it is of another format."""
    with _unpacked(name, _located(name), log_progress=False) as stream:
        if _format(name, stream, settings) in ("fasttext", "keyed-vectors"):
            raise VectorsError(f"{name}: only word2vec and GloVe files are read whole, not fastText models and pickles")
        yield from word2vec.parse_vectors(name, stream, settings.format, settings.unicode_errors, lambda word: True)


def _located(name: str) -> str:
    """Return the path or URI that `vectors.path` means."""
    if name.startswith(GENSIM_PREFIX):
        return _downloaded(name.removeprefix(GENSIM_PREFIX))
    if storage.is_uri(name):
        return name
    try:
        path = Path(name).expanduser()
    except RuntimeError as error:
        raise VectorsError(f"{name}: {error}") from error
    if not path.is_file():
        hint = (
            "" if path.suffix or path.exists() else f"; for a model of gensim's downloader write {GENSIM_PREFIX}{name}"
        )
        raise VectorsError(f"{path}: no such vectors file (vectors.path){hint}")
    return str(path)


def _downloaded(model: str) -> str:
    """Return the file of a model that gensim's downloader has or fetches; its code is not run."""
    import gensim.downloader

    logging.getLogger("gensim.api").setLevel(logging.CRITICAL)  # it logs a traceback where the list is not reached
    logger.info(f"asking gensim's downloader for {model}")
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            known = gensim.downloader.info()["models"]
            if model not in known:
                names = ", ".join(sorted(each for each in known if not each.startswith("__")))
                raise VectorsError(f"{GENSIM_PREFIX}{model}: gensim's downloader knows no such model; it has {names}")
            return gensim.downloader.load(model, return_path=True)
    except VectorsError:
        raise
    except Exception as error:  # it raises bare Exception too
        raise VectorsError(f"{GENSIM_PREFIX}{model}: gensim's downloader failed: {error}") from error


def _read(name: str, path: str, settings: Settings, wanted: set[str]) -> WordVectors:
    with _unpacked(name, path) as stream:
        format = _format(name, stream, settings)
        if format == "keyed-vectors":
            return _read_pickled(name, path, settings, wanted)
        if format == "fasttext":
            plain = isinstance(stream, io.BufferedReader) and not storage.is_uri(path)
            size = Path(path).stat().st_size if plain else None
            found = fasttext.read_model(name, stream, settings.unicode_errors, wanted, settings.extra_words, size)
            return WordVectors(found.words, found.matrix, found.composed)
        return _chosen(
            wanted,
            settings.extra_words,
            lambda keep: word2vec.parse_vectors(name, stream, format, settings.unicode_errors, keep),
        )


def _format(name: str, stream: BinaryIO, settings: Settings) -> str:
    """Return the format that is set or, for auto, that the file's first bytes tell, which may leave it at auto."""
    beginning = stream.peek(4)[:4]  # type: ignore[attr-defined]
    if settings.format == "auto":
        if beginning == fasttext.MAGIC:
            return "fasttext"
        if beginning == ZIP_MAGIC:
            raise VectorsError(f"{name}: is a zip archive; unpack it and name one of its files")
        if beginning[:1] == PICKLE_MAGIC:
            return "keyed-vectors"
    return settings.format


def _chosen(
    wanted: set[str], extra: int, rows: Callable[[Callable[[str], bool]], Iterator[word2vec.Row]]
) -> WordVectors:
    """Return the rows that are wanted, in any case, and the first `extra` others."""
    any_case = {word.lower() for word in wanted}
    found: dict[str, np.ndarray] = {}

    def keep(word: str) -> bool:
        return extra > 0 or word in wanted or word.lower() in any_case

    for word, vector in rows(keep):
        if word in found or not is_single_token(word):
            continue
        if word not in wanted and word.lower() not in any_case:
            extra -= 1
        found[word] = vector
    return WordVectors(list(found), np.stack(list(found.values())) if found else np.empty((0, 0), np.float32))


def _read_pickled(name: str, path: str, settings: Settings, wanted: set[str]) -> WordVectors:
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
                yield word, word2vec.check_finite(f"{name}, '{word}'", np.array(keyed.vectors[row], np.float32))

    return _chosen(wanted, settings.extra_words, kept)


def _save(path: str, found: WordVectors) -> None:
    from safetensors.numpy import save

    words = np.frombuffer("\n".join(found.words).encode("utf-8"), np.uint8)
    composed = np.array([word in found.composed for word in found.words])
    storage.write_bytes(path, save({"matrix": found.matrix, "words": words, "composed": composed}))


def _load(path: str) -> WordVectors | None:
    """Return what `_save` wrote, None if it is not there or not whole."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    if not storage.exists(path):
        return None
    try:
        with source.open_stream(path) as stream:
            tensors = load(stream.read())
        words = tensors["words"].tobytes().decode("utf-8").split("\n")
        composed = frozenset(word for word, is_composed in zip(words, tensors["composed"], strict=True) if is_composed)
        return WordVectors(words, tensors["matrix"], composed)
    except (SafetensorError, OSError, KeyError, ValueError):
        return None
