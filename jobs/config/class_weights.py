"""Weights of the classes in the loss, as `train.class_weights` sets them, and other settings with a value by label."""

import math
from collections.abc import Mapping
from typing import Any, Literal

ClassWeights = Literal["balanced"] | dict[str, float] | None
"""balanced, or a weight for each label, or None for no weights."""


def parse_class_weights(value: Any) -> ClassWeights:
    """Return the weights of a setting's value, with labels as strings; ValueError if it is none."""
    if value is None or value == "balanced":
        return value  # type: ignore[no-any-return]
    if not isinstance(value, dict) or not value:
        raise ValueError("must be balanced, or a weight for each label, as in {spam: 2, ham: 1}")
    weights: dict[str, float] = convert_labels({label: _parse_weight(label, item) for label, item in value.items()})
    return weights


def convert_labels(value: Any) -> Any:
    """Return a setting's value, a mapping with labels as strings: in Python some are numbers or booleans."""
    if not isinstance(value, Mapping):
        return value
    return {str(label).lower() if isinstance(label, bool) else str(label): item for label, item in value.items()}


def parse_number(value: Any) -> float:
    """Return the number of a setting's value, NaN if it is none."""
    try:
        return math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _parse_weight(label: object, value: Any) -> float:
    weight = parse_number(value)
    if not 0 < weight < math.inf:
        raise ValueError(f"the weight of '{label}' must be a number above 0, not {value!r}")
    return weight
