"""Metrics of the validation part after an epoch, from the scores of its rows; scores of other texts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from jobs.datasets.tokenizer import Tokens
from jobs.evaluation.metrics import LogitSample, accuracy, count_classes
from jobs.evaluation.multi_label.metrics import (
    count_labels,
    encode_row_counts,
    mean_average_precision,
    precision_at,
    sigmoid,
    subset_accuracy,
)
from jobs.evaluation.multi_label.thresholds import GRID, calibrate, choose_global_threshold, count_scores
from jobs.model.batches import Collator
from jobs.model.network import compute_row_losses

if TYPE_CHECKING:
    from jobs.config.settings import TrainSettings
    from jobs.training.loop import Loop


@dataclass(frozen=True)
class Metrics:
    """Metrics of the validation part, as of `Epoch`."""

    loss: float
    accuracy: float
    macro_f1: float
    micro_f1: float | None = None
    precision_at_1: float | None = None
    mean_average_precision: float | None = None
    balanced_accuracy: float | None = None
    matthews_correlation: float | None = None


class Validation:
    """Scores of all validation rows after an epoch, added batch by batch.

    labels: of the rows. predicted: after `measure`, their classes, `(rows,)`, or labels, `(rows, labels)` bool.

    Args:
        labels: of the rows, `(rows,)` class indices, or `(rows, labels)` of 0 and 1.
        logits: receives the logits, to calibrate the network.
        settings: their thresholds, or the objective of one, decide the labels with several per text.
        names: of the labels.
    """

    def __init__(
        self, labels: np.ndarray, logits: LogitSample, settings: "TrainSettings", names: Sequence[str]
    ) -> None:
        self.labels, self._logits, self._settings, self._names = labels, logits, settings, names
        self._label_tensor = torch.from_numpy(labels)
        self._total_loss = 0.0
        self.predicted = np.empty(len(labels), np.int64)

    def add(self, rows: np.ndarray, scores: Tensor) -> None:
        """Add the logits `(len(rows), classes)` of some rows, given by their numbers."""
        labels = self._label_tensor[rows]
        self._logits.add(rows, scores.numpy())
        if self.labels.ndim == 1:
            self._total_loss += F.cross_entropy(scores, labels, reduction="sum").item()
            self.predicted[rows] = scores.argmax(dim=1).numpy()
        else:
            self._total_loss += compute_row_losses(scores, labels).sum().item()

    def measure(self) -> tuple[Metrics, np.ndarray]:
        """Return the metrics, and the predictions `(rows,)` int64: classes, or as of `encode_row_counts`."""
        labels, loss = self.labels, self._total_loss / len(self.labels)
        if labels.ndim == 1:
            classes = count_classes(labels, self.predicted)
            return Metrics(
                loss,
                accuracy(labels, self.predicted),
                float(classes.macro_f1()),
                balanced_accuracy=float(classes.balanced_accuracy()),
                matthews_correlation=float(classes.matthews_correlation()),
            ), self.predicted
        logits = self._logits.logits  # of all rows
        predicted = self.predicted = self._select_labels()
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

    def _select_labels(self) -> np.ndarray:
        """Return which labels the rows get, `(rows, labels)` bool."""
        logits = self._logits.logits
        if self._settings.thresholds is not None:  # as of the checkpoint: of scores with the temperature
            calibration = calibrate(self._logits, self._settings, self._names)
            return np.asarray(sigmoid(logits / calibration.temperature) >= calibration.thresholds)
        # The same for all labels: thresholds of single labels would fit these rows. At 0.5 rare labels would have none
        # in the first epochs. It moves with the scores, so they need no temperature.
        probabilities = sigmoid(logits)
        counts = count_scores(probabilities, self.labels)
        return np.asarray(probabilities >= GRID[choose_global_threshold(counts, self._settings.threshold_objective)])


def score_texts(loop: "Loop", tokens: Tokens) -> Tensor:
    """Return the logits of texts with a loop's network, `(texts, classes)` float32 on the CPU."""
    logits = torch.empty(len(tokens), len(loop.corpus.labels))
    collator = Collator(tokens, len(loop.corpus.vectors), loop.device)
    for rows, scores in loop.iter_scores(collator, tokens.lengths):
        logits[rows] = scores
    return logits
