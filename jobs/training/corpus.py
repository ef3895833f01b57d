"""Corpus of a run: its texts as token ids with labels, its vocabulary, and the initial word vectors.

The texts are read and tokenized once, and the vectors are looked up once. A corpus consists of flat arrays, so that
all workers and trials on a node map the same memory of Ray's object store.
"""

import hashlib
import json
import logging
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from cluster import format_count
from cluster.console.logs import ForwardingHandler, handle_logs
from cluster.console.progress import progress_bar
from cluster.machine import count_cpus
from cluster.storage import absolute_path, exists, join, write_bytes
from jobs.config.class_weights import ClassWeights
from jobs.config.experiment import Experiment, digest
from jobs.config.training_defaults import DEFAULT_BATCH_SIZE, choose_batch_size
from jobs.datasets.dataset import Dataset, load_dataset
from jobs.datasets.json_digest import digest_list
from jobs.datasets.label_sets import encode_labels
from jobs.datasets.prepared.corpus_tokens import count_words, encode, tokenize_texts
from jobs.datasets.readers import Split
from jobs.datasets.row_weights import compute_label_weights, compute_row_weights
from jobs.datasets.text_checks import describe_texts, describe_undivided_texts
from jobs.datasets.tokenization.installed import check_tokenizer
from jobs.datasets.tokenization.text_tokens import find_words
from jobs.datasets.tokenizer import Tokens, Vocabulary, fold_case, normalize
from jobs.embeddings.initialization import initialize_vectors, scale_to_norm
from jobs.embeddings.pretraining import (
    CACHE_KEY_SETTINGS,
    SINGLE_THREAD_WORDS,
    train_word2vec,
    write_tokenized_corpus,
)
from jobs.embeddings.vector_files import read_vectors, restrict_vectors
from jobs.embeddings.word_vectors import Coverage, WordVectors, compute_coverage
from jobs.model.checkpoint import load_labels

logger = logging.getLogger(__name__)

MANY_TEXTS = 50_000  # take more than a second


@dataclass(frozen=True)
class EncodedSplit:
    """One part of a dataset. tokens: of its texts; labels: `(texts,)` int64, indices into the corpus's labels; with
    several labels per text `(texts, labels)` uint8, 1 for those of a text.

    weights: of the rows in the loss, `(texts,)` float64; None if they are equal.
    """

    tokens: Tokens
    labels: np.ndarray
    weights: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Corpus:
    """Everything that training needs.

    words: the vocabulary, whose first word has id 2: the words of the training texts, then words that only the
    vectors file has. vectors: `(words + 2, dimensions)` float32. pretrained: `(words + 2,)` bool, whether the vector
    comes from the file. scale: `(words + 2,)` float32, factor by which the vector was multiplied (`vectors.norm`).
    coverage: None without pretrained vectors. key: identifies texts and vectors: a file by its vectors, those trained
    here by what they were trained from. held_out: identifies the test part, which is not in the corpus. out_of_scope:
    tokens of texts in no class, which select thresholds; None without such texts. num_trained: least number of word ids
    with a trained vector. started_from: path and manifest's SHA-256 of the checkpoint of `train.start_from`. linear:
    cache of `jobs.training.linear.svc`, empty in a copy with other rows.
    """

    train: EncodedSplit
    validation: EncodedSplit
    labels: list[str]
    words: list[str]
    vectors: np.ndarray
    pretrained: np.ndarray
    scale: np.ndarray
    coverage: Coverage | None
    key: str
    held_out: str
    out_of_scope: Tokens | None = None
    num_trained: int = 2
    started_from: Mapping[str, str] | None = None
    linear: dict[str, dict[str, np.ndarray]] = field(init=False, default_factory=dict, repr=False, compare=False)

    def word_counts(self) -> np.ndarray:
        """Return the occurrences of each word id in the training texts, `(train words,)` int64.

        Ids 0 and 1 are padding (never) and unknown words. Words with later ids are not in the texts, and not trained.
        """
        return np.bincount(self.train.tokens.ids, minlength=self.num_trained)

    def row_weights(self, class_weights: ClassWeights) -> np.ndarray | None:
        """Return the weights of the training rows in the loss; values and errors as of `compute_row_weights`."""
        of_classes = class_weights if self.train.labels.ndim == 1 else None
        return compute_row_weights(of_classes, self.labels, self.train.labels, self.train.weights)

    def label_weights(self, class_weights: ClassWeights) -> np.ndarray | None:
        """Return the weights of the labels in the loss, as `compute_label_weights`; None with one label per text."""
        of_labels = class_weights if self.train.labels.ndim == 2 else None
        return compute_label_weights(of_labels, self.labels, self.train.labels, self.train.weights)


