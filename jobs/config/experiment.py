"""Experiment file: the settings of a training run or a search.

Every key has a default (`finetune-cnn show` prints them with their descriptions). An unknown key is an error that
suggests the nearest valid one. Any key can be set on the command line by its dotted path:

    finetune-cnn train experiments/trec.yaml data.folder=data/trec model.embedding=rand
"""

import difflib
import hashlib
import json
import logging
import os
import shlex
from collections.abc import Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, get_args

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from cluster import UsageError
from jobs.config.formats import derive_name, find_format
from jobs.config.label_thresholds import MULTI_LABEL_METRIC
from jobs.config.settings import (
    EARLIER_VALUES,
    PRETRAINING_SETTINGS,
    DataSettings,
    ModelSettings,
    SettingsSection,
    TextSettings,
    TrainSettings,
    VectorSettings,
)
from jobs.config.tune_settings import TuneSettings

logger = logging.getLogger(__name__)

MAX_YAML_BYTES = 4 << 20  # of all settings: YAML is parsed slowly, and a checkpoint may come from anywhere

YAML_NULLS = ("", "~", "null", "Null", "NULL")
LIST_OR_TEXT_KEYS = ("data.train", "data.validation", "data.test", "data.out_of_scope")  # a value in brackets is a list


class ExperimentError(UsageError):
    """The experiment file or a setting on the command line is invalid."""


class Experiment(SettingsSection):
    """All settings of an experiment."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = "docstrings"
    """Name of the experiment; its runs are in the folder `name` of `storage`. By default named after `data.train`."""
    storage: str = "runs"
    """Folder of all runs, which all nodes can access, or a URI of a file system that pyarrow supports."""
    seed: int = Field(0, ge=0, lt=1 << 32)
    """Seed of all random numbers: split of the data, initial weights, order of the rows, dropout, search."""
    mlflow: str | None = None
    """Tracking URI of MLflow that runs and trials are logged to; null: MLFLOW_TRACKING_URI if set, else none. Needs the
    extra `mlflow`."""
    wandb: str | None = None
    """Project of Weights & Biases that runs and trials are logged to; null: WANDB_PROJECT if set, else none. Needs the
    package wandb, and WANDB_API_KEY or WANDB_MODE=offline."""
    data: DataSettings = DataSettings()
    text: TextSettings = TextSettings()
    vectors: VectorSettings = VectorSettings()
    model: ModelSettings = ModelSettings()
    train: TrainSettings = TrainSettings()
    tune: TuneSettings = TuneSettings()

    @model_validator(mode="before")
    @classmethod
    def _choose_metric(cls, values: Any) -> Any:
        """Set the metric of several labels per text where a file names none."""
        if not isinstance(values, dict) or not isinstance(values.get("data"), dict):
            return values
        data, train = values["data"], values.get("train") or {}
        is_multi_label = data.get("multi_label") is True or data.get("label_separator") is not None
        if not is_multi_label or not isinstance(train, dict) or "metric" in train:
            return values
        return {**values, "train": {**train, "metric": MULTI_LABEL_METRIC}}

    def replace(self, settings: dict[str, Any]) -> "Experiment":
        """Return the experiment with other values at some dotted paths; ExperimentError if one is invalid.

        Values may be paths, as of pathlib.
        """
        tree = self.model_dump()
        for path, value in settings.items():
            _set_value(tree, path, os.fspath(value) if isinstance(value, os.PathLike) else value)
        return _validate(tree, "settings")

    def to_yaml(self) -> str:
        """Return all settings as YAML; ExperimentError if it is longer than a reader of checkpoints accepts."""
        text: str = yaml.safe_dump(self.model_dump(), sort_keys=False, allow_unicode=True, default_flow_style=None)
        if (size := len(text.encode())) > MAX_YAML_BYTES:
            raise ExperimentError(
                f"the settings have {size:,} bytes as YAML, of which a checkpoint can hold {MAX_YAML_BYTES:,}; shorten "
                "the mappings of labels in `train`, or name folders or patterns instead of each file in `data`"
            )
        return text


def add_earlier_values(tree: Mapping[str, object]) -> Mapping[str, object]:
    """Return the settings of a file that a run wrote, with the meaning of those that its version did not have."""
    sections = {name: tree.get(name, {}) for name in EARLIER_VALUES}
    added = {name: EARLIER_VALUES[name] | section for name, section in sections.items() if isinstance(section, dict)}
    return {**tree, **added}


def digest(value: Any, num_digits: int = 8) -> str:
    """Return hex digits that identify a JSON-like value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:num_digits]


