"""Thresholds of labels and their objective, as `train.thresholds` and `train.threshold_objective` set them."""

from typing import Annotated, Literal

from pydantic import Field

_Share = Annotated[float, Field(gt=0, lt=1)]
ThresholdObjective = Literal["micro_f1", "macro_f1"] | _Share
"""A metric to maximize, or the least precision of the labels, of which as many as possible are assigned."""

Thresholds = _Share | dict[str, _Share] | None
"""A score for all labels, or one for each label; None to choose them."""

MULTI_LABEL_METRIC = "micro_f1"  # of the best epoch, by default
# Metrics of an epoch that only classifiers of several labels per text have.
MULTI_LABEL_METRICS = ("micro_f1", "precision_at_1", "mean_average_precision")
