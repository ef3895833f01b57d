"""Metrics of the validation part after an epoch, from the scores of its rows."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from jobs.config.label_thresholds import ThresholdObjective
from jobs.evaluation.metrics import LogitSample, accuracy, macro_f1
from jobs.evaluation.multi_label.metrics import (
    count_labels,
    encode_row_counts,
    mean_average_precision,
    precision_at,
    sigmoid,
    subset_accuracy,
)
from jobs.evaluation.multi_label.thresholds import GRID, choose_global_threshold, count_scores
from jobs.model.network import compute_row_losses


@dataclass(frozen=True)
class Metrics:
    """Metrics of the validation part, as of `Epoch`; the last three only with several labels per text."""

    loss: float
    accuracy: float
    macro_f1: float
    micro_f1: float | None = None
    precision_at_1: float | None = None
    mean_average_precision: float | None = None


class Validation:
    """Scores of all validation rows after an epoch, added batch by batch.

    Args:
        labels: of the rows, `(rows,)` class indices, or `(rows, labels)` of 0 and 1.
        logits: receives the logits, to calibrate the network.
        objective: with several labels per text, that of the threshold with which the metrics are computed.
    """

    def __init__(self, labels: np.ndarray, logits: LogitSample, objective: ThresholdObjective) -> None:
        self._labels, self._logits, self._objective = labels, logits, objective
        self._label_tensor = torch.from_numpy(labels)
        self._total_loss = 0.0
        self._predicted = np.empty(len(labels), np.int64)  # classes, with one label per text

    def add(self, rows: np.ndarray, scores: Tensor) -> None:
        """Add the logits `(len(rows), classes)` of some rows, given by their numbers."""
        labels = self._label_tensor[rows]
        self._logits.add(rows, scores.numpy())
        if self._labels.ndim == 1:
            self._total_loss += F.cross_entropy(scores, labels, reduction="sum").item()
            self._predicted[rows] = scores.argmax(dim=1).numpy()
        else:
            self._total_loss += compute_row_losses(scores, labels).sum().item()

    def measure(self) -> tuple[Metrics, np.ndarray]:
        """Return the metrics, and the predictions `(rows,)` int64: classes, or as of `encode_row_counts`."""
        labels, loss = self._labels, self._total_loss / len(self._labels)
        if labels.ndim == 1:
            return Metrics(loss, accuracy(labels, self._predicted), macro_f1(labels, self._predicted)), self._predicted
        logits = self._logits.logits  # of all rows
        probabilities = sigmoid(logits)
        # The same for all labels: thresholds of single labels would fit these rows. At 0.5 rare labels would have none
        # in the first epochs.
        threshold = GRID[choose_global_threshold(count_scores(probabilities, labels), self._objective)]
        predicted = probabilities >= threshold
        counts = count_labels(labels, predicted)
        metrics = Metrics(
            loss,
            subset_accuracy(labels, predicted),
            counts.macro_f1(),
            counts.micro_f1(),
            precision_at(1, labels, logits),
            mean_average_precision(labels, logits),
        )
        return metrics, encode_row_counts(labels, predicted)
