"""Reader of pretrained word vectors.

It reads word2vec files (binary and text), GloVe and fastText text, fastText models and gensim's KeyedVectors, plain
or gzipped, at a path or URI, or under a name that gensim's downloader knows. The file is never changed. The vectors
of a vocabulary are cached in the storage, so that a large or remote file is read once.
"""

import contextlib
import io
import itertools
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from cluster import input_files, storage
from cluster.console.progress import make_progress_logger, progress_bar
from jobs.config.experiment import digest
from jobs.config.settings import VectorSettings
from jobs.embeddings import fasttext, word2vec
from jobs.embeddings.word2vec import VectorsError
from jobs.embeddings.word_vectors import WordSelector, WordVectors, load_word_vectors, save_word_vectors

logger = logging.getLogger(__name__)

GENSIM_PREFIX = "gensim:"  # before a name of gensim's downloader
CACHE_VERSION = 2  # changes with the selection of words
UNCACHED_BYTES = 64 << 20  # local files up to this size, even if compressed, are read in about a second
ZIP_MAGIC, PICKLE_MAGIC = b"PK\x03\x04", b"\x80"  # first bytes of such files


def read_vectors(settings: VectorSettings, target_words: set[str], cache: str | None) -> WordVectors:
    """Return the vectors of `target_words` and of the first `extra_words` others of the file.

    A target word that the file does not contain has the vector of the same word in another letter case. Composed and
    decomposed Unicode are the same spelling.

    Args:
        cache: folder or URI in which the result of a large or remote file is cached, by file and words.

    Raises:
        VectorsError: the file is missing, of another format or broken; names the position.
    """
    name = str(settings.path)
    path = _resolve_path(name)
    try:
        is_slow = storage.is_uri(path) or Path(path).stat().st_size > UNCACHED_BYTES
        # gensim stores parts of its own files in other files, which the fingerprint does not cover.
        known = input_files.fingerprint(path) if cache and is_slow and not settings.allow_pickle else None
        cached_path = None
        if cache and known:
            options = [settings.format, settings.unicode_errors, settings.extra_words]
            key = [CACHE_VERSION, known, *options, sorted(target_words)]
            cached_path = storage.join(cache, f"vectors-{digest(key)}.safetensors")
            vectors = load_word_vectors(cached_path)
            if vectors is not None:
                logger.info(f"reading vectors of {name} from the cache: {cached_path}")
                _check_dimensions(name, settings, vectors.matrix.shape[1])
                return vectors
        logger.info(f"reading vectors from {name}")
        vectors = _drop_zero_vectors(name, _read(name, path, settings, target_words))
        if cached_path:
            save_word_vectors(cached_path, vectors)
        _check_dimensions(name, settings, vectors.matrix.shape[1])
        return vectors
    except storage.StorageError as error:
        raise VectorsError(f"{error} (vectors.path)") from error


def restrict_vectors(vectors: WordVectors, settings: VectorSettings, target_words: set[str]) -> WordVectors:
    """Return the vectors that `read_vectors` would return for some of the target words; VectorsError if none."""
    name = settings.path or "vectors of the earlier fit"
    return _require_words(name, vectors.restrict(target_words, settings.extra_words))


def check_vectors_file(settings: VectorSettings) -> None:
    """Check the start of the vectors file; a model of gensim's downloader is not downloaded for it.

    Raises:
        VectorsError: the file is missing, of another format, or has other dimensions than those that are set.
    """
    name = settings.path
    if name is None or name.startswith(GENSIM_PREFIX):
        return
    path = _resolve_path(name)
    with _open(name, path, log_progress=False) as stream:
        format = _detect_format(name, stream, settings)
        if format == "keyed-vectors":
            _check_pickle(name, path, settings)
        elif format == "fasttext":
            _check_dimensions(name, settings, fasttext.read_dimensions(name, stream))
        else:
            rows = word2vec.parse_vectors(name, stream, format, settings.unicode_errors, lambda word: True)
            for _, vector in itertools.islice(rows, 1):
                _check_dimensions(name, settings, len(vector))


