"""Training of the linear classifier next to the network: a linear SVC over the TF-IDF of words and pairs of words.

It is trained before the network, on the same rows with the same weights, with scikit-learn's LIBLINEAR: a classifier
for each class against the others. That takes a few percent of the network's time.
"""

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from jobs.config.class_weights import ClassWeights
from jobs.datasets.tokenizer import Tokens
from jobs.model.linear.classifier import LinearClassifier
from jobs.model.linear.tensors import BIAS, FIRST_WORD, PAIRS, SCALE, SQUARES, WEIGHT
from jobs.training.linear.weight import INITIAL_WEIGHT

if TYPE_CHECKING:
    from jobs.config.experiment import Experiment
    from jobs.training.corpus import Corpus

MIN_PAIR_COUNT = 2  # occurrences in the training texts


def create_linear_classifier(experiment: "Experiment", corpus: "Corpus") -> LinearClassifier | None:
    """Return the trained linear classifier; None if the settings have none. Each worker trains the same one."""
    if experiment.model.linear == "none":
        return None
    settings = experiment.train
    scale = INITIAL_WEIGHT if settings.linear_weight is None else settings.linear_weight
    tensors = train_linear_classifier(corpus, settings.class_weights) | {SCALE: np.array([scale], np.float32)}
    return LinearClassifier({name: torch.from_numpy(value) for name, value in tensors.items()})


def train_linear_classifier(corpus: "Corpus", class_weights: ClassWeights) -> dict[str, np.ndarray]:
    """Return the tensors of `jobs.model.linear.tensors`, without the scale; class_weights: `train.class_weights`."""
    tokens, labels = corpus.train.tokens, corpus.train.labels
    num_words = len(corpus.word_counts())
    keys = find_pairs(tokens)
    counts = _count(tokens, num_words, keys)  # (texts, words + pairs)
    documents = np.bincount(counts.indices, minlength=counts.shape[1])
    idf = np.log((1 + len(tokens)) / (1 + documents)) + 1
    idf[:FIRST_WORD] = 0
    lengths = np.sqrt(counts @ idf**2)
    features = counts.copy()
    features.data *= idf[counts.indices] / np.repeat(lengths, np.diff(counts.indptr))
    row_weights = corpus.row_weights(class_weights)
    if row_weights is not None:  # LIBLINEAR leaves out rows of weight 0, and their classes
        is_used = row_weights > 0
        features, labels, row_weights = features[is_used], labels[is_used], row_weights[is_used]
    if labels.ndim == 2:
        weights, bias = _fit_labels(features, labels, row_weights, corpus.label_weights(class_weights))
    else:
        weights, bias = _fit_classes(features, labels, row_weights, len(corpus.labels))
    weights *= idf.astype(np.float32)
    return {
        PAIRS: np.stack([keys >> 32, keys & 0xFFFFFFFF], axis=1).astype(np.int32),
        WEIGHT: np.ascontiguousarray(weights.T),
        SQUARES: (idf**2).astype(np.float32),
        BIAS: bias.astype(np.float32),
    }


def find_pairs(tokens: Tokens) -> np.ndarray:
    """Return the keys, as of `compute_keys`, of the pairs of words that occur `MIN_PAIR_COUNT` times, ascending."""
    keys, _ = _list_pairs(tokens)
    distinct, counts = np.unique(keys, return_counts=True)
    return distinct[counts >= MIN_PAIR_COUNT]


def _list_pairs(tokens: Tokens) -> tuple[np.ndarray, np.ndarray]:
    """Return the keys of all pairs of adjacent words of the texts, and the indices of their texts, `(pairs,)` each."""
    ids, texts = tokens.ids.astype(np.int64), np.repeat(np.arange(len(tokens)), tokens.lengths)
    is_pair = (texts[:-1] == texts[1:]) & (ids[:-1] >= FIRST_WORD) & (ids[1:] >= FIRST_WORD)
    return (ids[:-1] << 32 | ids[1:])[is_pair], texts[:-1][is_pair]


def _count(tokens: Tokens, num_words: int, keys: np.ndarray) -> Any:
    """Return how often each text has each word and each pair, as a sparse matrix `(texts, words + pairs)` float64."""
    from scipy.sparse import csr_array

    ids, texts = tokens.ids.astype(np.int64), np.repeat(np.arange(len(tokens)), tokens.lengths)
    is_word = ids >= FIRST_WORD
    pairs, pair_texts = _list_pairs(tokens)
    indices = np.searchsorted(keys, pairs)
    has_row = np.isin(pairs, keys)
    # LIBLINEAR reads indices of 32 bits. Duplicates are summed.
    columns = np.concatenate([ids[is_word], num_words + indices[has_row]]).astype(np.int32)
    rows = np.concatenate([texts[is_word], pair_texts[has_row]]).astype(np.int32)
    return csr_array((np.ones(len(rows)), (rows, columns)), shape=(len(tokens), num_words + len(keys)))


def _fit_classes(
    features: Any, labels: np.ndarray, row_weights: np.ndarray | None, num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return weights `(classes, columns)` float32 and biases `(classes,)`; a class without rows has the score -1."""
    weights, bias = np.zeros((num_classes, features.shape[1]), np.float32), np.full(num_classes, -1.0)
    present = np.unique(labels)
    if len(present) < 2:
        bias[present] = 1
        return weights, bias
    coefficients, intercepts = _fit(features, labels, row_weights)
    if len(present) == 2:  # scikit-learn fits the second one only
        coefficients, intercepts = np.vstack([-coefficients, coefficients]), np.append(-intercepts, intercepts)
    weights[present], bias[present] = coefficients, intercepts
    return weights, bias


def _fit_labels(
    features: Any, labels: np.ndarray, row_weights: np.ndarray | None, label_weights: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return weights `(labels, columns)` float32 and biases `(labels,)`; a label of all rows has the score 1, one of
    none -1."""
    weights, bias = np.zeros((labels.shape[1], features.shape[1]), np.float32), np.empty(labels.shape[1])
    for label in range(labels.shape[1]):
        column = labels[:, label]
        if len(np.unique(column)) < 2:
            bias[label] = 1 if column.any() else -1
            continue
        own = row_weights
        if label_weights is not None:
            own = np.where(column, label_weights[label], 1.0) * (1 if row_weights is None else row_weights)
        coefficients, intercepts = _fit(features, column, own)
        weights[label], bias[label] = coefficients[0], intercepts[0]
    return weights, bias


def _fit(features: Any, labels: np.ndarray, weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.svm import LinearSVC

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # it is close enough then
        model = LinearSVC(random_state=0).fit(features, labels, sample_weight=weights)
    return model.coef_, model.intercept_
