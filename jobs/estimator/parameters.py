"""Parameters of the estimator, and the settings of an experiment that they set."""

from collections.abc import Mapping
from operator import attrgetter
from typing import Any

from jobs.config.experiment import SETTING_KEYS, Experiment

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


def read_parameters(experiment: Experiment) -> Mapping[str, Any]:
    """Return the parameters of an estimator with which `to_experiment` returns the settings of an experiment.

    >>> read_parameters(Experiment().replace({"model.dropout": 0.3, "train.weight_decay": 0.1}))["settings"]
    {'train.weight_decay': 0.1}

    `train.workers`, `train.start_from` and all sections but `text`, `vectors`, `model` and `train` are left out.
    """
    default, excluded = Experiment(), {*SETTINGS.values(), "train.workers", "train.start_from"}
    paths = [path for path in SETTING_KEYS if path.startswith(("text.", "vectors.", "model.", "train."))]
    settings = {
        path: value
        for path in paths
        if path not in excluded and (value := attrgetter(path)(experiment)) != attrgetter(path)(default)
    }
    parameters = {name: attrgetter(path)(experiment) for name, path in SETTINGS.items()}
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

    >>> apply_chosen_settings({"model.dropout": 0.9, "seed": 1}, {"model.dropout": 0.3, "train.weight_decay": 0.1})
    {'dropout': 0.3, 'settings': {'seed': 1, 'train.weight_decay': 0.1}}

    Args:
        settings: parameter of this name, which overrides the other parameters.
    """
    names = {path: name for name, path in SETTINGS.items()}
    parameters = {names[path]: value for path, value in chosen.items() if path in names}
    kept = {path: value for path, value in (settings or {}).items() if path not in chosen}
    others = {path: value for path, value in chosen.items() if path not in names}
    return {**parameters, "settings": kept | others or None}
