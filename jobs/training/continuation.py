"""Continued training: a run that starts from a checkpoint's weights, with more rows, words and classes.

A word that the checkpoint knows has its vector, and a class that it knows has its output weights; the filters are
copied. New words and classes start as in any run. So before the first step, the logits of known classes are those of
the checkpoint, for texts of known words. The vocabulary is that of the run, followed by the words that only the
checkpoint has.

A linear classifier (`model.linear`) is trained again if the run has training rows of every class that the checkpoint
knows. Otherwise it would forget the classes without rows, so that of the checkpoint stays.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from operator import attrgetter

import numpy as np
import torch

from cluster.storage import absolute_path
from jobs.config.experiment import Experiment, ExperimentError, digest
from jobs.config.settings import TextSettings
from jobs.datasets.dataset import Dataset
from jobs.datasets.prepared.corpus_tokens import encode, tokenize_texts
from jobs.datasets.tokenizer import Vocabulary
from jobs.model.checkpoint import Checkpoint, load_checkpoint, load_initial_vectors
from jobs.model.linear.classifier import LinearClassifier
from jobs.model.linear.tensors import BIAS, FIRST_WORD, NO_ROWS_SCORE, SCALE, WEIGHT, renumber_words
from jobs.model.network import Network
from jobs.training.corpora.corpus import Corpus, EncodedSplit

logger = logging.getLogger(__name__)

# Settings that must be those of the checkpoint.
FIXED_SETTINGS = (
    "model.embedding", "model.filter_widths", "model.feature_maps", "text.tokenizer", "text.lowercase",
    "model.linear", "data.is_multi_label",
)  # fmt: skip


def continue_training(experiment: Experiment, dataset: Dataset, corpus: Corpus) -> tuple[Experiment, Corpus]:
    """Return the experiment and the corpus of a run that starts from `train.start_from`; without it, the same ones.

    The experiment names the checkpoint itself instead of a best.json, which may name another one later.

    Raises:
        CheckpointError: the checkpoint cannot be read.
        ExperimentError: settings are not those of the checkpoint.
    """
    path = experiment.train.start_from
    if path is None:
        return experiment, corpus
    checkpoint = load_checkpoint(path)
    check_fixed_settings(experiment, checkpoint)
    _log_start(checkpoint, corpus)
    _warn_of_other_vectors(experiment, checkpoint)
    corpus = extend_corpus(corpus, dataset, checkpoint, experiment.text)
    return experiment.replace({"train.start_from": checkpoint.path}), corpus


def _log_start(checkpoint: Checkpoint, corpus: Corpus) -> None:
    """Log what the run takes from the checkpoint, and what is new; corpus: of the rows alone."""
    new_words = len(set(corpus.words).difference(checkpoint.words))
    new_classes = len(set(corpus.labels).difference(checkpoint.labels))
    logger.info(
        f"continuing from {checkpoint.path}: {len(corpus.words) - new_words:,} known and {new_words:,} new words in "
        f"the training texts, {len(checkpoint.labels):,} known and {new_classes:,} new classes"
    )


def _warn_of_other_vectors(experiment: Experiment, checkpoint: Checkpoint) -> None:
    """Log a warning if the vectors file is not that of the checkpoint, whose settings have only its path."""
    path, own = experiment.vectors.path, checkpoint.experiment.vectors.path
    if path is None or experiment.model.embedding == "rand" or (own and absolute_path(own) == absolute_path(path)):
        return
    logger.warning(
        f"train.start_from: words that the checkpoint knows keep its vectors (vectors.path={own or 'null'} there); "
        f"only new words take those of vectors.path={path}"
    )


def check_fixed_settings(experiment: Experiment, checkpoint: Checkpoint) -> None:
    """Raise an ExperimentError that names the settings that are not those of a checkpoint."""
    differences = [
        f"{path.replace('.is_', '.')}={attrgetter(path)(experiment)} ({attrgetter(path)(checkpoint.experiment)} there)"
        for path in FIXED_SETTINGS
        if attrgetter(path)(experiment) != attrgetter(path)(checkpoint.experiment)
    ]
    if differences:
        raise ExperimentError(
            f"train.start_from: {checkpoint.path} was trained with other settings than {', '.join(differences)}; use "
            "its settings, or train from the beginning"
        )
    # Without such texts no rule of abstention would exclude the class, and texts would get its label.
    if experiment.data.out_of_scope is None and "out_of_scope" in checkpoint.metrics.get("abstention", {}):
        raise ExperimentError(
            f"train.start_from: {checkpoint.path} has a class of out-of-scope texts; name their file in "
            "data.out_of_scope, or train from the beginning"
        )


def extend_corpus(corpus: Corpus, dataset: Dataset, checkpoint: Checkpoint, text: TextSettings) -> Corpus:
    """Return a corpus with the words, vectors and classes of a checkpoint added.

    Raises:
        ExperimentError: the vectors have other dimensions.
    """
    start = checkpoint.weights["fixed_vectors" if "fixed_vectors" in checkpoint.weights else "vectors"]
    if start.shape[1] != corpus.vectors.shape[1]:
        raise ExperimentError(
            f"train.start_from: the vectors of {checkpoint.path} have {start.shape[1]} dimensions, those of this run "
            f"{corpus.vectors.shape[1]}; use the same vectors.path or vectors.dimensions"
        )
    known = set(corpus.words)
    words = corpus.words + [word for word in checkpoint.words if word not in known]
    added = len(words) - len(corpus.words)
    vectors = np.concatenate([corpus.vectors, np.zeros((added, start.shape[1]), np.float32)])
    rows, start_rows = match_words(words, checkpoint.words)
    vectors[rows] = start[start_rows]
    scale = np.concatenate([corpus.scale, np.ones(added, np.float32)])
    pretrained = np.concatenate([corpus.pretrained, np.zeros(added, bool)])
    if (initial := load_initial_vectors(checkpoint.path)) is not None:
        scale[rows] = initial.scale[start_rows]
        is_added = rows >= len(corpus.pretrained)
        pretrained[rows[is_added]] = initial.pretrained[start_rows[is_added]]
    labels = sorted({*corpus.labels, *checkpoint.labels})
    classes = number_classes(corpus.labels, labels)
    vocabulary = Vocabulary(words, text.max_edit_distance)
    # These may have words that only the checkpoint knows. Those of training texts are rare (`text.min_count`).
    validation = encode(tokenize_texts(dataset.validation.texts, text), vocabulary, text.max_tokens)
    out_of_scope = corpus.out_of_scope
    if dataset.out_of_scope is not None:
        out_of_scope = encode(tokenize_texts(dataset.out_of_scope.texts, text), vocabulary, text.max_tokens)
    return replace(
        corpus,
        train=replace(corpus.train, labels=_renumber(corpus.train.labels, classes, len(labels))),
        validation=EncodedSplit(
            validation, _renumber(corpus.validation.labels, classes, len(labels)), corpus.validation.weights
        ),
        labels=labels,
        words=words,
        vectors=vectors,
        pretrained=pretrained,
        scale=scale,
        key=digest([corpus.key, checkpoint.manifest_sha256]),
        out_of_scope=out_of_scope,
        # Without a trained vector of its own, a word would have the fixed one in both channels.
        num_trained=len(vectors) if checkpoint.experiment.model.embedding == "multichannel" else corpus.num_trained,
        started_from={"checkpoint": checkpoint.path, "manifest": checkpoint.manifest_sha256},
    )


def number_classes(classes: Sequence[str], labels: Sequence[str]) -> np.ndarray:
    """Return the index of each class in `labels`, `(classes,)` int64."""
    indices = {label: index for index, label in enumerate(labels)}
    return np.array([indices[label] for label in classes], np.int64)


def _renumber(labels: np.ndarray, classes: np.ndarray, num_classes: int) -> np.ndarray:
    """Return the labels of rows with other numbers of the classes, `(classes,)`: `(rows,)`, or a column for each."""
    if labels.ndim == 1:
        return np.asarray(classes[labels])
    renumbered = np.zeros((len(labels), num_classes), labels.dtype)
    renumbered[:, classes] = labels
    return renumbered


def match_words(words: list[str], others: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the ids of the words of a vocabulary that another one has too, and their ids there, `(matches,)` int64.

    The unknown word is among them.
    """
    ids = {word: index + FIRST_WORD for index, word in enumerate(others)}
    pairs = [(index + FIRST_WORD, ids[word]) for index, word in enumerate(words) if word in ids]
    return np.array([1, *(pair[0] for pair in pairs)]), np.array([1, *(pair[1] for pair in pairs)])


