"""The search space: what a user writes in `tune.space`, checked before the first trial.

model.embedding:     {grid: [static, non-static]}     every value, with every other grid value
model.filter_widths: {choice: [[3, 4, 5], [2, 3]]}    one at random
model.dropout:       {uniform: [0.2, 0.6]}            a number between
train.learning_rate: {loguniform: [0.0003, 0.01]}
model.feature_maps:  {randint: [50, 200]}             a whole number, 200 excluded
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

from jobs.experiment import Experiment, ExperimentError

SECTIONS = ("model", "train")  # what a trial can change without reading the texts again
KINDS = ("grid", "choice", "uniform", "loguniform", "randint")


@dataclass(frozen=True)
class Dimension:
    """One setting's values. For grid and choice all of them, else the low and the high end."""

    path: str
    kind: Literal["grid", "choice", "uniform", "loguniform", "randint"]
    values: list[Any]


def dimensions(experiment: Experiment) -> list[Dimension]:
    """Return the experiment's search space.

    Raises:
        ExperimentError: a path is no setting of `model` or `train`, or a value is not allowed there.
    """
    space = [_dimension(path, given) for path, given in experiment.tune.space.items()]
    if not space:
        raise ExperimentError("tune.space: is empty; there is nothing to search")
    for dimension in space:
        for value in [*dimension.values, *_between(dimension)]:
            try:
                experiment.replace({dimension.path: value})
            except ExperimentError as error:
                raise ExperimentError(f"tune.space: {str(error).removeprefix('settings: ')}") from error
    return space


def embeddings(experiment: Experiment, space: list[Dimension]) -> set[str]:
    """Return the kinds of embedding that trials may have."""
    for dimension in space:
        if dimension.path == "model.embedding":
            return set(dimension.values)
    return {experiment.model.embedding}


def num_trials(experiment: Experiment, space: list[Dimension]) -> int:
    """Return how many trials the search has."""
    return experiment.tune.samples * math.prod(len(each.values) for each in space if each.kind == "grid")


def _between(dimension: Dimension) -> list[float]:
    """Return a number that a trial may draw besides the ends; not a whole one where any may be drawn."""
    if dimension.kind not in ("uniform", "loguniform"):
        return []
    low, high = dimension.values
    return [low + (high - low) * math.sqrt(0.5)]


def _dimension(path: str, given: Any) -> Dimension:
    if path.split(".")[0] not in SECTIONS:
        raise ExperimentError(f"tune.space: '{path}' cannot be searched; settings of {' and '.join(SECTIONS)} can")
    if path in ("train.workers", "train.cpus_per_worker", "train.use_gpu", "train.checkpoint_minutes"):
        raise ExperimentError(f"tune.space: '{path}' changes the speed of a trial, not its result")
    if path == "train.folds":
        raise ExperimentError("tune.space: 'train.folds' cannot be searched; cross-validate the best settings instead")
    if not isinstance(given, dict) or len(given) != 1 or next(iter(given)) not in KINDS:
        raise ExperimentError(f"tune.space.{path}: must be one of {', '.join(KINDS)} with its values, not {given!r}")
    [(kind, values)] = given.items()
    if not isinstance(values, list) or not values:
        raise ExperimentError(f"tune.space.{path}.{kind}: must be a list of values, not {values!r}")
    if kind in ("uniform", "loguniform", "randint"):
        values = [_number(value) for value in values]
        numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
        if not numbers or len(values) != 2 or values[0] >= values[1]:
            raise ExperimentError(f"tune.space.{path}.{kind}: must be [low, high], not {values!r}")
        if kind == "loguniform" and values[0] <= 0:
            raise ExperimentError(f"tune.space.{path}.loguniform: low must be above 0, not {values[0]!r}")
        if kind == "randint" and not all(isinstance(value, int) for value in values):
            raise ExperimentError(f"tune.space.{path}.randint: must be whole numbers, not {values!r}")
    return Dimension(path, kind, values)


def _number(value: Any) -> Any:
    """Return 1e-4, which YAML reads as a string, as the number it is; other values as they are."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value
