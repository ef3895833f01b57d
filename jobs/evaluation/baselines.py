"""Baselines of an evaluation: the most frequent class, the network alone, and a linear SVC trained on the same rows."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from cluster import UsageError
from jobs.datasets.dataset import Dataset, load_dataset, merge_validation
from jobs.datasets.readers import Split
from jobs.datasets.tokenization.text_tokens import tokenize_texts
from jobs.datasets.tokenizer import encode
from jobs.evaluation.measured_rows import use_trusted_storage
from jobs.evaluation.metrics import (
    Interval,
    accuracy,
    accuracy_difference_interval,
    balanced_accuracy,
    macro_f1,
    matthews_correlation,
)
from jobs.evaluation.seen_texts import digest_training_texts
from jobs.inference.classifier import Classifier
from jobs.model.checkpoint import Checkpoint, load_train_texts
from jobs.model.linear.tensors import WEIGHT

logger = logging.getLogger(__name__)

NETWORK_ALONE = "network alone"
SVC_NAME = "TF-IDF, linear SVC"
MANY_ROWS = 10_000  # take seconds


class Verdicts(NamedTuple):
    """Words for a comparison of the model with a baseline, and the name of the baseline in a sentence."""

    better: str
    worse: str
    unclear: str
    baseline: str


SVC_VERDICTS = Verdicts(
    "The model is better",
    "The SVC is better",
    "Cannot tell which of the two is better",
    "TF-IDF with a linear SVC",
)
NETWORK_VERDICTS = Verdicts(
    "The linear classifier improves the network",
    "The linear classifier makes the network worse",
    "Cannot tell whether the linear classifier improves the network",
    "the network alone",
)


class RowsUnavailable(UsageError):
    """The rows that a checkpoint was trained on cannot be read, have changed, or have no word."""


@dataclass(frozen=True)
class Metrics:
    """Metrics of predictions. matthews_correlation: None if all rows have the same class, where it is undefined."""

    accuracy: float
    macro_f1: float
    balanced_accuracy: float
    matthews_correlation: float | None


@dataclass(frozen=True)
class MajorityBaseline:
    """Metrics of predicting the most frequent class of the measured rows for every text."""

    label: str
    metrics: Metrics


@dataclass(frozen=True)
class SvcBaseline:
    """Metrics of the linear SVC.

    accuracy_difference: accuracy of the model minus that of the SVC; interval: at 95 %, paired by rows.
    """

    metrics: Metrics
    training_rows: int
    accuracy_difference: float
    interval: Interval

    def describe_difference(self) -> str:
        """Return whether the model is better, in a sentence."""
        return describe_difference("accuracy", self.accuracy_difference, self.interval, SVC_VERDICTS)


@dataclass(frozen=True)
class NetworkDifference:
    """Metric of the model minus that of the network alone; interval: at 95 %, paired by rows."""

    metric: str
    value: float
    interval: Interval

    def describe_difference(self) -> str:
        """Return whether the linear classifier improves the network, in a sentence."""
        return describe_difference(self.metric, self.value, self.interval, NETWORK_VERDICTS)


def describe_difference(metric: str, difference: float, interval: Interval, verdicts: Verdicts) -> str:
    """Return whether the model is better than a baseline, in a sentence; difference: model minus baseline."""
    low, high = interval
    verdict = verdicts.better if low > 0 else verdicts.worse if high < 0 else verdicts.unclear
    return (
        f"{verdict}: the {metric} of the model minus that of {verdicts.baseline} is {difference:+.4f}, "
        f"95% confidence {low:+.4f} to {high:+.4f}"
    )


def compute_metrics(labels: np.ndarray, predicted: np.ndarray) -> Metrics:
    """Return the metrics of predictions; labels, predicted: class indices, `(rows,)` int64."""
    return Metrics(
        accuracy(labels, predicted),
        macro_f1(labels, predicted),
        balanced_accuracy(labels, predicted),
        matthews_correlation(labels, predicted) if len(np.unique(labels)) > 1 else None,
    )


def measure_majority(labels: np.ndarray, names: Sequence[str]) -> MajorityBaseline:
    """Return the metrics of the most frequent class; names: of the classes."""
    index = int(np.bincount(labels).argmax())
    return MajorityBaseline(names[index], compute_metrics(labels, np.full_like(labels, index)))


def has_network_alone(checkpoint: Checkpoint, training: Dataset | None) -> bool:
    """Return whether the network can be measured alone: there is a linear classifier, and thresholds can be chosen.

    Given thresholds of several labels per text, such as those of a refit, hold for the calibrated scores of the sum.

    Args:
        training: the dataset that the checkpoint was trained on, if it is available.
    """
    if WEIGHT not in checkpoint.weights:
        return False
    if not checkpoint.is_multi_label:
        return True
    are_chosen = checkpoint.metrics.get("label_thresholds", {}).get("objective") is not None
    return are_chosen and training is not None and len(training.validation) > 0


def predict_network_alone(classifier: Classifier, texts: Sequence[str]) -> np.ndarray:
    """Return the probabilities of the network without the linear classifier, `(texts, classes)`.

    The temperature is that of the checkpoint, which was fitted to the sum.
    """
    return classifier.without_linear().predict_proba(texts)


def compare_network(labels: np.ndarray, predicted: np.ndarray, network_alone: np.ndarray) -> NetworkDifference:
    """Return the accuracy of the model minus that of the network alone; class indices, `(rows,)` int64 each."""
    difference = accuracy(labels, predicted) - accuracy(labels, network_alone)
    return NetworkDifference("accuracy", difference, accuracy_difference_interval(labels, predicted, network_alone))


def measure_svc(
    rows: Split, checkpoint: Checkpoint, test_tokens: Sequence[Sequence[str]], labels: np.ndarray, predicted: np.ndarray
) -> SvcBaseline:
    """Return the metrics of a linear SVC over TF-IDF of words and pairs of words, with scikit-learn's default settings.

    Args:
        rows: training rows.
        test_tokens: tokens of the measured texts.
        labels, predicted: true classes of these texts and the model's predictions, `(texts,)` int64.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_pipeline
    from sklearn.svm import LinearSVC

    if len(rows) > MANY_ROWS:
        logger.info(f"training {SVC_NAME} on {len(rows):,} rows; --no-baseline leaves it out")
    indices = {label: index for index, label in enumerate(checkpoint.labels)}
    tokens = tokenize_texts(rows.texts, checkpoint.experiment.text)
    model = make_pipeline(TfidfVectorizer(analyzer=list_terms), LinearSVC(random_state=0))
    model.fit(tokens, np.array([indices[label] for label in rows.labels]))
    own = model.predict(test_tokens)
    return SvcBaseline(
        compute_metrics(labels, own),
        len(rows),
        accuracy(labels, predicted) - accuracy(labels, own),
        accuracy_difference_interval(labels, predicted, own),
    )