class CorpusCache:
    """Corpora of one dataset, one for each way to read its texts, built on first use; in a search a Ray actor.

    Args:
        experiment, dataset: of the search.
        put: stores a corpus and returns a reference to it.
        send: receives log messages, as ("log", (level, message)).
    """

    def __init__(
        self, experiment: Experiment, dataset: Dataset, put: Callable[[Corpus], Any], send: Callable[[str, Any], None]
    ) -> None:
        self._experiment, self._dataset, self._put = experiment, dataset, put
        self._handler = ForwardingHandler(send)
        self._references: dict[str, Any] = {}

    def get(self, experiment: Experiment) -> list[Any]:
        """Return a reference to an experiment's corpus, in a list: Ray would replace a bare reference by its value."""
        key = corpus_key(experiment)
        if key not in self._references:
            chosen = self._experiment.replace({"text": experiment.text.model_dump()})
            with handle_logs(self._handler):
                corpus = build_corpus(chosen, self._dataset, use_pretrained=experiment.model.embedding != "rand")
            self._references[key] = self._put(corpus)
        return [self._references[key]]


def corpus_key(experiment: Experiment) -> str:
    """Return a key of an experiment's corpus among those of one dataset: text settings, and whether vectors are
    pretrained."""
    return digest([experiment.text.model_dump(), experiment.model.embedding == "rand"])


def build_corpus(
    experiment: Experiment,
    dataset: Dataset,
    *,
    use_pretrained: bool,
    word_vectors: WordVectors | None = None,
    log_notes: bool = True,
    train_with_one_thread: bool = False,
) -> Corpus:
    """Return the corpus of a dataset.

    Args:
        use_pretrained: read the vectors file, or train vectors; otherwise all vectors are random.
        word_vectors: vectors of the file, read before for these and other texts; only those that reading it for these
            texts would return are used.
        log_notes: log what is unusual about the texts and vectors.
        train_with_one_thread: train vectors with one thread, and so the same ones each time, however many the words.
    """
    text = experiment.text
    if len(dataset.train) > MANY_TEXTS:
        logger.info(f"tokenizing {len(dataset.train):,} texts")
    tokenized = tokenize_texts(dataset.train.texts, text)
    validation_tokens = tokenize_texts(dataset.validation.texts, text)
    counts = count_words(tokenized, text.max_words)
    train_words = {word for word, _ in counts}
    trained_from = None
    if not use_pretrained:
        word_vectors = None
    elif word_vectors is not None:
        word_vectors = restrict_vectors(word_vectors, experiment.vectors, train_words)
    elif experiment.vectors.path is not None:
        word_vectors = _read_vectors(experiment, train_words)
    else:
        threads = 1 if train_with_one_thread else None
        word_vectors, trained_from = _train_vectors(experiment, dataset, tokenized, train_words, threads)
    # A search builds a second corpus of the same texts, with random vectors.
    if log_notes and (use_pretrained or experiment.model.embedding == "rand"):
        _log_text_notes(dataset, tokenized, validation_tokens, counts, text.max_tokens)
    words = _select_words(counts, word_vectors, text.min_count, text.lowercase)
    table, pretrained, case_insensitive = initialize_vectors(
        words, word_vectors, experiment.vectors.dimensions, experiment.seed
    )
    scale = scale_to_norm(table, None if word_vectors is None else experiment.vectors.norm)
    coverage = None
    if word_vectors is not None:
        coverage = compute_coverage(counts, words, word_vectors, pretrained, case_insensitive)
        warning = coverage.describe_low_share(experiment.vectors)
        if warning and log_notes:
            logger.warning(warning)
    vocabulary = Vocabulary(words, text.max_edit_distance)
    train = _encode_split(dataset.train, tokenized, vocabulary, dataset.labels, text.max_tokens)
    validation = _encode_split(dataset.validation, validation_tokens, vocabulary, dataset.labels, text.max_tokens)
    key = _content_key(train, validation, trained_from or table, [words, dataset.labels])
    held_out, out_of_scope = dataset.test.digest(), None
    if dataset.out_of_scope is not None:
        out_of_scope = encode(tokenize_texts(dataset.out_of_scope.texts, text), vocabulary, text.max_tokens)
        key = digest([key, dataset.out_of_scope.texts])
    return Corpus(
        train, validation, dataset.labels, words, table, pretrained, scale, coverage, key, held_out, out_of_scope
    )


def load_texts(experiment: Experiment) -> Dataset:
    """Return the dataset of an experiment, and log its size and notes on it."""
    check_tokenizer(experiment.text.tokenizer)
    logger.info("reading the texts")
    start = experiment.train.start_from
    dataset = load_dataset(experiment, known_labels=load_labels(start) if start else ())
    for note in dataset.notes:
        logger.info(note)
    rows = f"{len(dataset.train):,} training rows, {len(dataset.validation):,} validation rows"
    logger.info(f"{rows}, {len(dataset.labels)} classes")
    batch_size = choose_batch_size(len(dataset.train))
    if experiment.train.batch_size is None and batch_size < DEFAULT_BATCH_SIZE:
        logger.info(f"batches of {batch_size}, since there are few training rows; train.batch_size sets another size")
    return dataset


