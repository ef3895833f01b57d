"""Pretraining of word vectors: gensim's word2vec on tokenized texts, with progress.

    finetune-cnn vectors train reviews.txt more.csv.gz --out vectors.bin vectors.dimensions=300

gensim trains fastest on files, but reports nothing until it has finished one. The texts are therefore written to
several files (shards), which are trained on one after the other. The learning rate decreases linearly over all.
"""

import logging
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.console.logs import RESULT
from cluster.console.output import report_result
from cluster.console.progress import progress_bar
from cluster.input_files import READ_ERRORS, is_same_file, open_stream
from cluster.machine import count_cpus
from cluster.storage import (
    StorageError,
    atomic_write,
    check_local_file,
    exists,
    output_folder,
    write_bytes,
)
from jobs.config.experiment import Experiment
from jobs.config.settings import VectorSettings
from jobs.datasets.readers import file_size, stream_texts
from jobs.datasets.tokenizer import tokenize
from jobs.embeddings.vector_files import read_vectors
from jobs.embeddings.word2vec import VectorsError, parse_vectors
from jobs.embeddings.word_vectors import WordVectors

logger = logging.getLogger(__name__)

SHARD_WORDS = 1_000_000  # some seconds of training
SINGLE_THREAD_WORDS = 200_000  # trained in seconds by one thread, with the same result each time
# Settings of `vectors` that the trained vectors depend on.
CACHE_KEY_SETTINGS = ("dimensions", "algorithm", "window", "negative", "sample", "epochs", "min_count")
START_LEARNING_RATE, END_LEARNING_RATE = 0.025, 0.0001  # defaults of word2vec


@dataclass(frozen=True)
class CorpusShard:
    """A file of tokenized texts, one a line, tokens separated by a space."""

    path: Path
    num_words: int


@dataclass(frozen=True)
class TokenizedCorpus:
    """Tokenised texts on disk. word_counts: occurrences of each word; num_texts: lines of all shards."""

    shards: list[CorpusShard]
    word_counts: Counter[str]
    num_texts: int

    @property
    def num_words(self) -> int:
        """Words of all shards."""
        return sum(shard.num_words for shard in self.shards)


def write_tokenized_corpus(folder: Path, texts: Iterable[list[str]]) -> TokenizedCorpus:
    """Write tokenized texts into files of a folder and return the corpus; texts without tokens are dropped."""
    counts: Counter[str] = Counter()
    shards: list[CorpusShard] = []
    lines: list[str] = []
    num_texts = num_words = 0

    def flush() -> None:
        path = folder / f"{len(shards)}.txt"
        path.write_text("".join(lines), encoding="utf-8")
        shards.append(CorpusShard(path, num_words))
        lines.clear()

    for tokens in texts:
        if tokens:
            counts.update(tokens)
            lines.append(" ".join(tokens) + "\n")
            num_texts += 1
            num_words += len(tokens)
        if num_words >= SHARD_WORDS:
            flush()
            num_words = 0
    if lines:
        flush()
    return TokenizedCorpus(shards, counts, num_texts)


def train_word2vec(
    texts: TokenizedCorpus,
    target: Path,
    settings: VectorSettings,
    seed: int,
    threads: int,
    progress: Callable[[int, int], None],
) -> None:
    """Train word2vec with gensim and write word2vec binary.

    With more than one thread, the result depends on their timing.

    Args:
        progress: called with the number of words done and in total, over all epochs.

    Raises:
        VectorsError: no word is frequent enough.
    """
    from gensim.models import Word2Vec

    select_words(texts.word_counts, settings.min_count)
    model = Word2Vec(
        vector_size=settings.dimensions,
        sg=int(settings.algorithm == "skip-gram"),
        window=settings.window,
        negative=settings.negative,
        hs=int(settings.negative == 0),
        sample=settings.sample,
        min_count=settings.min_count,
        workers=threads,
        seed=seed,
    )
    model.build_vocab_from_freq(texts.word_counts, corpus_count=texts.num_texts)
    total = settings.epochs * texts.num_words
    done = 0

    def learning_rate() -> float:
        return START_LEARNING_RATE + (END_LEARNING_RATE - START_LEARNING_RATE) * done / total

    progress(done, total)
    for _ in range(settings.epochs):
        for shard in texts.shards:
            start = learning_rate()
            done += shard.num_words
            model.train(
                corpus_file=str(shard.path),
                total_words=shard.num_words,
                epochs=1,
                start_alpha=start,
                end_alpha=learning_rate(),
            )
            progress(done, total)
    model.wv.save_word2vec_format(str(target), binary=True)


