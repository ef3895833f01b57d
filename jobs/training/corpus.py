"""A dataset as numbers: read once, tokenised once, its word vectors looked up once.

A Corpus is flat arrays, so that every worker and trial on a node maps the same memory of Ray's
object store.
"""

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cluster.storage import absolute_path, atomic_write, cache_folder, join
from jobs.config.experiment import Experiment, digest
from jobs.datasets.dataset import Dataset
from jobs.datasets.readers import Split
from jobs.datasets.tokenizer import Tokens, Vocabulary, count_words, encode, tokenize
from jobs.embeddings import initialization as initial
from jobs.embeddings import pretraining
from jobs.embeddings import vector_files as vectors
from jobs.embeddings.progress import make_progress_logger

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EncodedSplit:
    """One part. tokens: its texts; labels: `(texts,)` int64, places in the corpus's labels."""

    tokens: Tokens
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Corpus:
    """All that training needs.

    words: the vocabulary from number 2 on: first the words of the training texts, then words that only
    the vectors file has. vectors: `(words + 2, dimensions)` float32; pretrained: `(words + 2,)` bool, which of
    them are; scale: `(words + 2,)` float32, what each was multiplied by (`vectors.norm`). coverage: None where
    nothing is pretrained. key: identifies texts and vectors. held_out: identifies the test part, which is not
    in here.
    """

    train: EncodedSplit
    validation: EncodedSplit
    labels: list[str]
    words: list[str]
    vectors: np.ndarray
    pretrained: np.ndarray
    scale: np.ndarray
    coverage: vectors.Coverage | None
    key: str
    held_out: str

    def word_counts(self) -> np.ndarray:
        """Return how often each word stands in the training texts, up to the last that does, `(seen,)` int64.

        The first two are padding (never) and unknown words. Words from `seen` on are not trained.
        """
        return np.bincount(self.train.tokens.ids, minlength=2)


def build_corpus(
    experiment: Experiment, dataset: Dataset, *, use_pretrained: bool, word_vectors: vectors.WordVectors | None = None
) -> Corpus:
    """Return the corpus of a dataset.

    Args:
        pretrained: read the vectors file, or train vectors; otherwise all are random.
        found: the vectors of these words, if they were read before.
    """
    text = experiment.text
    tokenized = [tokenize(row, text.lowercase) for row in dataset.train.texts]
    counts = count_words(tokenized, text.max_words)
    if not use_pretrained:
        word_vectors = None
    elif word_vectors is None:
        word_vectors = _pretrained(experiment, dataset, tokenized, {word for word, _ in counts})
    words = _choose(counts, word_vectors, text.min_count, text.lowercase)
    table, known, respelled = initial.initialize_vectors(
        words, word_vectors, experiment.vectors.dimensions, experiment.seed
    )
    scale = np.ones(len(table), np.float32)
    coverage = None
    if word_vectors is not None:
        table, scale = initial.scale_to_norm(table, experiment.vectors.norm)
        known_words = {word for word, is_known in zip(words, known[2:], strict=True) if is_known}
        respelled_words = {word for word, is_respelled in zip(words, respelled[2:], strict=True) if is_respelled}
        coverage = vectors.Coverage(
            words=len(counts),
            covered_words=sum(word in known_words for word, _ in counts),
            tokens=sum(count for _, count in counts),
            covered_tokens=sum(count for word, count in counts if word in known_words),
            respelled=sum(word in respelled_words for word, _ in counts),
            composed=sum(word in word_vectors.composed for word, _ in counts),
        )
    vocabulary = Vocabulary(words)
    train = _encoded(dataset.train, tokenized, vocabulary, dataset.labels, text.max_tokens)
    validation_tokens = [tokenize(row, text.lowercase) for row in dataset.validation.texts]
    validation = _encoded(dataset.validation, validation_tokens, vocabulary, dataset.labels, text.max_tokens)
    key = _key(train, validation, table, [words, dataset.labels])
    return Corpus(train, validation, dataset.labels, words, table, known, scale, coverage, key, dataset.test.digest())


