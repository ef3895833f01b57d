"""Training of the linear classifier next to the network: a linear SVC over the TF-IDF of words and pairs of words.

It is trained before the network, on the same rows, with scikit-learn's LIBLINEAR: a classifier for each class against
the others. That takes a few percent of the network's time, with hundreds of thousands of rows up to a third.

With one label per text, either the network or the SVC is trained with balanced classes, but not both: the sum counts
the frequencies of the classes once. `choose_class_weights` has measurements.

Trials of a search that follow each other in a process have it from the first one.
"""

import json
import logging
import warnings
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from jobs.config.class_weights import ClassWeights
from jobs.datasets.tokenizer import Tokens
from jobs.model.linear.tensors import BIAS, FIRST_WORD, NO_ROWS_SCORE, PAIRS, SQUARES, WEIGHT

if TYPE_CHECKING:
    from jobs.training.corpora.corpus import Corpus, EncodedSplit

logger = logging.getLogger(__name__)

MIN_PAIR_COUNT = 2  # occurrences in the training texts
# Of larger corpora a sample of the rows is enough, and bounds memory and time: 10 million tokens took 87 s and 1.2 GB
# with four classes. Time is proportional to the number of classes.
MAX_TOKENS = 10_000_000  # with up to `FEW_CLASSES`
FEW_CLASSES = 10
MIN_CLASS_ROWS = 10  # of a sample, if the class has them
LOGGED_TOKENS = 1_000_000  # more take long enough for a message
MAX_CACHED = 2  # of a corpus, with different class weights


def choose_class_weights(of_network: ClassWeights, *, is_multi_label: bool) -> ClassWeights:
    """Return the weights of the classes for the SVC; of_network: `train.class_weights`.

    Accuracy and macro F1 of the sum in % on held-out rows of 57 classes of very different sizes (the sections of
    `benchmarks/imbalance.py`): unweighted network with the unweighted SVC 75.4 and 56.2, with the balanced one 75.6
    and 59.2; balanced network 74.8 and 58.9, 72.2 and 56.6. With several labels per text a balanced SVC costs micro F1.
    """
    if is_multi_label or isinstance(of_network, dict):
        return of_network
    return "balanced" if of_network is None else None


def train_linear_classifier(corpus: "Corpus", class_weights: ClassWeights) -> dict[str, np.ndarray]:
    """Return the tensors of `jobs.model.linear.tensors`, without the scale; the same ones for the same arguments.

    Args:
        class_weights: those of the SVC.
    """
    key = json.dumps(class_weights, sort_keys=True)
    if key not in corpus.linear:
        while len(corpus.linear) >= MAX_CACHED:
            corpus.linear.pop(next(iter(corpus.linear)))
        corpus.linear[key] = _train(corpus, class_weights)
    return corpus.linear[key]


def _train(corpus: "Corpus", class_weights: ClassWeights) -> dict[str, np.ndarray]:
    # It imports pydantic, which the training loop does without.
    from jobs.datasets.row_weights import compute_label_weights, compute_row_weights

    blocks = corpus.token_blocks
    rows = sample_rows(corpus.train, blocks.num_tokens, len(corpus.labels))
    tokens, labels, own = blocks.select(rows), corpus.train.labels[rows], corpus.train.weights
    if len(tokens.ids) > LOGGED_TOKENS or len(tokens) < len(corpus.train):
        logger.info(f"training the linear classifier on {len(tokens):,} of {len(corpus.train):,} rows")
    num_words = len(corpus.word_counts())
    keys = find_pairs(tokens)
    counts = _count(tokens, num_words, keys)  # (texts, words + pairs)
    documents = np.bincount(counts.indices, minlength=counts.shape[1])
    idf = np.log((1 + len(tokens)) / (1 + documents)) + 1
    idf[:FIRST_WORD] = 0
    lengths = np.sqrt(counts @ idf**2)
    features = counts.copy()
    features.data *= idf[counts.indices] / np.repeat(lengths, np.diff(counts.indptr))
    if own is not None:  # LIBLINEAR leaves out rows of weight 0, and their classes
        own = own[rows]
        is_used = own > 0
        features, labels, own = features[is_used], labels[is_used], own[is_used]
    names, is_multi_label = corpus.labels, labels.ndim == 2
    row_weights = compute_row_weights(None if is_multi_label else class_weights, names, labels, own)
    if is_multi_label:
        label_weights = compute_label_weights(class_weights, names, labels, own)
        weights, bias = _fit_labels(features, labels, row_weights, label_weights)
    else:
        weights, bias = _fit_classes(features, labels, row_weights, len(names))
    weights *= idf.astype(np.float32)
    return {
        PAIRS: np.stack([keys >> 32, keys & 0xFFFFFFFF], axis=1).astype(np.int32),
        WEIGHT: np.ascontiguousarray(weights.T),
        SQUARES: (idf**2).astype(np.float32),
        BIAS: bias.astype(np.float32),
    }