def load_or_train(
    path: str, settings: VectorSettings, target_words: set[str], train: Callable[[Path], None]
) -> WordVectors:
    """Return the vectors of `target_words`, as `read_vectors`, of a cached file, which is trained if there is none.

    A damaged file is trained again, with a warning.

    Args:
        path: of the file, a path or URI.
        train: writes word2vec binary at a local path, whose folder is temporary and may be used for other files.

    Raises:
        StorageError: the file cannot be written.
        VectorsError: it cannot be read, or has none of the words.
    """
    trained = settings.model_copy(update={"path": path, "format": "auto"})
    if exists(path):
        try:
            return read_vectors(trained, target_words, None)
        except VectorsError as error:
            if not _is_damaged(path):
                raise
            logger.warning(f"{error}; training the vectors again")
    with tempfile.TemporaryDirectory() as scratch:
        part = Path(scratch, "vectors.bin")
        train(part)
        # Another command may have trained others meanwhile, and have read them: those stay.
        write_bytes(path, part.read_bytes(), replace=exists(path) and _is_damaged(path))
    return read_vectors(trained, target_words, None)


def _is_damaged(path: str) -> bool:
    """Return whether a file is no complete word2vec binary; False if it cannot be read at the moment."""
    try:
        with open_stream(path) as stream:
            for _ in parse_vectors(path, stream, "word2vec-binary", "strict", lambda word: True):
                pass
    except VectorsError:
        return True
    except (StorageError, *READ_ERRORS):
        pass
    return False


def train_word2vec_on_files(files: Sequence[str], out: str, experiment: Experiment, threads: int | None) -> None:
    """Train word2vec on the texts of files and write word2vec binary, with a progress bar.

    Args:
        files: in any format that training reads (column `data.text_column`), without the labels of fastText files,
            or with a text on each line; plain, gzipped or zstd, at a path or URI.
        experiment: its `text`, `vectors`, `data` and `seed` are used.
        threads: default: one per core.

    Raises:
        VectorsError: there is nothing to train on, or `out` is one of the files.
        DataError: a file is missing or broken.
    """
    settings, target = experiment.vectors, choose_target(files, out, experiment.vectors)
    threads = threads or count_cpus()
    # The tokenized texts may be larger than the temporary folder; the folder of the vectors is meant for large files.
    with (
        output_folder(str(target.parent)) as folder,
        tempfile.TemporaryDirectory(prefix=f".{target.name}.", suffix=".part", dir=folder) as scratch,
    ):
        texts = write_tokenized_corpus(Path(scratch), iter_tokenized(files, experiment))
        logger.info(
            f"{texts.num_texts:,} texts, {texts.num_words:,} words, {len(texts.word_counts):,} of them different"
        )
        total = settings.epochs * texts.num_words
        with (
            atomic_write(target) as part,
            progress_bar(f"word2vec, {threads} threads", "words", total, logger) as report,
        ):
            train_word2vec(texts, part, settings, experiment.seed, threads, lambda done, total: report(done))
    num_vectors = len(select_words(texts.word_counts, settings.min_count))
    logger.log(RESULT, f"wrote {target}: {num_vectors:,} words x {settings.dimensions} dimensions")
    report_result({"path": str(target), "words": num_vectors, "dimensions": settings.dimensions})


def choose_target(files: Sequence[str], out: str, settings: VectorSettings) -> Path:
    """Return the path of the file to write; errors as of `train_word2vec_on_files` before it reads the texts."""
    if settings.path is not None:
        raise VectorsError(f"vectors.path={settings.path} is a file to read; set the file to write with --out")
    target = check_local_file(out)
    if target.suffix.lower() in (".gz", ".txt", ".vec"):
        raise VectorsError(f"{out}: is written as word2vec binary, neither text nor gzipped; name a .bin file")
    for file in files:
        if target.exists() and is_same_file(file, str(target)):
            raise VectorsError(f"{out}: is one of the files to train on")
    return target


def select_words(counts: Mapping[str, int], min_count: int) -> list[str]:
    """Return the words that get a vector; VectorsError if there are none."""
    words = [word for word, count in counts.items() if count >= min_count]
    if not words:
        raise VectorsError(
            f"word2vec cannot be trained on these texts: no word occurs {min_count} times; lower vectors.min_count"
        )
    return words


def iter_tokenized(files: Sequence[str], experiment: Experiment) -> Iterator[list[str]]:
    """Yield the tokens of each text of the files, and show a progress bar; VectorsError at the end if there are none.

    Texts without tokens are skipped.
    """
    data = experiment.data
    sizes = [file_size(file, data) for file in files]
    total = None if None in sizes else sum(size or 0 for size in sizes)
    done, has_words = 0, False
    with progress_bar("reading texts", "bytes", total, logger) as report:

        def count_bytes(length: int) -> None:
            nonlocal done
            done += length
            report(done)

        for file in files:
            for text in stream_texts(file, data, count_bytes):
                if tokens := tokenize(text, experiment.text):
                    has_words = True
                    yield tokens
    if not has_words:
        raise VectorsError(f"{', '.join(files)}: no word to train on")
