"""Search space of a user's `tune.space`, validated before the first trial.

model.embedding:     {grid: [static, non-static]}     every value, with every other grid value
model.filter_widths: {choice: [[3, 4, 5], [2, 3]]}    one at random
model.dropout:       {uniform: [0.2, 0.6]}            a number between; [0.2, 0.6, 0.1]: in steps of 0.1
train.learning_rate: {loguniform: [0.0003, 0.01]}
model.feature_maps:  {randint: [50, 200]}             a whole number, 200 excluded; [50, 200, 10]: in steps of 10
text.max_words:      {lograndint: [5000, 100000]}
train.vectors_pull:  {choice: [0, 0.1], if: {model.embedding: [non-static, multichannel]}}

A setting with `if` is varied only in trials whose other settings have one of the listed values; in other trials it has
the experiment's own value. Settings of fine-tuning the vectors are varied only in trials that fine-tune them, even
without an `if`.
"""

import json
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Literal, get_args

from jobs.config.conflicts import FINE_TUNING_SETTINGS, LINEAR_WEIGHTS
from jobs.config.experiment import SETTING_KEYS, Experiment, ExperimentError

if TYPE_CHECKING:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
    from optuna.trial import Trial

SEARCHABLE_SECTIONS = ("model", "train", "text")
DimensionKind = Literal["grid", "choice", "uniform", "loguniform", "randint", "lograndint"]
DIMENSION_KINDS: tuple[DimensionKind, ...] = get_args(DimensionKind)
SPEED_SETTINGS = ("train.workers", "train.cpus_per_worker", "train.use_gpu", "train.checkpoint_minutes")


