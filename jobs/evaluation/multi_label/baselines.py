"""Baselines of an evaluation with several labels per text: constant labels, a linear SVC, the network alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from jobs.datasets.dataset import Dataset
from jobs.datasets.label_sets import encode_labels
from jobs.evaluation.baselines import SVC_VERDICTS, NetworkDifference, describe_difference, predict_network_alone
from jobs.evaluation.metrics import Interval
from jobs.evaluation.multi_label.bootstrap import bootstrap_difference
from jobs.evaluation.multi_label.metrics import LabelMetrics, compute_metrics, count_labels
from jobs.evaluation.multi_label.thresholds import choose_thresholds
from jobs.inference.classifier import Classifier
from jobs.model.checkpoint import Checkpoint

MAX_NAMED_LABELS = 2


@dataclass(frozen=True)
class LabelScores:
    """Scores of rows, `(rows, labels)`, and thresholds from which a row gets a label, `(labels,)` or one for all."""

    scores: np.ndarray
    thresholds: np.ndarray | float

    @cached_property
    def predicted(self) -> np.ndarray:
        """Labels of each row, `(rows, labels)` bool."""
        return np.asarray(self.scores >= self.thresholds)

    def measure(self, labels: np.ndarray) -> LabelMetrics:
        """Return the metrics; labels: of the rows, `(rows, labels)` of 0 and 1."""
        return compute_metrics(labels, self.predicted, self.scores)


@dataclass(frozen=True)
class FrequentLabels:
    """Metrics of the same labels for every text: as many of the most frequent ones as have the best micro F1."""

    labels: list[str]
    metrics: LabelMetrics

    def describe(self) -> str:
        """Return the name of the baseline."""
        if len(self.labels) > MAX_NAMED_LABELS:
            return f"always the {len(self.labels)} most frequent labels"
        return f"always {', '.join(repr(label) for label in self.labels)}"


@dataclass(frozen=True)
class LabelSvc:
    """Metrics of the linear SVC. micro_f1_difference: micro F1 of the model minus that of the SVC; interval: at 95 %,
    paired by rows."""

    metrics: LabelMetrics
    training_rows: int
    micro_f1_difference: float
    interval: Interval

    def describe_difference(self) -> str:
        """Return whether the model is better, in a sentence."""
        return describe_difference("micro F1", self.micro_f1_difference, self.interval, SVC_VERDICTS)


def measure_frequent_labels(labels: np.ndarray, names: Sequence[str]) -> FrequentLabels:
    """Return the metrics of the same labels for every row; names: of the labels.

    Args:
        labels: `(rows, labels)` of 0 and 1.
    """
    support = labels.sum(axis=0, dtype=np.int64)
    order = np.argsort(-support, kind="stable")
    numbers = np.arange(1, len(order) + 1)
    micro_f1 = 2 * support[order].cumsum() / (support.sum() + len(labels) * numbers)
    selected = order[: micro_f1.argmax() + 1]
    predicted = np.zeros(labels.shape, bool)
    predicted[:, selected] = True
    scores = np.broadcast_to(support / max(len(labels), 1), labels.shape)
    return FrequentLabels([names[index] for index in selected], compute_metrics(labels, predicted, scores))


def measure_svc(svc: LabelScores, training_rows: int, labels: np.ndarray, model: LabelScores) -> LabelSvc:
    """Return the metrics of the linear SVC, compared with those of the model.

    Args:
        labels: of the rows, `(rows, labels)` of 0 and 1.
    """
    return LabelSvc(svc.measure(labels), training_rows, *_compare(labels, model, svc))


def compare_network(labels: np.ndarray, model: LabelScores, network_alone: LabelScores) -> NetworkDifference:
    """Return the micro F1 of the model minus that of the network alone; labels: `(rows, labels)` of 0 and 1."""
    return NetworkDifference("micro F1", *_compare(labels, model, network_alone))


def _compare(labels: np.ndarray, model: LabelScores, baseline: LabelScores) -> tuple[float, Interval]:
    """Return the micro F1 of the model minus that of a baseline, and its interval."""
    first, second = (count_labels(labels, item.predicted).micro_f1() for item in (model, baseline))
    return first - second, bootstrap_difference(labels, model.predicted, baseline.predicted)


def score_network_alone(
    checkpoint: Checkpoint, classifier: Classifier, texts: Sequence[str], training: Dataset
) -> LabelScores:
    """Return the scores of the network without the linear classifier, if `has_network_alone`.

    The thresholds are chosen as those of the checkpoint, on the same validation rows.

    Args:
        classifier: of the checkpoint. training: the dataset that it was trained on.
    """
    objective = checkpoint.metrics["label_thresholds"]["objective"]
    own = training.validation.texts
    probabilities = predict_network_alone(classifier, [*own, *texts])
    labels = encode_labels(training.validation, checkpoint.labels)
    return LabelScores(probabilities[len(own) :], choose_thresholds(probabilities[: len(own)], labels, objective))