def list_terms(tokens: Sequence[str]) -> list[str]:
    """Return the words and the pairs of adjacent words of a text."""
    return [*tokens, *map(" ".join, pairwise(tokens))]


def load_training_dataset(checkpoint: Checkpoint, dataset: Dataset | None = None) -> Dataset:
    """Return the dataset that a checkpoint was trained on, read again.

    The training texts are compared with their digests in the checkpoint.

    Args:
        dataset: of the checkpoint's experiment; by default it is read.

    Raises:
        RowsUnavailable: they cannot be read, have changed since, have no word, or a single class.
    """
    digests = load_train_texts(checkpoint.path)
    if digests is None:
        raise RowsUnavailable("the checkpoint has no digests to recognize them by")
    known = checkpoint.labels if checkpoint.experiment.train.start_from else ()
    try:
        is_refit = checkpoint.metrics.get("loss") is None  # without a validation part
        if dataset is None:
            with use_trusted_storage(checkpoint.experiment, checkpoint) as experiment:
                dataset = load_dataset(experiment, for_refit=is_refit, known_labels=known)
    except UsageError as error:
        raise RowsUnavailable(str(error)) from error
    if checkpoint.metrics.get("rows") == len(dataset.train) + len(dataset.validation):
        dataset = merge_validation(dataset)  # the refit of a search
    text = checkpoint.experiment.text
    tokenized = tokenize_texts(dataset.train.texts, text)
    if not any(tokenized):
        raise RowsUnavailable(f"{dataset.train.path}: no training row has a word")
    if dataset.train.label_sets is None and len(dataset.train.distinct_labels()) < 2:  # it continues a checkpoint
        raise RowsUnavailable(f"{dataset.train.path}: all training rows have the same label")
    tokens = encode(tokenized, checkpoint.vocabulary, text.max_tokens)
    is_same = len(dataset.train) == checkpoint.metrics.get("rows")
    is_same = is_same and dataset.train.distinct_labels().union(known) == set(checkpoint.labels)
    own = digest_training_texts([tokens])
    if not is_same or own is None or not np.array_equal(own, digests):
        raise RowsUnavailable(f"{dataset.train.path}: its rows or labels are not those of training")
    return dataset