def load_experiment(path: str | None, settings: Sequence[str] = ()) -> Experiment:
    """Return the experiment of a YAML file (None: the defaults) with `key=value` settings of the command line.

    Without a name it is named after `data.train`. Log a warning about settings of pretraining without effect.

    Raises:
        ExperimentError: the file cannot be read, is not YAML, or contains an invalid key or value.
    """
    experiment = _override(_read_yaml(path) if path else {}, settings, path or "command line")
    if experiment.vectors.path is not None:
        keys = {setting.partition("=")[0] for setting in settings}
        for key in (f"vectors.{name}" for name in PRETRAINING_SETTINGS):
            if key in keys:
                logger.warning(f"{key} has no effect: the vectors are read from vectors.path, not trained here")
    return experiment


def apply_overrides(experiment: Experiment, overrides: Sequence[str]) -> Experiment:
    """Return an experiment with `key=value` settings of the command line; ExperimentError if one is invalid."""
    return _override(experiment.model_dump(), overrides, "settings")


def _override(tree: dict[str, Any], settings: Sequence[str], location: str) -> Experiment:
    """Return the experiment of a tree with `key=value` settings; location: of the tree, in errors."""
    keys = []
    for setting in settings:
        key, equals, value = setting.partition("=")
        key = key.strip()
        if not equals or not key:
            raise ExperimentError(f"'{setting}' is not a setting; write key=value, as in model.dropout=0.3")
        _set_value(tree, key, _parse_value(key, value))
        keys.append(key)
    data = tree.get("data")
    if "name" not in tree and isinstance(data, dict):
        train = data.get("train")
        first = train[0] if isinstance(train, list) and train else train
        if isinstance(first, str):
            tree["name"] = derive_name(first)
    return _validate(tree, location, keys)