def load_inputs(experiment: Experiment, dataset: Dataset | None = None) -> tuple[Dataset, Corpus]:
    """Return the dataset, by default loaded, and the corpus of an experiment; log their sizes and notes on them."""
    dataset = dataset or load_texts(experiment)
    logger.info("looking up the words")
    corpus = build_corpus(experiment, dataset, use_pretrained=experiment.model.embedding != "rand")
    if corpus.coverage:
        logger.info(f"vectors: {corpus.coverage}")
    return dataset, corpus


def load_text_vectors(experiment: Experiment, texts: Iterable[str]) -> WordVectors:
    """Return the vectors of a file for all words of some texts, as input of several `build_corpus` calls."""
    return _read_vectors(experiment, find_words(list(texts), experiment.text))


def _select_words(
    counts: list[tuple[str, int]], word_vectors: WordVectors | None, min_count: int, lowercase: bool
) -> list[str]:
    """Return the vocabulary, with the words of the training texts first."""
    if word_vectors is None:
        return [word for word, count in counts if count >= min_count]
    spellings = {normalize(word, lowercase): None for word in word_vectors.words}  # in the file's order
    known = {fold_case(word) for word in word_vectors.words}
    words = [word for word, count in counts if count >= min_count or fold_case(word) in known]
    train_words = {word for word, _ in counts}
    return words + [word for word in spellings if word not in train_words]


def _read_vectors(experiment: Experiment, words: set[str]) -> WordVectors:
    return read_vectors(experiment.vectors, words, join(absolute_path(experiment.storage), "cache"))


def _train_vectors(
    experiment: Experiment, dataset: Dataset, tokenized: Sequence[list[str]], words: set[str], threads: int | None
) -> tuple[WordVectors, str]:
    """Return the vectors of words that gensim trained on the texts, and a key of what they depend on.

    They are in the storage under that key, and trained only if they are not: other threads would train others.

    Args:
        threads: their number; None for all cores if there are many words.
    """
    settings, background = experiment.vectors, dataset.pretraining_texts
    key = digest(
        [
            background.key() if background else digest_list(tokenized),
            settings.model_dump(include=set(CACHE_KEY_SETTINGS)),
            experiment.seed,
            metadata.version("gensim"),
        ]
    )
    target = join(absolute_path(experiment.storage), "cache", f"vectors-{key}.bin")
    if not exists(target):
        with tempfile.TemporaryDirectory() as scratch:
            texts = write_tokenized_corpus(Path(scratch), background.iter_tokens() if background else tokenized)
            threads = threads or (1 if texts.num_words <= SINGLE_THREAD_WORDS else count_cpus())
            logger.info(f"training {settings.dimensions}-dimensional word2vec with {format_count(threads, 'thread')}")
            part = Path(scratch, "vectors.bin")
            with progress_bar("word2vec", "words", settings.epochs * texts.num_words, logger) as report:
                train_word2vec(texts, part, settings, experiment.seed, threads, lambda done, total: report(done))
            # Another command may have trained others meanwhile, and have read them: those stay.
            write_bytes(target, part.read_bytes(), replace=False)
    vectors = read_vectors(settings.model_copy(update={"path": target, "format": "auto"}), words, None)
    return vectors, digest([key, settings.model_dump()])


def _log_text_notes(
    dataset: Dataset,
    train: Sequence[list[str]],
    validation: Sequence[list[str]],
    counts: list[tuple[str, int]],
    max_tokens: int,
) -> None:
    notes = describe_texts("training", dataset.train, train, max_tokens)
    for note in [*notes, *describe_texts("validation", dataset.validation, validation, max_tokens)]:
        logger.info(note)
    warning = describe_undivided_texts(counts)
    if warning:
        logger.warning(warning)


def _encode_split(
    split: Split, tokenized: Sequence[list[str]], vocabulary: Vocabulary, labels: list[str], max_tokens: int
) -> EncodedSplit:
    return EncodedSplit(
        encode(tokenized, vocabulary, max_tokens),
        encode_labels(split, labels),
        None if split.weights is None else np.array(split.weights),
    )


def _content_key(
    train: EncodedSplit, validation: EncodedSplit, vectors: np.ndarray | str, names: list[list[str]]
) -> str:
    """Return 8 hex digits that identify texts and vectors; vectors: or a key of what they were trained from."""
    content = hashlib.sha256(json.dumps(names).encode())
    for split in (train, validation):
        for array in (split.tokens.ids, split.tokens.offsets, split.labels):
            content.update(np.ascontiguousarray(array).data)
    if train.weights is not None:
        content.update(train.weights.tobytes())
    content.update(vectors.encode() if isinstance(vectors, str) else np.ascontiguousarray(vectors).data)
    return content.hexdigest()[:8]
