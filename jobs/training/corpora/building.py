"""Builds the corpus of a run: the texts are read and tokenized once, and the vectors are looked up once."""

import hashlib
import json
import logging
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path

import numpy as np

from cluster import format_count
from cluster.console.progress import progress_bar
from cluster.machine import count_cpus
from cluster.storage import absolute_path, join
from jobs.config.experiment import Experiment, digest
from jobs.config.training_defaults import DEFAULT_BATCH_SIZE, choose_batch_size
from jobs.datasets.dataset import Dataset, load_dataset
from jobs.datasets.json_digest import digest_list
from jobs.datasets.label_sets import encode_labels
from jobs.datasets.prepared.corpus_tokens import count_words, encode, tokenize_texts
from jobs.datasets.readers import Split
from jobs.datasets.text_checks import describe_texts, describe_undivided_texts
from jobs.datasets.tokenization.installed import check_tokenizer
from jobs.datasets.tokenization.text_tokens import find_words
from jobs.datasets.tokenizer import Vocabulary, fold_case, normalize
from jobs.embeddings.initialization import initialize_vectors, scale_to_norm
from jobs.embeddings.pretraining import (
    CACHE_KEY_SETTINGS,
    SINGLE_THREAD_WORDS,
    load_or_train,
    train_word2vec,
    write_tokenized_corpus,
)
from jobs.embeddings.vector_files import read_vectors, restrict_vectors
from jobs.embeddings.word_vectors import WordVectors, compute_coverage
from jobs.model.checkpoint import load_labels
from jobs.training.corpora.corpus import Corpus, EncodedSplit

logger = logging.getLogger(__name__)

MANY_TEXTS = 50_000  # take more than a second


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
    dataset = load_dataset(experiment, known_labels=load_labels(experiment.train.start_from))
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

    They are in the storage under that key, and trained only if they are not there or damaged: other threads would
    train others.

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
    path = join(absolute_path(experiment.storage), "cache", f"vectors-{key}.bin")

    def train(target: Path) -> None:
        texts = write_tokenized_corpus(target.parent, background.iter_tokens() if background else tokenized)
        num_threads = threads or (1 if texts.num_words <= SINGLE_THREAD_WORDS else count_cpus())
        logger.info(f"training {settings.dimensions}-dimensional word2vec with {format_count(num_threads, 'thread')}")
        with progress_bar("word2vec", "words", settings.epochs * texts.num_words, logger) as report:
            train_word2vec(texts, target, settings, experiment.seed, num_threads, lambda done, total: report(done))

    vectors = load_or_train(path, settings, words, train)
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