class _SettingsLoader(yaml.SafeLoader):
    """Loader whose keys are the text that is written: names of settings, and labels such as no, off and 010."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        self.flatten_mapping(node)
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                key.tag = self.DEFAULT_SCALAR_TAG
        return super().construct_mapping(node, deep)


def _parse_value(key: str, text: str) -> Any:
    """Return a value of the command line: YAML, but texts need no quotes, such as the name 1 of a column."""
    stripped = text.strip()
    is_list = key in LIST_OR_TEXT_KEYS and stripped[:1] == "[" and stripped[-1:] == "]"
    is_quoted = stripped[:1] in ("'", '"')
    if key in SETTING_KEYS and _accepts_text(key) and not is_quoted and not is_list and stripped not in YAML_NULLS:
        return stripped or text
    try:
        return yaml.load(text, _SettingsLoader)
    except yaml.YAMLError as error:
        if is_list:  # YAML wants quotes around paths with * or ?
            return [path.strip() for path in stripped[1:-1].split(",")]
        raise ExperimentError(f"command line: {key}: '{text}' is not a YAML value: {_one_line(error)}") from error


def _accepts_text(key: str) -> bool:
    """Return whether any text is a value of a setting."""
    *sections, name = key.split(".")
    owner = attrgetter(".".join(sections))(Experiment()) if sections else Experiment()
    annotation = type(owner).model_fields[name].annotation
    return annotation is str or (isinstance(annotation, UnionType) and str in get_args(annotation))


def _check_is_experiment(path: str) -> None:
    """Raise if a path names something that other commands or settings expect."""
    quoted = shlex.quote(path)
    if find_format(path) is not None:
        raise ExperimentError(
            f"{path}: is a file of texts, not an experiment; `finetune-cnn init {quoted}` writes an experiment for it"
        )
    if Path(path).is_dir():
        settings = Path(path, "experiment.yaml")
        hint = f", such as {settings}" if settings.exists() else " in it"
        raise ExperimentError(f"{path}: is a folder; name an experiment file{hint}")
    if Path(path).name == "best.json":
        raise ExperimentError(f"{path}: names a checkpoint; experiments are the experiment.yaml of run folders")


def _read_yaml(path: str) -> dict[str, Any]:
    _check_is_experiment(path)
    try:
        tree = yaml.load(Path(path).read_text(encoding="utf-8"), _SettingsLoader)
    except FileNotFoundError as error:
        raise ExperimentError(f"{path}: no such experiment file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ExperimentError(f"{path}: cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise ExperimentError(f"{path}: not valid YAML: {_one_line(error)}") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ExperimentError(
            f"{path}: must contain keys and values, not a {type(tree).__name__}; `finetune-cnn show` prints an example"
        )
    return tree


def _set_value(tree: dict[str, Any], path: str, value: Any) -> None:
    *sections, key = path.split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            raise ExperimentError(f"{path}: '{section}' is not a section and has no keys")
    tree[key] = value


def _validate(tree: dict[str, Any], location: str, command_line: Sequence[str] = ()) -> Experiment:
    """Return the experiment of a tree; ExperimentError if a key or value is invalid.

    Args:
        location: file of the tree, in errors. command_line: keys whose values are from the command line instead.
    """
    try:
        return Experiment.model_validate(tree)
    except ValidationError as error:
        messages: dict[str, list[str]] = {}
        for details in error.errors(include_url=False):
            path = ".".join(str(part) for part in details["loc"] if part != "[key]")  # of the names in a mapping
            source = location
            if any(_is_inside(path, key) for key in command_line):
                source = "command line"
            elif location != "command line" and any(_is_inside(key, path) for key in command_line):
                source = f"{location} and command line"  # a mapping is checked as a whole
            messages.setdefault(source, []).append(_format_error(path, details))
        raise ExperimentError("; ".join(f"{source}: {'; '.join(own)}" for source, own in messages.items())) from error


def _is_inside(path: str, other: str) -> bool:
    """Return whether a dotted path is another one, or that of a key in it."""
    return f"{path}.".startswith(f"{other}.")


def _format_error(path: str, error: ErrorDetails) -> str:
    if path == "train.folds":
        command = f"finetune-cnn cross-validate --folds {error['input']}"
        return f"{path} is no longer a setting; remove it and run `{command}` instead"
    if error["type"] == "extra_forbidden":
        names = " or ".join(f"'{key}'" for key in suggest_keys(path))
        hint = f"; did you mean {names}?" if names else "; `finetune-cnn show` prints all keys"
        return f"unknown key '{path}'{hint}"
    value = "" if isinstance(error["input"], dict | BaseModel) else f" (given: {error['input']!r})"
    if error["type"] == "model_type":
        return f"{path}: is a section and has keys, not a value{value}; did you mean '{suggest_keys(path)[0]}'?"
    return f"{path}: {error['msg'].removeprefix('Value error, ')}{value}"


def suggest_keys(path: str) -> list[str]:
    """Return up to three settings that may be meant by a path that is none, the likeliest first."""
    leaves: dict[str, list[str]] = {}
    for key in sorted(SETTING_KEYS, key=_section_rank):
        leaves.setdefault(key.rpartition(".")[2], []).append(key)
    section, _, name = path.rpartition(".")
    same_name = [key for key in leaves.get(name, []) if key != path]
    if same_name:
        return same_name[:3]
    longer = [
        key for key in SETTING_KEYS if key.startswith(f"{path}.") or key.rpartition(".")[2].startswith(f"{name}_")
    ]
    similar = difflib.get_close_matches(path, SETTING_KEYS, n=1, cutoff=0.8 if not section else 0.5)
    similar_names = difflib.get_close_matches(name, leaves, n=1, cutoff=0.7)
    return longer[:1] or similar or [key for match in similar_names for key in leaves[match]][:3]


def _section_rank(key: str) -> int:
    section = key.partition(".")[0]
    return SECTIONS_BY_USE.index(section) if section in SECTIONS_BY_USE else len(SECTIONS_BY_USE)


def _list_keys(section: type[BaseModel], prefix: str = "") -> list[str]:
    keys = []
    for name, field in section.model_fields.items():
        keys.append(prefix + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys += _list_keys(field.annotation, f"{prefix}{name}.")
    return keys


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


SETTING_KEYS = _list_keys(Experiment)
# A key without its section most often belongs to the first section that has such a key.
SECTIONS_BY_USE = ("train", "model", "data", "text", "tune", "vectors")