def load_text_vectors(experiment: Experiment, texts: Iterable[str]) -> vectors.WordVectors:
    """Return the vectors of a file for all words of some texts, to be handed to `prepare` more than once."""
    counts = count_words((tokenize(text, experiment.text.lowercase) for text in texts), experiment.text.max_words)
    return _read(experiment, {word for word, _ in counts})


def _choose(
    counts: list[tuple[str, int]], found: vectors.WordVectors | None, min_count: int, lowercase: bool
) -> list[str]:
    """Return the vocabulary's words, those of the training texts first."""
    if found is None:
        return [word for word, count in counts if count >= min_count]
    spellings = {word.lower() if lowercase else word: None for word in found.words}  # in the file's order
    exact = {*found.words, *spellings}
    words = [word for word, count in counts if count >= min_count or word in exact]
    seen = {word for word, _ in counts}
    return words + [word for word in spellings if word not in seen]


def _pretrained(
    experiment: Experiment, dataset: Dataset, tokenized: list[list[str]], wanted: set[str]
) -> vectors.WordVectors:
    """Return the vectors of a file, or of one that gensim trained on the texts, now or in an earlier run."""
    settings = experiment.vectors
    if settings.path is not None:
        return _read(experiment, wanted)
    path = _trained(experiment, dataset, tokenized)
    return vectors.read_vectors(settings.model_copy(update={"path": str(path), "format": "auto"}), wanted, None)


def _read(experiment: Experiment, wanted: set[str]) -> vectors.WordVectors:
    return vectors.read_vectors(experiment.vectors, wanted, join(absolute_path(experiment.storage), "cache"))


def _trained(experiment: Experiment, dataset: Dataset, tokenized: list[list[str]]) -> Path:
    """Return the file of vectors that gensim trains on the texts, if it has not done so yet."""
    folder = cache_folder(experiment.storage)
    settings = experiment.vectors
    with tempfile.TemporaryDirectory() as scratch:
        background = dataset.pretraining_file
        # What the background file holds is named by its path: it is made once, and not changed.
        key = background.name if background else digest(tokenized)
        decides = [key, settings.model_dump(include=set(pretraining.CACHE_KEY_SETTINGS)), experiment.seed]
        target = folder / f"vectors-{digest(decides)}.bin"
        if not target.exists():
            rows: Iterable[list[str]] = tokenized
            if background is not None:
                rows = (line.split() for line in background.read_text(encoding="utf-8").split("\n"))
            texts = pretraining.write_tokenized_corpus(Path(scratch), rows)
            threads = os.cpu_count() or 1
            logger.info(f"training {settings.dimensions}-dimensional word2vec with {threads} threads")
            tell = make_progress_logger("word2vec", "words", settings.epochs * texts.num_words)
            with atomic_write(target) as part:
                pretraining.train_word2vec(
                    texts, part, settings, experiment.seed, threads, lambda done, total: tell(done)
                )
    return target


def _encoded(
    part: Split, tokenized: list[list[str]], vocabulary: Vocabulary, labels: list[str], max_tokens: int
) -> EncodedSplit:
    numbers = {label: number for number, label in enumerate(labels)}
    return EncodedSplit(
        encode(tokenized, vocabulary, max_tokens),
        np.array([numbers[label] for label in part.labels], np.int64),
    )


def _key(train: EncodedSplit, validation: EncodedSplit, table: np.ndarray, names: list[list[str]]) -> str:
    content = hashlib.sha256(json.dumps(names).encode())
    for part in (train, validation):
        for array in (part.tokens.ids, part.tokens.offsets, part.labels):
            content.update(array.tobytes())
    content.update(np.ascontiguousarray(table).tobytes())
    return content.hexdigest()[:8]