def is_same_file(name: str, path: Path) -> bool:
    """Return whether a `vectors.path` refers to a local file, under any name."""
    if name.startswith(GENSIM_PREFIX):
        import gensim.downloader

        model = name.removeprefix(GENSIM_PREFIX)
        name = str(Path(gensim.downloader.BASE_DIR, model, f"{model}.gz"))
    return input_files.is_same_file(name, str(path))


def iter_vectors(name: str, settings: VectorSettings) -> Iterator[word2vec.Row]:
    """Yield all words of a word2vec or GloVe file with their vectors; VectorsError if it is of another format."""
    with _open(name, _resolve_path(name), log_progress=False) as stream:
        if _detect_format(name, stream, settings) in ("fasttext", "keyed-vectors"):
            raise VectorsError(f"{name}: only word2vec and GloVe files are read whole, not fastText models and pickles")
        yield from word2vec.parse_vectors(name, stream, settings.format, settings.unicode_errors, lambda word: True)


def _check_dimensions(name: str, settings: VectorSettings, dimensions: int) -> None:
    # Whether the default was set is unknown: the settings of a run have all values.
    if settings.dimensions not in (dimensions, VectorSettings.model_fields["dimensions"].default):
        raise VectorsError(f"{name}: has {dimensions} dimensions, but vectors.dimensions is {settings.dimensions}")


def _require_words(name: str, vectors: WordVectors) -> WordVectors:
    if not vectors.words:
        raise VectorsError(f"{name}: contains none of the words of the texts")
    return vectors


def _drop_zero_vectors(name: str, vectors: WordVectors) -> WordVectors:
    _require_words(name, vectors)
    is_nonzero = np.asarray(vectors.matrix.any(axis=1))
    if is_nonzero.all():
        return vectors
    if not is_nonzero.any():
        raise VectorsError(f"{name}: contains only zeros for the words of the texts")
    logger.info(f"{(~is_nonzero).sum():,} words have a vector of zeros in {name}; they count as words without one")
    return vectors.select(is_nonzero)


@contextlib.contextmanager
def _open(name: str, path: str, *, log_progress: bool = True) -> Iterator[BinaryIO]:
    """Context manager: the decompressed content of a file as a stream that logs its progress."""
    try:
        total = input_files.file_size(path)
        done, arguments = 0, (f"reading {name}", "bytes", total, logger)

        def count_bytes(length: int) -> None:
            nonlocal done
            done += length
            if log_progress and done != total:  # the end is not logged: most files are read within the interval
                report(done)

        has_bar = log_progress and (total or UNCACHED_BYTES) >= UNCACHED_BYTES
        with (
            progress_bar(*arguments) if has_bar else contextlib.nullcontext(make_progress_logger(*arguments)) as report,
            input_files.open_decompressed(path, count_bytes) as stream,
        ):
            yield stream
    except input_files.READ_ERRORS as error:
        raise VectorsError(f"{name}: cannot be read: {error}") from error
    except storage.StorageError as error:
        raise VectorsError(f"{error} (vectors.path)") from error


def _resolve_path(name: str) -> str:
    """Return the path or URI of a `vectors.path`; a model of gensim's downloader is downloaded."""
    if name.startswith(GENSIM_PREFIX):
        return _download(name.removeprefix(GENSIM_PREFIX))
    if storage.is_uri(name):
        return name
    try:
        path = Path(name).expanduser()
    except RuntimeError as error:
        raise VectorsError(f"{name}: {error}") from error
    if not path.is_file():
        hint = f"; for a model of gensim's downloader write {GENSIM_PREFIX}{name}"
        raise VectorsError(f"{path}: no such vectors file (vectors.path){'' if path.suffix or path.exists() else hint}")
    return str(path)


