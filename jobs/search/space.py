"""The search space: what a user writes in `tune.space`, checked before the first trial.

model.embedding:     {grid: [static, non-static]}     every value, with every other grid value
model.filter_widths: {choice: [[3, 4, 5], [2, 3]]}    one at random
model.dropout:       {uniform: [0.2, 0.6]}            a number between; [0.2, 0.6, 0.1]: in steps of 0.1
train.learning_rate: {loguniform: [0.0003, 0.01]}
model.feature_maps:  {randint: [50, 200]}             a whole number, 200 excluded; [50, 200, 10]: in steps of 10
text.max_words:      {lograndint: [5000, 100000]}
train.vectors_pull:  {choice: [0, 0.1], if: {model.embedding: [non-static, multichannel]}}

A setting with `if` is varied only where the others have one of the values named, and is the experiment's own
elsewhere. What says how word vectors are fine-tuned is varied only where they are, without being told so.
"""

import itertools
import json
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from jobs.config.conflicts import FINE_TUNING_SETTINGS
from jobs.config.experiment import SETTING_KEYS, Experiment, ExperimentError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import Trial

SEARCHABLE_SECTIONS = ("model", "train", "text")
DIMENSION_KINDS = ("grid", "choice", "uniform", "loguniform", "randint", "lograndint")
SPEED_SETTINGS = ("train.workers", "train.cpus_per_worker", "train.use_gpu", "train.checkpoint_minutes")

# Draws of one point before it is given up as one that was drawn already.
MAX_DRAWS = 100


