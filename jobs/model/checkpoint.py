"""A trained classifier as a folder: all that is needed to classify, to resume, and to know its origin.

    manifest.json          format version; size and SHA-256 of every other file
    experiment.yaml        all settings
    labels.json            classes, in the order of the scores
    vocabulary.json        words, from number 2 on
    weights.safetensors    the network's tensors, the word vectors among them
    metrics.json           what the epoch gave, and what it was trained with
    initial.safetensors    the word vectors before training, and how often each word was seen (to compare)
    state.safetensors      the optimisers' state (only to resume)
    progress.json          the epochs so far, and the place in the one that is not finished (only to resume)

Nothing is pickled: opening a stranger's checkpoint runs no code. Reading one needs no torch.
"""

import hashlib
import json
import platform
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from cluster import UsageError
from cluster.storage import (
    StorageError,
    absolute_path,
    as_local_folder,
    exists,
    is_uri,
    join,
    list_file_sizes,
    parent,
    read_text,
)
from jobs.config.experiment import Experiment, ExperimentError

FORMAT_VERSION = 1
MODEL_FILES = ("experiment.yaml", "labels.json", "vocabulary.json", "weights.safetensors", "metrics.json")
INITIAL_VECTORS_FILE = "initial.safetensors"
TRAINING_STATE_FILES = ("state.safetensors", "progress.json")


class CheckpointError(UsageError):
    """A folder is not a checkpoint, or not a whole one."""


@dataclass(frozen=True)
class Checkpoint:
    """A classifier. weights: the network's tensors by name: `fixed_vectors`, `vectors`, and those that
    `Network.parts` names."""

    experiment: Experiment
    labels: list[str]
    words: list[str]
    weights: dict[str, np.ndarray]
    metrics: dict[str, Any]
    path: str = ""
    """Its folder or URI; empty for one that was not read."""


@dataclass(frozen=True)
class InitialVectors:
    """Where word vectors came from; all but `scale` for the vocabulary up to the last word that training saw.

    vectors: `(seen, dimensions)` float32, empty where they are static; counts: `(seen,)` int64, of each word in
    the training texts; pretrained: `(seen,)` bool. Words from `seen` on are as they were. scale:
    `(vocabulary,)` float32, what each word's vector was multiplied by when it was read.
    """

    vectors: np.ndarray
    counts: np.ndarray
    pretrained: np.ndarray
    scale: np.ndarray


@dataclass(frozen=True)
class TrainingState:
    """What a run goes on from: the network's tensors, the optimisers' state, and how far it had come."""

    weights: dict[str, np.ndarray]
    optimizer_state: dict[str, np.ndarray]
    progress: dict[str, Any]


def collect_versions() -> dict[str, str]:
    """Return the versions a checkpoint is made with."""
    versions = {package: metadata.version(package) for package in ("torch", "ray", "gensim", "numpy")}
    return {"python": platform.python_version(), **versions}