def _download(model: str) -> str:
    """Return the path of a model of gensim's downloader, downloaded if necessary; its code is not run."""
    import gensim.downloader

    logging.getLogger("gensim.api").setLevel(logging.CRITICAL)  # it logs a traceback if the list is not reachable
    logger.info(f"requesting {model} from gensim's downloader")
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            models = gensim.downloader.info()["models"]
            if model not in models:
                names = ", ".join(sorted(name for name in models if not name.startswith("__")))
                raise VectorsError(f"{GENSIM_PREFIX}{model}: unknown to gensim's downloader, which has {names}")
            return str(gensim.downloader.load(model, return_path=True))
    except VectorsError:
        raise
    except Exception as error:  # it raises bare Exception too
        raise VectorsError(f"{GENSIM_PREFIX}{model}: gensim's downloader failed: {error}") from error


def _read(name: str, path: str, settings: VectorSettings, target_words: set[str]) -> WordVectors:
    with _open(name, path) as stream:
        format = _detect_format(name, stream, settings)
        if format == "keyed-vectors":
            return _read_pickle(name, path, settings, target_words)
        if format == "fasttext":
            is_plain = isinstance(stream, io.BufferedReader) and not storage.is_uri(path)
            size = Path(path).stat().st_size if is_plain else None
            return fasttext.read_model(name, stream, settings.unicode_errors, target_words, settings.extra_words, size)
        return _select_rows(
            target_words,
            settings.extra_words,
            lambda keep: word2vec.parse_vectors(name, stream, format, settings.unicode_errors, keep),
        )


def _detect_format(name: str, stream: BinaryIO, settings: VectorSettings) -> str:
    """Return the format that is set or that the first bytes show; auto for a word2vec or GloVe file."""
    first_bytes = stream.peek(4)[:4]  # type: ignore[attr-defined]  # a BufferedReader or a GzipFile
    if settings.format == "auto":
        if first_bytes == fasttext.MAGIC:
            return "fasttext"
        if first_bytes == ZIP_MAGIC:
            raise VectorsError(f"{name}: is a zip archive; unpack it and set vectors.path to one of its files")
        if first_bytes[:1] == PICKLE_MAGIC:
            return "keyed-vectors"
    return settings.format


def _select_rows(
    target_words: set[str], extra_words: int, parse: Callable[[Callable[[str], bool]], Iterator[word2vec.Row]]
) -> WordVectors:
    """Return the rows of the target words, in any case, and of the first `extra_words` others.

    Args:
        parse: yields the rows of the words that its argument selects.
    """
    selector = WordSelector(target_words, extra_words)
    vectors = {word: vector for word, vector in parse(selector.may_select) if selector.select(word)}
    return WordVectors(list(vectors), np.stack(list(vectors.values())) if vectors else np.empty((0, 0), np.float32))


def _check_pickle(name: str, path: str, settings: VectorSettings) -> None:
    if not settings.allow_pickle:
        raise VectorsError(
            f"{name}: is a pickle, as gensim saves KeyedVectors, and reading a pickle runs the code that it contains; "
            "set vectors.allow_pickle=true if you trust the file"
        )
    if storage.is_uri(path):
        raise VectorsError(
            f"{name}: KeyedVectors are read only from a local path, since gensim stores parts of them in other files"
        )


def _read_pickle(name: str, path: str, settings: VectorSettings, target_words: set[str]) -> WordVectors:
    """Return vectors of KeyedVectors, or of a whole Word2Vec or FastText model, that gensim saved."""
    _check_pickle(name, path, settings)
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

    def parse(keep: Callable[[str], bool]) -> Iterator[word2vec.Row]:
        for row, word in enumerate(index):
            if keep(word):
                yield word, word2vec.check_finite(f"{name}, '{word}'", np.array(keyed.vectors[row], np.float32))

    return _select_rows(target_words, settings.extra_words, parse)
