"""Axes of the settings of a search, for plots and the HTML page: positions of the trials, and ticks."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jobs.search.records import TrialRecord
from jobs.search.space import Dimension

NOT_VARIED = object()
# Largest distance between the position of a trial and that of its listed value, so that equal trials are drawn next to
# each other: of lines in parallel coordinates, and of points against the objective.
LINE_JITTER, POINT_JITTER = 0.015, 0.03

Ticks = list[tuple[float, str]]
"""Position and label of each tick."""


@dataclass(frozen=True)
class SettingAxis:
    """Axis of a setting. positions: of the trials, `(trials,)` float64 from 0 to 1, NaN where it is not varied."""

    path: str
    positions: np.ndarray
    ticks: Ticks


def place_trials(space: Sequence[Dimension], records: Sequence[TrialRecord], jitter: float) -> list[SettingAxis]:
    """Return the axis of each setting; the positions of listed values differ by up to `jitter`, always in the same way.

    Args:
        jitter: LINE_JITTER or POINT_JITTER.
    """
    random = np.random.default_rng(0)
    axes = []
    for dimension in space:
        positions, ticks = compute_axis_positions(dimension, list_values(dimension, records))
        if dimension.is_categorical:
            positions = positions + random.uniform(-jitter, jitter, len(positions))
        axes.append(SettingAxis(dimension.path, positions, ticks))
    return axes


def list_values(dimension: Dimension, records: Sequence[TrialRecord]) -> list[Any]:
    """Return the value of a setting in each trial, NOT_VARIED in those without it: null is a value."""
    return [record.settings.get(dimension.path, NOT_VARIED) for record in records]


def compute_axis_positions(dimension: Dimension, values: Sequence[Any]) -> tuple[np.ndarray, Ticks]:
    """Return the positions of a setting's values on an axis from 0 to 1, and the axis' ticks.

    Args:
        values: as of `list_values`; the position of NOT_VARIED is NaN.
    """
    if dimension.is_categorical:
        names = [_format_value(value) for value in dimension.values]
        step = 1 / max(1, len(names) - 1)
        ticks = {name: (index * step if len(names) > 1 else 0.5) for index, name in enumerate(names)}
        positions = [np.nan if value is NOT_VARIED else ticks[_format_value(value)] for value in values]
        return np.array(positions), [(position, name) for name, position in ticks.items()]
    low, high = (float(value) for value in dimension.values)
    is_log = dimension.kind.startswith("log")
    scale = np.log if is_log else float
    start, end = float(scale(low)), float(scale(high))
    positions = [np.nan if value is NOT_VARIED else (float(scale(value)) - start) / (end - start) for value in values]
    middle = float(np.exp((start + end) / 2)) if is_log else (low + high) / 2
    labels = zip((0, 0.5, 1), (low, middle, high), strict=True)
    return np.array(positions), [(position, f"{value:.3g}") for position, value in labels]


def _format_value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