@dataclass(frozen=True)
class Dimension:
    """One setting's values. For grid and choice all of them, else the low and the high end.

    step: between values, None for any. when: other settings' paths, and the values at which this one is varied.
    """

    path: str
    kind: Literal["grid", "choice", "uniform", "loguniform", "randint", "lograndint"]
    values: list[Any]
    step: Any = None
    conditions: Mapping[str, list[Any]] = field(default_factory=dict)

    @property
    def is_categorical(self) -> bool:
        """Tell whether all values are listed."""
        return self.kind in ("grid", "choice")

    def sample(self, chance: random.Random) -> Any:
        """Return a value at random."""
        if self.is_categorical:
            return chance.choice(self.values)
        low, high = self.values
        if self.kind == "randint":
            return chance.randrange(low, high, self.step or 1)
        if self.kind == "lograndint":
            return min(high - 1, int(math.exp(chance.uniform(math.log(low), math.log(high)))))
        if self.kind == "loguniform":
            return math.exp(chance.uniform(math.log(low), math.log(high)))
        if self.step:
            steps = math.floor((high - low) / self.step + 1e-9)
            return round(low + self.step * chance.randint(0, steps), 12)
        return chance.uniform(low, high)

    def contains(self, value: Any) -> bool:
        """Tell whether a value is one of these."""
        if self.is_categorical:
            return value in self.values
        if not isinstance(value, int | float):
            return False
        low, high = self.values
        inside = low <= value <= (high if "int" not in self.kind else high - 1)
        return inside and (not self.step or abs((value - low) / self.step - round((value - low) / self.step)) < 1e-9)

    def distribution(self) -> "BaseDistribution":
        """Return Optuna's name for these values; lists stand as JSON."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.is_categorical:
            return CategoricalDistribution([json.dumps(value) for value in self.values])
        low, high = self.values
        if self.kind in ("randint", "lograndint"):
            step = self.step or 1
            return IntDistribution(low, low + (high - 1 - low) // step * step, self.kind == "lograndint", step)
        return FloatDistribution(low, high, self.kind == "loguniform", self.step)

    def to_optuna_value(self, value: Any) -> Any:
        """Return a value as the distribution knows it."""
        return json.dumps(value) if self.is_categorical else value

    def suggest(self, trial: "Trial") -> Any:
        """Return the value that Optuna suggests for a trial."""
        if self.is_categorical:
            return json.loads(trial.suggest_categorical(self.path, [json.dumps(value) for value in self.values]))
        low, high = self.values
        if self.kind in ("randint", "lograndint"):
            whole = self.distribution()
            return trial.suggest_int(self.path, low, whole.high, step=self.step or 1, log=self.kind == "lograndint")
        return trial.suggest_float(self.path, low, high, step=self.step, log=self.kind == "loguniform")


def parse_space(experiment: Experiment) -> list[Dimension]:
    """Return the experiment's search space, each setting after those that it depends on.

    Raises:
        ExperimentError: a path is no setting that can be searched, or a value is not allowed there.
    """
    space = [_dimension(path, given, experiment) for path, given in experiment.tune.space.items()]
    if not space:
        raise ExperimentError("tune.space: is empty; there is nothing to search")
    for dimension in space:
        for value in [*dimension.values, *_between(dimension)]:
            _check(experiment, dimension.path, value)
        for path, values in dimension.conditions.items():
            if path == dimension.path:
                raise ExperimentError(f"tune.space.{path}: depends on itself")
            for value in values:
                _check(experiment, path, value)
    return _in_order(space)


def list_embeddings(experiment: Experiment, space: list[Dimension]) -> set[str]:
    """Return the kinds of embedding that trials may have."""
    for dimension in space:
        if dimension.path == "model.embedding":
            own = {experiment.model.embedding} if dimension.conditions else set()
            return own | set(dimension.values)
    return {experiment.model.embedding}


def is_active(
    dimension: Dimension, settings: Mapping[str, Any], space: list[Dimension], experiment: Experiment
) -> bool:
    """Tell whether a setting is varied beside others that have been chosen."""
    paths = {each.path for each in space}
    for path, values in dimension.conditions.items():
        if path in paths and path not in settings:
            return False
        if settings.get(path, get_setting(experiment, path)) not in values:
            return False
    return True


def generate_points(experiment: Experiment, space: list[Dimension], most: int | None = None) -> list[dict[str, Any]]:
    """Return the settings of every trial of a grid and random search, the same each time, none twice.

    Each point of the grid is taken again and again, the rest of its settings drawn with the seed.

    Args:
        most: settings; None for `tune.samples` times each point of the grid.
    """
    grids = [each for each in space if each.kind == "grid"]
    found: dict[str, dict[str, Any]] = {}
    for sample in itertools.count():
        before = len(found)
        if sample == experiment.tune.samples and most is None:
            break
        for number, values in enumerate(itertools.product(*(each.values for each in grids))):
            chance = random.Random(f"{experiment.seed}/{sample}/{number}")
            fixed = {grid.path: value for grid, value in zip(grids, values, strict=True)}
            for _ in range(MAX_DRAWS):
                settings: dict[str, Any] = {}
                for each in space:
                    value = fixed[each.path] if each.kind == "grid" else each.sample(chance)
                    if is_active(each, settings, space, experiment):
                        settings[each.path] = value
                key = json.dumps(settings)
                if key not in found:
                    found[key] = settings
                    break
                if len(grids) == len(space):
                    break
        if len(found) == before or (most is not None and len(found) >= most):
            break
    return list(found.values())[:most]


def get_setting(experiment: Experiment, path: str) -> Any:
    """Return the value of a setting by its dotted path."""
    found: Any = experiment
    for name in path.split("."):
        found = getattr(found, name)
    return found


def _in_order(space: list[Dimension]) -> list[Dimension]:
    """Return the dimensions, each behind those it depends on."""
    ordered: list[Dimension] = []
    left = list(space)
    while left:
        waiting = {each.path for each in left}
        ready = [each for each in left if not waiting.intersection(each.conditions)]
        if not ready:
            raise ExperimentError(f"tune.space: {', '.join(sorted(waiting))} depend on each other")
        ordered += ready
        left = [each for each in left if each not in ready]
    return ordered


def _check(experiment: Experiment, path: str, value: Any) -> None:
    try:
        experiment.replace({path: value})
    except ExperimentError as error:
        raise ExperimentError(f"tune.space: {str(error).removeprefix('settings: ')}") from error


def _between(dimension: Dimension) -> list[Any]:
    """Return a number that a trial may draw besides the ends; not a whole one where any may be drawn."""
    if dimension.kind not in ("uniform", "loguniform"):
        return []
    low, high = dimension.values
    return [low + (high - low) * math.sqrt(0.5)]


def _dimension(path: str, given: Any, experiment: Experiment) -> Dimension:
    if path.split(".")[0] not in SEARCHABLE_SECTIONS:
        raise ExperimentError(
            f"tune.space: '{path}' cannot be searched; settings of {', '.join(SEARCHABLE_SECTIONS)} can"
        )
    if path in SPEED_SETTINGS:
        raise ExperimentError(f"tune.space: '{path}' changes the speed of a trial, not its result")
    if path == "train.metric":
        raise ExperimentError(
            "tune.space: 'train.metric' cannot be searched; tune.metric says what trials are compared by"
        )
    if path == "train.folds":
        raise ExperimentError("tune.space: 'train.folds' cannot be searched; cross-validate the best settings instead")
    told = f"tune.space.{path}: must be one of {', '.join(DIMENSION_KINDS)} with its values, and may have an 'if'"
    if not isinstance(given, dict):
        raise ExperimentError(f"{told}, not {given!r}")
    kinds = [key for key in given if key != "if"]
    if len(kinds) != 1 or kinds[0] not in DIMENSION_KINDS:
        raise ExperimentError(f"{told}, not {given!r}")
    [kind] = kinds
    values = given[kind]
    if not isinstance(values, list) or not values:
        raise ExperimentError(f"tune.space.{path}.{kind}: must be a list of values, not {values!r}")
    step = None
    if kind not in ("grid", "choice"):
        values, step = _range(path, kind, values)
    elif any(value in values[:place] for place, value in enumerate(values)):
        raise ExperimentError(f"tune.space.{path}.{kind}: names a value twice: {values!r}")
    return Dimension(path, kind, values, step, _when(path, given.get("if", {}), experiment))  # type: ignore[arg-type]


def _range(path: str, kind: str, values: list[Any]) -> tuple[list[Any], Any]:
    """Return the low and high end, and the step between, if there is one."""
    where = f"tune.space.{path}.{kind}"
    steps = kind in ("uniform", "randint")
    values = [_number(value) for value in values]
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    if not numbers or len(values) not in ((2, 3) if steps else (2,)) or values[0] >= values[1]:
        raise ExperimentError(f"{where}: must be [low, high{', step' if steps else ''}], not {values!r}")
    if kind.startswith("log") and values[0] <= 0:
        raise ExperimentError(f"{where}: low must be above 0, not {values[0]!r}")
    if kind.endswith("randint") and not all(isinstance(value, int) for value in values):
        raise ExperimentError(f"{where}: must be whole numbers, not {values!r}")
    if len(values) == 3 and values[2] <= 0:
        raise ExperimentError(f"{where}: the step must be above 0, not {values[2]!r}")
    return values[:2], values[2] if len(values) == 3 else None


def _when(path: str, given: Any, experiment: Experiment) -> dict[str, list[Any]]:
    """Return what a setting depends on: what its `if` says; and that vectors are fine-tuned, where it says how."""
    where = f"tune.space.{path}.if"
    if not isinstance(given, dict):
        raise ExperimentError(f"{where}: must be settings with their values, as in {{model.embedding: [non-static]}}")
    for other in given:
        if other not in SETTING_KEYS:
            raise ExperimentError(f"{where}: '{other}' is no setting")
    when = {other: values if isinstance(values, list) else [values] for other, values in given.items()}
    if path in FINE_TUNING_SETTINGS and "model.embedding" in experiment.tune.space:
        kinds = when.get("model.embedding", FINE_TUNING_SETTINGS[path])
        when["model.embedding"] = sorted(FINE_TUNING_SETTINGS[path].intersection(kinds))
    return when


def _number(value: Any) -> Any:
    """Return 1e-4, which YAML reads as a string, as the number it is; other values as they are."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value
