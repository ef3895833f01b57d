"""Experiment for others: paths are names of files, since folders, URIs and addresses may be confidential."""

from pathlib import PurePosixPath
from typing import Any

from cluster.storage import split_query
from jobs.config.experiment import Experiment
from jobs.config.settings import Source
from jobs.model.checkpoint_locations import is_on_hub

_PATH_SETTINGS = ("data.train", "data.validation", "data.test", "data.out_of_scope", "vectors.path", "train.start_from")
# Settings that a pushed checkpoint does not have: locations of one machine, addresses of servers, names of projects.
_LOCAL_SETTINGS = {
    "storage": "runs", "data.folder": ".", "mlflow": None, "tune.mlflow": None, "wandb": None
}  # fmt: skip


def hide_folders(experiment: Experiment) -> Experiment:
    """Return an experiment in which paths are names of files: folders and URIs may be confidential.

    The addresses of MLflow, which may have a password, and the project of Weights & Biases are removed.
    """
    settings = experiment.model_dump()
    hidden: dict[str, Any] = _LOCAL_SETTINGS | {"tune.space": _hide_choices(experiment.tune.space)}
    for path in _PATH_SETTINGS:
        section, key = path.split(".")
        hidden[path] = _hide_folder(settings[section][key])
    return experiment.replace(hidden)


def hide_folder(path: str) -> str:
    """Return the name of a file or folder at a path or URI; what the Hub or gensim's downloader has stays."""
    if is_on_hub(path) or path.startswith("gensim:"):
        return path
    name = PurePosixPath(split_query(path)[0].rstrip("/")).name
    is_server = "://" in path and path.partition("://")[2].startswith(name)  # it may follow a name and a password
    return name.rpartition("@")[2] if is_server else name


def _hide_folder(source: Source | None) -> Source | None:
    if source is None or isinstance(source, str):
        return source and hide_folder(source)
    return [hide_folder(path) for path in source]


def _hide_choices(value: Any, *, is_path: bool = False) -> Any:
    """Return a part of a search space without the folders in choices and conditions of paths.

    A space is validated when it is searched, so that of a checkpoint may have any form.
    """
    if isinstance(value, dict):
        return {
            key: _hide_choices(item, is_path=is_path or key in _PATH_SETTINGS)
            for key, item in value.items()
            if key not in _LOCAL_SETTINGS
        }
    if isinstance(value, list):
        return [_hide_choices(item, is_path=is_path) for item in value]
    return hide_folder(value) if is_path and isinstance(value, str) else value