def save_checkpoint(
    folder: Path,
    checkpoint: Checkpoint,
    optimizer_state: dict[str, np.ndarray] | None = None,
    progress: dict[str, Any] | None = None,
    initial_vectors: InitialVectors | None = None,
) -> None:
    """Write a checkpoint into an empty folder, the manifest last.

    Args:
        state, progress: what a resumed run needs.
        initial: where the word vectors came from.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "experiment.yaml").write_text(checkpoint.experiment.to_yaml(), encoding="utf-8")
    _write_json(folder / "labels.json", checkpoint.labels)
    _write_json(folder / "vocabulary.json", checkpoint.words)
    _write_json(folder / "metrics.json", checkpoint.metrics)
    _write_tensors(folder / "weights.safetensors", checkpoint.weights)
    names = list(MODEL_FILES)
    if initial_vectors is not None:
        _write_tensors(folder / INITIAL_VECTORS_FILE, vars(initial_vectors))
        names.append(INITIAL_VECTORS_FILE)
    if optimizer_state is not None and progress is not None:
        _write_tensors(folder / "state.safetensors", optimizer_state)
        _write_json(folder / "progress.json", progress)
        names += TRAINING_STATE_FILES
    files = {name: {"bytes": (folder / name).stat().st_size, "sha256": _sha256(folder / name)} for name in names}
    _write_json(folder / "manifest.json", {"format": FORMAT_VERSION, "files": files})


def resolve_checkpoint(path: str) -> str:
    """Return the checkpoint folder that a path means: itself, or what a best.json (or its folder) names.

    Raises:
        CheckpointError: there is neither.
    """
    given = path = absolute_path(path)
    if not path.partition("?")[0].endswith(".json"):
        if exists(join(path, "manifest.json")):
            return path
        path = join(path, "best.json")
    if not exists(path):
        raise CheckpointError(f"{given}: holds neither a checkpoint nor a best.json")
    try:
        named = json.loads(read_text(path))["checkpoint"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: does not name a checkpoint: {error!r}") from error
    if not isinstance(named, str):
        raise CheckpointError(f"{path}: does not name a checkpoint but {named!r}")
    return named if is_uri(named) or Path(named).is_absolute() else join(parent(path), named)


def load_checkpoint(path: str) -> Checkpoint:
    """Return the checkpoint at a folder, URI or best.json.

    Raises:
        CheckpointError: it is missing, incomplete, altered, or of a newer format.
    """
    where = resolve_checkpoint(path)
    try:
        with as_local_folder(where) as folder:
            _verify(where, folder, MODEL_FILES)
            return Checkpoint(
                experiment=_parse_settings((folder / "experiment.yaml").read_text("utf-8")),
                labels=_read_json(folder / "labels.json"),
                words=_read_json(folder / "vocabulary.json"),
                weights=load_file(folder / "weights.safetensors"),
                metrics=_read_json(folder / "metrics.json"),
                path=where,
            )
    except (OSError, ValueError, ExperimentError, StorageError) as error:
        raise CheckpointError(f"{where}: cannot be read: {error}") from error


def _parse_settings(text: str) -> Experiment:
    """Return the experiment of a YAML text without aliases, of which a few lines can make a value of gigabytes."""
    if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
        raise ValueError("experiment.yaml: has an alias, which no checkpoint of ours has")
    return Experiment.model_validate(yaml.safe_load(text))


def verify_sizes(path: str) -> None:
    """Raise CheckpointError unless all files that a checkpoint's manifest names are there, in their sizes.

    Nothing but the manifest is read, so this costs little wherever the checkpoint lies.
    """
    try:
        files = json.loads(read_text(join(path, "manifest.json")))["files"]
        found = list_file_sizes(path)
    except (StorageError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: is not a whole checkpoint: {error!r}") from error
    lost = [name for name, facts in files.items() if found.get(name) != facts["bytes"]]
    if lost:
        raise CheckpointError(f"{path}: is not a whole checkpoint: {', '.join(lost)} missing or cut off")


def load_initial_vectors(path: str) -> InitialVectors | None:
    """Return where a checkpoint's word vectors came from; None in one of an earlier version."""
    where = resolve_checkpoint(path)
    try:
        with as_local_folder(where) as folder:
            if INITIAL_VECTORS_FILE not in _read_json(folder / "manifest.json")["files"]:
                return None
            _verify(where, folder, (INITIAL_VECTORS_FILE,))
            return InitialVectors(**load_file(folder / INITIAL_VECTORS_FILE))
    except (OSError, ValueError, TypeError, StorageError) as error:
        raise CheckpointError(f"{where}: cannot be read: {error}") from error


def load_training_state(folder: Path) -> TrainingState:
    """Return what a run goes on from, of a checkpoint that was written with it.

    Raises:
        CheckpointError: it is incomplete or altered.
    """
    _verify(str(folder), folder, ("weights.safetensors", *TRAINING_STATE_FILES))
    try:
        return TrainingState(
            load_file(folder / "weights.safetensors"),
            load_file(folder / "state.safetensors"),
            _read_json(folder / "progress.json"),
        )
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder}: cannot be read: {error}") from error


def verify_checksums(path: str) -> None:
    """Do nothing if a folder or URI holds a whole classifier.

    Raises:
        CheckpointError: it is missing, incomplete, altered, or of a newer format.
    """
    try:
        with as_local_folder(path) as folder:
            _verify(path, folder, MODEL_FILES)
    except (OSError, StorageError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error


def _verify(where: str, folder: Path, names: tuple[str, ...]) -> None:
    try:
        manifest = _read_json(folder / "manifest.json")
        version, files = manifest["format"], manifest["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{where}: has no readable manifest.json: {error!r}") from error
    if version != FORMAT_VERSION:
        raise CheckpointError(f"{where}: is of format {version}; this version reads format {FORMAT_VERSION}")
    for name in names:
        if name not in files or not (folder / name).is_file():
            raise CheckpointError(f"{where}: lacks {name}")
        if _sha256(folder / name) != files[name]["sha256"]:
            raise CheckpointError(f"{where}: {name} is not what the manifest says; it was altered or cut off")


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _write_tensors(path: Path, tensors: dict[str, np.ndarray]) -> None:
    try:
        save_file({key: np.ascontiguousarray(value) for key, value in tensors.items()}, path)
    except SafetensorError as error:  # as when the disk is full
        raise OSError(str(error)) from error


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