@torch.no_grad()
def load_start_weights(network: Network, corpus: Corpus, checkpoint: Checkpoint) -> None:
    """Copy a checkpoint's weights into a network; those of new words and classes stay.

    Args:
        corpus: extended by the checkpoint.
    """
    tensors = {name: torch.from_numpy(value) for name, value in checkpoint.weights.items()}
    parameters = network.dense_parameters()
    classes = torch.from_numpy(number_classes(checkpoint.labels, corpus.labels))
    rows, start_rows = match_words(corpus.words, checkpoint.words)
    for name, value in network.from_checkpoint_tensors(tensors).items():
        target = parameters[name]
        if name in ("output", "output_bias"):
            target[classes.to(target.device)] = value.to(target)
        else:
            target.copy_(value)
    ids = np.zeros(len(checkpoint.words) + FIRST_WORD, np.int64)
    ids[start_rows] = rows
    _keep_linear_classifier(network, corpus, checkpoint.weights, classes.numpy(), ids)
    # The initial vectors of the corpus are those of the first channel.
    if network.vectors is not None and network.has_fixed:
        targets = torch.from_numpy(rows).to(network.vectors.device)
        network.vectors[targets] = tensors["vectors"][torch.from_numpy(start_rows)].to(network.vectors)


def _keep_linear_classifier(
    network: Network, corpus: Corpus, weights: Mapping[str, np.ndarray], classes: np.ndarray, ids: np.ndarray
) -> None:
    """Set the checkpoint's linear classifier if a class of it has no training rows; new classes have the score -1.

    Args:
        weights: of the checkpoint. classes, ids: numbers of its classes, and ids of its words, in the corpus.
    """
    labels = corpus.train.labels
    if corpus.train.weights is not None:
        labels = labels[corpus.train.weights > 0]
    with_rows = np.flatnonzero(labels.any(axis=0)) if labels.ndim == 2 else np.unique(labels)
    if WEIGHT not in weights or set(classes) <= set(with_rows):
        return
    tensors = renumber_words(weights, ids, len(corpus.words) + FIRST_WORD)
    weight = np.zeros((len(tensors[WEIGHT]), len(corpus.labels)), np.float32)
    bias = np.full(len(corpus.labels), NO_ROWS_SCORE, np.float32)
    scale = np.full(len(corpus.labels), tensors[SCALE].mean(), np.float32)
    weight[:, classes], bias[classes], scale[classes] = tensors[WEIGHT], tensors[BIAS], tensors[SCALE]
    tensors |= {WEIGHT: weight, BIAS: bias, SCALE: scale}
    network.linear = LinearClassifier({name: torch.from_numpy(value) for name, value in tensors.items()}).to(
        network.output.device
    )
