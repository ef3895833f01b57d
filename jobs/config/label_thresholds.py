"""Objective of the thresholds of labels, and the metrics of one and of several labels per text, without pydantic."""

from typing import Literal

ThresholdObjective = Literal["micro_f1", "macro_f1"] | float
"""A metric to maximize, or the least precision of the labels, of which as many as possible are assigned."""

MULTI_LABEL_METRIC = "micro_f1"  # of the best epoch, by default
# Metrics of an epoch that only classifiers of one label per text have, only those of several, and both.
SINGLE_LABEL_METRICS = ("balanced_accuracy", "matthews_correlation")
MULTI_LABEL_METRICS = ("micro_f1", "precision_at_1", "mean_average_precision")
OPTIONAL_METRICS = (*MULTI_LABEL_METRICS, *SINGLE_LABEL_METRICS)
DEFAULT_THRESHOLD = 0.5  # without validation rows
