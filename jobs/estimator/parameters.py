"""Parameters of the estimator, and the settings of an experiment that they set."""

from collections.abc import Mapping
from operator import attrgetter
from typing import Any

from jobs.config.experiment import SETTING_KEYS, Experiment, ExperimentError
from jobs.config.settings import VECTOR_FILE_SETTINGS

SETTINGS = {
    "vectors": "vectors.path",
    "embedding": "model.embedding",
    "filter_widths": "model.filter_widths",
    "feature_maps": "model.feature_maps",
    "dropout": "model.dropout",
    "linear": "model.linear",
    "epochs": "train.epochs",
    "batch_size": "train.batch_size",
    "learning_rate": "train.learning_rate",
    "patience": "train.patience",
    "class_weight": "train.class_weights",
}
# Settings that are a parameter, by dotted path; those of `SETTINGS` have its value as it is.
PARAMETERS = {path: name for name, path in SETTINGS.items()} | {"seed": "random_state", "train.workers": "n_workers"}
# Settings of `data` that a saved model reads files with; all others are for rows that come from files.
FILE_SETTINGS = {"data.text_column", "data.label_column", "data.delimiter", "data.encoding"}
# Settings that an estimator does not take from a checkpoint: a checkpoint may come from anywhere, and these name files
# to read, allow code in them, or depend on the machine.
UNTRUSTED_SETTINGS = {
    "vectors.path", *(f"vectors.{name}" for name in VECTOR_FILE_SETTINGS),
    "train.start_from", "train.workers", "train.cpus_per_worker", "train.use_gpu",
}  # fmt: skip


def check_own_settings(settings: Mapping[str, Any]) -> None:
    """Raise an ExperimentError if an estimator cannot use one of its `settings`, or has a parameter for it."""
    for key in settings:
        for path, name in PARAMETERS.items():
            if f"{path}.".startswith(f"{key}.") or key.startswith(f"{path}."):
                advice = "remove it from settings" if key == path else "name single settings by dotted path"
                raise ExperimentError(f"settings: '{key}': {path} is the parameter {name}; set that, and {advice}")
        if f"{key}.".startswith("data.") and key not in FILE_SETTINGS:
            raise ExperimentError(
                f"settings: '{key}' has no effect, since the rows are in memory; remove it. Validation rows and "
                "weights are the arguments eval_set and sample_weight of `fit`"
            )


def read_parameters(experiment: Experiment) -> Mapping[str, Any]:
    """Return the parameters of an estimator with which `to_experiment` returns the settings of an experiment.

    >>> read_parameters(Experiment().replace({"model.dropout": 0.3, "train.weight_decay": 0.1}))["settings"]
    {'train.weight_decay': 0.1}

    The settings of a checkpoint may come from anywhere: `UNTRUSTED_SETTINGS` are left out, and all sections but `text`,
    `vectors`, `model` and `train`.
    """
    default, excluded = Experiment(), {*SETTINGS.values(), *UNTRUSTED_SETTINGS}
    paths = [path for path in SETTING_KEYS if path.startswith(("text.", "vectors.", "model.", "train."))]
    settings = {
        path: value
        for path in paths
        if path not in excluded and (value := attrgetter(path)(experiment)) != attrgetter(path)(default)
    }
    trusted = {name: path for name, path in SETTINGS.items() if path not in UNTRUSTED_SETTINGS}
    parameters = {name: attrgetter(path)(experiment) for name, path in trusted.items()}
    return {**parameters, "random_state": experiment.seed, "settings": settings or None}


def build_search_experiment(experiment: Experiment, space: Mapping[str, Any] | None) -> Experiment:
    """Return an experiment with a search space.

    >>> space = {"dropout": [0.3, 0.5], "train.weight_decay": {"choice": [0, 0.1]}}
    >>> build_search_experiment(Experiment(), space).tune.space
    {'model.dropout': {'grid': [0.3, 0.5]}, 'train.weight_decay': {'choice': [0, 0.1]}}

    Args:
        space: of `TextCNNClassifier.tune`.

    Raises:
        ExperimentError: a value is no search space.
    """
    if space is None:
        return experiment
    lists = {name: {"grid": list(values)} for name, values in space.items() if isinstance(values, list | tuple)}
    return experiment.replace(
        {"tune.space": {SETTINGS.get(name, name): lists.get(name, space[name]) for name in space}}
    )


def apply_chosen_settings(settings: Mapping[str, Any] | None, chosen: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the parameters of an estimator with the settings that a search has chosen, by dotted path.

    >>> apply_chosen_settings({"text.min_count": 2}, {"model.dropout": 0.3, "train.weight_decay": 0.1})
    {'dropout': 0.3, 'settings': {'text.min_count': 2, 'train.weight_decay': 0.1}}

    Args:
        settings: parameter of this name.
    """
    names = {path: name for name, path in SETTINGS.items()}
    parameters = {names[path]: value for path, value in chosen.items() if path in names}
    others = {path: value for path, value in chosen.items() if path not in names}
    return {**parameters, "settings": {**(settings or {}), **others} or None}
