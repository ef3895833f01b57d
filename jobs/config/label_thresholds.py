"""Thresholds of labels and their objective, and the metrics of one and of several labels per text, without pydantic."""

from collections.abc import Mapping
from typing import Any, Literal

from jobs.config.class_weights import convert_labels, parse_number

ThresholdObjective = Literal["micro_f1", "macro_f1"] | float
"""A metric to maximize, or the least precision of the labels, of which as many as possible are assigned."""

MULTI_LABEL_METRIC = "micro_f1"  # of the best epoch, by default
# Metrics of an epoch that only classifiers of one label per text have, only those of several, and both.
SINGLE_LABEL_METRICS = ("balanced_accuracy", "matthews_correlation")
MULTI_LABEL_METRICS = ("micro_f1", "precision_at_1", "mean_average_precision")
OPTIONAL_METRICS = (*MULTI_LABEL_METRICS, *SINGLE_LABEL_METRICS)
DEFAULT_THRESHOLD = 0.5  # without validation rows


def parse_objective(value: Any) -> ThresholdObjective:
    """Return the objective of a setting's value; ValueError if it is none."""
    if value in ("micro_f1", "macro_f1"):
        return value  # type: ignore[no-any-return]
    if not 0 < (precision := parse_number(value)) < 1:
        raise ValueError("must be micro_f1, macro_f1, or a precision above 0 and below 1, such as 0.9")
    return precision


def parse_thresholds(value: Any) -> float | dict[str, float] | None:
    """Return the thresholds of a setting's value, with labels as strings; ValueError if it is none."""
    if value is None:
        return None
    if not isinstance(value, Mapping):
        if not 0 < (threshold := parse_number(value)) < 1:
            raise ValueError("must be a number above 0 and below 1, or one for each label, as in {spam: 0.5, ham: 0.7}")
        return threshold
    for label, item in value.items():
        if not 0 < parse_number(item) < 1:
            raise ValueError(f"the threshold of '{label}' must be a number above 0 and below 1, not {item!r}")
    thresholds: dict[str, float] = convert_labels({label: parse_number(item) for label, item in value.items()})
    return thresholds
