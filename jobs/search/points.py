"""Settings of trials that are known beforehand: points of a grid, random points, and the experiment's own settings."""

import itertools
import json
import random
from collections.abc import Mapping
from operator import attrgetter
from typing import Any

from jobs.config.experiment import Experiment
from jobs.config.training_defaults import DEFAULT_BATCH_SIZE, choose_vectors_learning_rate
from jobs.search.space import Dimension, is_active

# Draws of one point until it is given up, because each repeats an earlier point.
MAX_DRAWS = 100


def generate_points(experiment: Experiment, space: list[Dimension], limit: int | None = None) -> list[dict[str, Any]]:
    """Return the settings of each trial of a grid or random search: the same for every call, without repetitions.

    Each point of the grid is repeated: first with the experiment's own settings, then with others drawn with the seed.

    Args:
        limit: number of points; None for `tune.samples` times each point of the grid.
    """
    grids = [item for item in space if item.kind == "grid"]
    own_kind = experiment.model.embedding
    own = {point.get("model.embedding", own_kind): point for point in list_own_settings(experiment, space)}
    points: dict[str, dict[str, Any]] = {}
    for sample in itertools.count():
        count = len(points)
        if sample == experiment.tune.samples and limit is None:
            break
        for number, values in enumerate(itertools.product(*(item.values for item in grids))):
            generator = random.Random(f"{experiment.seed}/{sample}/{number}")
            fixed = {grid.path: value for grid, value in zip(grids, values, strict=True)}
            own_point = own.get(fixed.get("model.embedding", own_kind), {}) if sample == 0 else {}
            for draw in range(1 if len(grids) == len(space) else MAX_DRAWS):
                given = own_point | fixed if draw == 0 else fixed
                settings = _draw_settings(experiment, space, given, generator)
                key = json.dumps(settings)
                if key not in points:
                    points[key] = settings
                    break
        if len(points) == count or (limit is not None and len(points) >= limit):
            break
    return list(points.values())[:limit]


def _draw_settings(
    experiment: Experiment, space: list[Dimension], fixed: Mapping[str, Any], generator: random.Random
) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for dimension in space:
        value = fixed[dimension.path] if dimension.path in fixed else dimension.sample(generator)
        if is_active(dimension, settings, space, experiment):
            settings[dimension.path] = value
    return settings


def list_own_settings(experiment: Experiment, space: list[Dimension]) -> list[dict[str, Any]]:
    """Return the experiment's own settings as far as they are in the space, for each kind of embedding in it."""
    kinds = next((item.values for item in space if item.path == "model.embedding"), [experiment.model.embedding])
    points = []
    for kind in kinds:
        own = experiment.replace({"model.embedding": kind})
        values = {item.path: _choose_own_value(own, item.path) for item in space}
        points.append({item.path: item.spell(values[item.path]) for item in space if item.contains(values[item.path])})
    return [point for point in points if point]


def _choose_own_value(experiment: Experiment, path: str) -> Any:
    """Return the value of a setting, or what training uses if it is null."""
    value = attrgetter(path)(experiment)
    if value is None and path == "train.batch_size":
        return DEFAULT_BATCH_SIZE
    if value is None and path == "train.vectors_learning_rate":
        return choose_vectors_learning_rate(experiment.train, is_random=experiment.model.embedding == "rand")
    return value