@dataclass(frozen=True)
class Dimension:
    """Values of one setting that a search varies.

    values: all of them for grid and choice, else the low and the high end. step: between values; None for a
    continuous range. conditions: other settings' paths, with the values for which this one is varied.
    """

    path: str
    kind: DimensionKind
    values: list[Any]
    step: Any = None
    conditions: Mapping[str, list[Any]] = field(default_factory=dict)

    @property
    def is_categorical(self) -> bool:
        """True for a list of values, false for a range."""
        return self.kind in ("grid", "choice")

    def sample(self, generator: random.Random) -> Any:
        """Return a random value."""
        if self.is_categorical:
            return generator.choice(self.values)
        low, high = self.values
        if self.kind == "randint":
            return generator.randrange(low, high, self.step or 1)
        if self.kind == "lograndint":
            return min(high - 1, int(math.exp(generator.uniform(math.log(low), math.log(high)))))
        if self.kind == "loguniform":
            return math.exp(generator.uniform(math.log(low), math.log(high)))
        if self.step:
            return _step_value(low, self.step, generator.randint(0, _count_steps(low, high, self.step)))
        return generator.uniform(low, high)

    def list_steps(self) -> list[Any]:
        """Return the values of a range with a step."""
        low, high = self.values
        if self.kind == "randint":
            return list(range(low, high, self.step))
        return [_step_value(low, self.step, index) for index in range(_count_steps(low, high, self.step) + 1)]

    def contains(self, value: Any) -> bool:
        """Return whether a trial may have a value."""
        if self.is_categorical:
            return value in self.values
        if not isinstance(value, int | float):
            return False
        low, high = self.values
        inside = low <= value <= (high if "int" not in self.kind else high - 1)
        return inside and (not self.step or abs((value - low) / self.step - round((value - low) / self.step)) < 1e-9)

    def spell(self, value: Any) -> Any:
        """Return a value that a trial may have as the list of values spells it: 0.0 as 0."""
        return next(listed for listed in self.values if listed == value) if self.is_categorical else value

    def distribution(self) -> "CategoricalDistribution | IntDistribution | FloatDistribution":
        """Return Optuna's distribution of the values; of listed values as JSON, since they may be lists."""
        from optuna.distributions import CategoricalDistribution

        if self.is_categorical:
            return CategoricalDistribution([json.dumps(value) for value in self.values])
        if self.kind in ("randint", "lograndint"):
            return self._int_distribution()
        return self._float_distribution()

    def _float_distribution(self) -> "FloatDistribution":
        from optuna.distributions import FloatDistribution

        low, high = self.values
        return FloatDistribution(low, high, self.kind == "loguniform", self.step)

    def _int_distribution(self) -> "IntDistribution":
        from optuna.distributions import IntDistribution

        (low, high), step = self.values, self.step or 1
        return IntDistribution(low, low + (high - 1 - low) // step * step, self.kind == "lograndint", step)

    def to_optuna_value(self, value: Any) -> Any:
        """Return a value as Optuna's distribution represents it."""
        return json.dumps(value) if self.is_categorical else value

    def suggest(self, trial: "Trial") -> Any:
        """Return the value that Optuna suggests for a trial."""
        if self.is_categorical:
            return json.loads(trial.suggest_categorical(self.path, [json.dumps(value) for value in self.values]))
        if self.kind in ("randint", "lograndint"):
            whole = self._int_distribution()
            return trial.suggest_int(self.path, whole.low, whole.high, step=whole.step, log=whole.log)
        real = self._float_distribution()
        return trial.suggest_float(self.path, real.low, real.high, step=real.step, log=real.log)


def parse_space(experiment: Experiment) -> list[Dimension]:
    """Return the experiment's search space, each setting after those that it depends on.

    Raises:
        ExperimentError: a path is not a setting that can be searched, or a value is not allowed for it.
    """
    space = [_parse_dimension(path, value, experiment) for path, value in experiment.tune.space.items()]
    if not space:
        raise ExperimentError("tune.space: is empty; there is nothing to search")
    for dimension in space:
        for value in [*dimension.values, *_intermediate_values(dimension)]:
            _validate_value(experiment, dimension.path, value)
        for path, values in dimension.conditions.items():
            if path == dimension.path:
                raise ExperimentError(f"tune.space.{path}: depends on itself")
            for value in values:
                _validate_value(experiment, path, value)
    return _sort_by_dependency(space)


def list_embeddings(experiment: Experiment, space: list[Dimension]) -> set[str]:
    """Return the kinds of embedding that trials may have."""
    for dimension in space:
        if dimension.path == "model.embedding":
            own = {experiment.model.embedding} if dimension.conditions else set()
            return own | set(dimension.values)
    return {experiment.model.embedding}


def find_max_epochs(experiment: Experiment) -> int:
    """Return the maximum number of epochs of a trial: of those in the space, else of the experiment."""
    definition = experiment.tune.space.get("train.epochs") or {}
    searched = [value for values in definition.values() for value in values if isinstance(value, int)]
    own = [experiment.tune.epochs or experiment.train.epochs] if not searched or "if" in definition else []
    return max([*searched, *own])


def describe_unused_dimensions(experiment: Experiment, space: list[Dimension]) -> list[str]:
    """Return a warning for each setting that no trial varies, because a condition never holds."""
    by_path = {item.path: item for item in space}
    warnings = []
    for dimension in space:
        for path, values in dimension.conditions.items():
            other = by_path.get(path)
            own = [] if other and not other.conditions else [attrgetter(path)(experiment)]
            if not any(value in own or (other and other.contains(value)) for value in values):
                reason = f"its condition on {path} never holds"
                warnings.append(f"tune.space.{dimension.path} is varied in no trial: {reason}")
    return warnings


def is_active(
    dimension: Dimension, settings: Mapping[str, Any], space: list[Dimension], experiment: Experiment
) -> bool:
    """Return whether a setting is varied in a trial with these other settings."""
    paths = {item.path for item in space}
    for path, values in dimension.conditions.items():
        if path in paths and path not in settings:
            return False
        if settings.get(path, attrgetter(path)(experiment)) not in values:
            return False
    return True


def _sort_by_dependency(space: list[Dimension]) -> list[Dimension]:
    """Return the dimensions, each after those it depends on."""
    ordered: list[Dimension] = []
    remaining = list(space)
    while remaining:
        paths = {dimension.path for dimension in remaining}
        ready = [dimension for dimension in remaining if not paths.intersection(dimension.conditions)]
        if not ready:
            raise ExperimentError(f"tune.space: {', '.join(sorted(paths))} depend on each other")
        ordered += ready
        remaining = [dimension for dimension in remaining if dimension not in ready]
    return ordered


def _validate_value(experiment: Experiment, path: str, value: Any) -> None:
    try:
        experiment.replace({path: value})
    except ExperimentError as error:
        raise ExperimentError(f"tune.space: {str(error).removeprefix('settings: ')}") from error


def _intermediate_values(dimension: Dimension) -> list[Any]:
    """Return a number between the ends that a trial may draw: not a whole one, which some settings require."""
    if dimension.kind not in ("uniform", "loguniform"):
        return []
    low, high = dimension.values
    return [low + (high - low) * math.sqrt(0.5)]


def check_searchable(path: str, place: str = "tune.space") -> None:
    """Raise an ExperimentError if a setting must be the same in all trials of a search.

    Args:
        path: of the setting, such as `model.dropout`. place: start of the message, which says where the setting is.
    """
    if path.split(".")[0] not in SEARCHABLE_SECTIONS:
        raise ExperimentError(
            f"{place}: '{path}' cannot be searched; only settings of {', '.join(SEARCHABLE_SECTIONS)} can"
        )
    if path in SPEED_SETTINGS:
        raise ExperimentError(f"{place}: '{path}' changes the speed of a trial, not its result")
    if path in ("train.temperature", "train.thresholds", "train.threshold_objective") or "train.abstention_" in path:
        raise ExperimentError(f"{place}: '{path}' does not change how a network is trained; set it in the experiment")
    if path == "train.start_from":
        raise ExperimentError(f"{place}: 'train.start_from' cannot be searched; trials start from the beginning")
    if path == "train.metric":
        raise ExperimentError(f"{place}: 'train.metric' cannot be searched; set tune.metric to compare trials by it")


def _parse_dimension(path: str, definition: Any, experiment: Experiment) -> Dimension:
    check_searchable(path)
    keys = [key for key in definition if key != "if"] if isinstance(definition, dict) else []
    kind = next((kind for kind in DIMENSION_KINDS if keys == [kind]), None)
    if kind is None:
        raise ExperimentError(
            f"tune.space.{path}: must be one of {', '.join(DIMENSION_KINDS)} with its values, optionally with an 'if', "
            f"not {definition!r}"
        )
    values = definition[kind]
    if not isinstance(values, list) or not values:
        raise ExperimentError(f"tune.space.{path}.{kind}: must be a list of values, not {values!r}")
    step = None
    if kind not in ("grid", "choice"):
        values, step = _parse_range(path, kind, values)
    elif any(value in values[:index] for index, value in enumerate(values)):
        raise ExperimentError(f"tune.space.{path}.{kind}: contains a value twice: {values!r}")
    return Dimension(path, kind, values, step, _parse_conditions(path, definition.get("if", {}), experiment))


def _parse_range(path: str, kind: str, values: list[Any]) -> tuple[list[Any], Any]:
    """Return the low and the high end, and the step between values; None if there is none."""
    key = f"tune.space.{path}.{kind}"
    may_have_step = kind in ("uniform", "randint")
    values = [_parse_number(value) for value in values]
    is_numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    if not is_numeric or len(values) not in ((2, 3) if may_have_step else (2,)) or values[0] >= values[1]:
        raise ExperimentError(f"{key}: must be [low, high{', step' if may_have_step else ''}], not {values!r}")
    if kind.startswith("log") and values[0] <= 0:
        raise ExperimentError(f"{key}: low must be above 0, not {values[0]!r}")
    if kind.endswith("randint") and not all(isinstance(value, int) for value in values):
        raise ExperimentError(f"{key}: must be whole numbers, not {values!r}")
    if len(values) == 3 and values[2] <= 0:
        raise ExperimentError(f"{key}: the step must be above 0, not {values[2]!r}")
    if len(values) == 2:
        return values, None
    low, high, step = values
    if kind == "uniform":
        high = _step_value(low, step, _count_steps(low, high, step))  # it may be no multiple of the step
    return [low, high], step


def _count_steps(low: float, high: float, step: float) -> int:
    """Return the number of whole steps between two numbers."""
    return int((high - low) / step + 1e-9)


def _step_value(low: float, step: float, index: int) -> float:
    return float(round(low + step * index, 12))


def _parse_conditions(path: str, conditions: Any, experiment: Experiment) -> dict[str, list[Any]]:
    """Return the conditions of an `if`; for a setting of fine-tuning also the kinds of embedding that it applies to,
    and for that of the linear classifier that there is one."""
    key = f"tune.space.{path}.if"
    if not isinstance(conditions, dict):
        raise ExperimentError(f"{key}: must be settings with their values, as in {{model.embedding: [non-static]}}")
    for other in conditions:
        if other not in SETTING_KEYS:
            raise ExperimentError(f"{key}: '{other}' is not a setting")
    parsed = {other: values if isinstance(values, list) else [values] for other, values in conditions.items()}
    if path in FINE_TUNING_SETTINGS and "model.embedding" in experiment.tune.space:
        kinds = parsed.get("model.embedding", FINE_TUNING_SETTINGS[path])
        parsed["model.embedding"] = [kind for kind in sorted(FINE_TUNING_SETTINGS[path]) if kind in kinds]
    if path in LINEAR_WEIGHTS and "model.linear" in experiment.tune.space:
        parsed.setdefault("model.linear", ["words-and-pairs"])
    return parsed


def _parse_number(value: Any) -> Any:
    """Return the number of a string such as 1e-4, which YAML 1.1 reads as a string; other values unchanged."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value