def sample_rows(part: "EncodedSplit", num_tokens: int, num_classes: int) -> slice | np.ndarray:
    """Return the rows to train on: all, or as many random ones, ascending, as have about the most tokens allowed.

    A sample has at least `MIN_CLASS_ROWS` of each class, or all of them, and no row of weight 0.

    Args:
        num_tokens: of all rows.
    """
    labels = part.labels
    max_tokens = MAX_TOKENS * FEW_CLASSES // max(FEW_CLASSES, num_classes)
    if num_tokens <= max_tokens:
        return slice(None)
    rows = np.arange(len(part)) if part.weights is None else np.flatnonzero(part.weights > 0)
    rows = np.random.default_rng(0).permutation(rows)
    selected = [rows[: len(part) * max_tokens // num_tokens]]
    if labels.ndim == 2:
        selected += [rows[labels[rows, label] > 0][:MIN_CLASS_ROWS] for label in range(num_classes)]
    else:
        rows = rows[np.argsort(labels[rows], kind="stable")]
        starts = np.searchsorted(labels[rows], np.arange(num_classes + 1))
        selected += [rows[start : min(start + MIN_CLASS_ROWS, end)] for start, end in pairwise(starts)]
    return np.unique(np.concatenate(selected))


def find_pairs(tokens: Tokens) -> np.ndarray:
    """Return the keys, as of `compute_keys`, of the pairs of words that occur `MIN_PAIR_COUNT` times, ascending.

    A plan (`--dry-run`) counts them: six million tokens, the most that it reads, take about 0.2 s.
    """
    keys = np.sort(_list_keys(tokens, _find_adjacent_words(tokens)))
    is_repeated = keys[MIN_PAIR_COUNT - 1 :] == keys[: len(keys) - MIN_PAIR_COUNT + 1]
    repeated: np.ndarray = keys[: len(is_repeated)][is_repeated]
    return np.asarray(repeated[np.diff(repeated, prepend=-1) > 0])


def _find_adjacent_words(tokens: Tokens) -> np.ndarray:
    """Return whether each token and the one after it are words of the same text, `(tokens - 1,)` bool."""
    is_word = tokens.ids >= FIRST_WORD
    is_pair: np.ndarray = is_word[:-1] & is_word[1:]
    last = tokens.offsets[1:-1] - 1  # of each text but the last one
    is_pair[last[(last >= 0) & (last < len(is_pair))]] = False
    return is_pair


def _list_keys(tokens: Tokens, is_pair: np.ndarray) -> np.ndarray:
    """Return the keys of pairs; is_pair: as of `_find_adjacent_words`."""
    keys: np.ndarray = tokens.ids[:-1][is_pair].astype(np.int64) << 32 | tokens.ids[1:][is_pair]
    return keys


def _count(tokens: Tokens, num_words: int, keys: np.ndarray) -> Any:
    """Return how often each text has each word and each pair, as a sparse matrix `(texts, words + pairs)` float64."""
    from scipy.sparse import csr_array

    ids, texts = tokens.ids.astype(np.int64), np.repeat(np.arange(len(tokens)), tokens.lengths)
    is_word, is_pair = ids >= FIRST_WORD, _find_adjacent_words(tokens)
    pairs, pair_texts = _list_keys(tokens, is_pair), texts[:-1][is_pair]
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
    weights, bias = np.zeros((num_classes, features.shape[1]), np.float32), np.full(num_classes, NO_ROWS_SCORE)
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
            bias[label] = 1 if column.any() else NO_ROWS_SCORE
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
