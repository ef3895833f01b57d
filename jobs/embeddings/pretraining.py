"""Word vectors trained here: gensim's word2vec on tokenised texts, with progress.

    python -m jobs vectors train reviews.txt more.csv.gz --out vectors.bin vectors.dimensions=300

gensim is given the texts as files, the fastest way it has, in pieces one after the other, since it says
nothing before it is through with a file. The learning rate falls linearly over all of them.
"""

import logging
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.storage import atomic_write, prepare_local_file
from jobs.config.experiment import Experiment
from jobs.config.settings import VectorSettings as Settings
from jobs.datasets.readers import file_size, stream_texts
from jobs.datasets.tokenizer import tokenize
from jobs.embeddings import vector_files as vectors
from jobs.embeddings.progress import progress_bar
from jobs.embeddings.word2vec import VectorsError

logger = logging.getLogger(__name__)

SHARD_WORDS = 1_000_000  # some seconds of training
# The settings of `vectors` that decide what is trained.
CACHE_KEY_SETTINGS = ("dimensions", "algorithm", "window", "negative", "sample", "epochs", "min_count")
START_LEARNING_RATE, END_LEARNING_RATE = 0.025, 0.0001  # word2vec's own


@dataclass(frozen=True)
class CorpusShard:
    """A file of tokenised texts, one a line, tokens apart by a space."""

    path: Path
    num_words: int


@dataclass(frozen=True)
class TokenizedCorpus:
    """Tokenised texts on disk. counts: of each word; num_texts: lines in all pieces."""

    shards: list[CorpusShard]
    word_counts: Counter[str]
    num_texts: int

    @property
    def num_words(self) -> int:
        """Words in all pieces."""
        return sum(piece.num_words for piece in self.shards)


def write_tokenized_corpus(folder: Path, texts: Iterable[list[str]]) -> TokenizedCorpus:
    """Write tokenised texts into a folder and return what they hold; texts without a token are left out."""
    counts: Counter[str] = Counter()
    pieces: list[CorpusShard] = []
    lines: list[str] = []
    num_texts = words = 0

    def flush() -> None:
        path = folder / f"{len(pieces)}.txt"
        path.write_text("".join(lines), encoding="utf-8")
        pieces.append(CorpusShard(path, words))
        lines.clear()

    for tokens in texts:
        if tokens:
            counts.update(tokens)
            lines.append(" ".join(tokens) + "\n")
            num_texts += 1
            words += len(tokens)
        if words >= SHARD_WORDS:
            flush()
            words = 0
    if lines:
        flush()
    return TokenizedCorpus(pieces, counts, num_texts)


def train_word2vec(
    texts: TokenizedCorpus,
    target: Path,
    settings: Settings,
    seed: int,
    threads: int,
    progress: Callable[[int, int], None],
) -> None:
    """Train word2vec with gensim and write word2vec binary.

    With more than one thread gensim's result depends on their timing.

    Args:
        progress: is told words done and words in all, every epoch's counted.

    Raises:
        VectorsError: no word is frequent enough.
    """
    from gensim.models import Word2Vec

    if not any(count >= settings.min_count for count in texts.word_counts.values()):
        raise VectorsError(
            f"word2vec cannot be trained on these texts: no word occurs {settings.min_count} times; lower "
            "vectors.min_count"
        )
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

    def rate() -> float:
        return START_LEARNING_RATE + (END_LEARNING_RATE - START_LEARNING_RATE) * done / total

    progress(done, total)
    for _ in range(settings.epochs):
        for piece in texts.shards:
            start = rate()
            done += piece.num_words
            model.train(
                corpus_file=str(piece.path), total_words=piece.num_words, epochs=1, start_alpha=start, end_alpha=rate()
            )
            progress(done, total)
    model.wv.save_word2vec_format(str(target), binary=True)


def train_word2vec_on_files(files: Sequence[str], out: str, experiment: Experiment, threads: int | None) -> None:
    """Train word2vec on the texts of files and write it as word2vec binary, with a progress bar.

    Args:
        files: csv, tsv or jsonl (the column is `data.text_column`), or any other with a text on each line;
            plain or gzipped, by path or URI.
        experiment: its `text`, `vectors`, `seed` and `data.text_column` count.
        threads: default: one for each core.

    Raises:
        VectorsError, and DataError where a file is missing or broken.
    """
    settings = experiment.vectors
    if settings.path is not None:
        raise VectorsError(f"vectors.path={settings.path} is a file to read; the file to write is --out")
    target = prepare_local_file(out)
    for file in files:
        if target.exists() and vectors.is_same_file(file, target):
            raise VectorsError(f"{out}: is one of the files to train on")
    threads = threads or len(os.sched_getaffinity(0))
    # The tokenised texts may be as large as they come, so they lie where the vectors will.
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", suffix=".part", dir=target.parent) as scratch:
        texts = write_tokenized_corpus(Path(scratch), _tokenized(files, experiment))
        if not texts.num_words:
            raise VectorsError(f"{', '.join(files)}: no word to train on")
        logger.info(
            f"{texts.num_texts:,} texts, {texts.num_words:,} words, {len(texts.word_counts):,} of them different"
        )
        total = settings.epochs * texts.num_words
        with atomic_write(target) as part, progress_bar(f"word2vec, {threads} threads", "words", total) as tell:
            train_word2vec(texts, part, settings, experiment.seed, threads, lambda done, total: tell(done))
    kept = sum(count >= settings.min_count for count in texts.word_counts.values())
    logger.info(f"wrote {target}: {kept:,} words x {settings.dimensions} dimensions")


def _tokenized(files: Sequence[str], experiment: Experiment) -> Iterator[list[str]]:
    """Yield the tokens of each text of the files; the bar counts their bytes."""
    data = experiment.data
    sizes = [file_size(file, data) for file in files]
    total = None if None in sizes else sum(length or 0 for length in sizes)
    done = 0
    with progress_bar("reading texts", "bytes", total) as tell:

        def passed(length: int) -> None:
            nonlocal done
            done += length
            tell(done)

        for file in files:
            for text in stream_texts(file, data, passed):
                yield tokenize(text, experiment.text.lowercase)
