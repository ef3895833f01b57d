"""Checkpoint: a trained classifier as a folder, with everything needed to classify, to resume, and to trace its origin.

    manifest.json          format version; size and SHA-256 of every other file
    experiment.yaml        all settings
    labels.json            classes, in the order of the scores
    vocabulary.json        words; the first one has id 2
    weights.safetensors    the network's tensors, including the word vectors
    metrics.json           metrics of the epoch, and provenance: rows, held-out part, versions
    initial.safetensors    word vectors and word counts before training (to compare)
    state.safetensors      state of the optimizers (only to resume)
    progress.json          finished epochs, and the position in the unfinished one (only to resume)

Nothing is pickled: opening an untrusted checkpoint runs no code. Reading one needs no torch.
"""

import hashlib
import json
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from cluster import UsageError, __version__
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
    write_json,
)
from jobs.config.experiment import Experiment, ExperimentError

FORMAT_VERSION = 1
MODEL_FILES = ("experiment.yaml", "labels.json", "vocabulary.json", "weights.safetensors", "metrics.json")
INITIAL_VECTORS_FILE = "initial.safetensors"
TRAINING_STATE_FILES = ("state.safetensors", "progress.json")


class CheckpointError(UsageError):
    """A folder is not a checkpoint, or the checkpoint is incomplete or altered."""


@dataclass(frozen=True)
class Checkpoint:
    """A trained classifier.

    words: the vocabulary without padding and the unknown word, so words[i] has id i + 2. weights: the network's
    tensors, float32: `fixed_vectors` and `vectors`, as far as the embedding has them, and those that
    `Network.to_checkpoint_tensors` names. path: folder or URI that it was read from; empty if it was not read.
    manifest_sha256: of the manifest that the files were compared with; it identifies the contents.
    """

    experiment: Experiment
    labels: list[str]
    words: list[str]
    weights: dict[str, np.ndarray]
    metrics: dict[str, Any]
    path: str = ""
    manifest_sha256: str = ""


@dataclass(frozen=True)
class InitialVectors:
    """Word vectors before training. The train words are those up to the last one of the training texts.

    vectors: `(train words, dimensions)` float32, empty if static; counts: `(train words,)` int64, of each word in the
    training texts; pretrained: `(train words,)` bool. Other words are unchanged in the checkpoint.
    scale: `(vocabulary,)` float32, factor by which each word's vector was multiplied when it was read.
    """

    vectors: np.ndarray
    counts: np.ndarray
    pretrained: np.ndarray
    scale: np.ndarray


@dataclass(frozen=True)
class TrainingState:
    """State that a run resumes from: the network's tensors, the optimizers' state, and the progress."""

    weights: dict[str, np.ndarray]
    optimizer_state: dict[str, np.ndarray]
    progress: dict[str, Any]


def collect_versions() -> dict[str, str]:
    """Return the versions of this project, Python and libraries, for the provenance of a checkpoint."""
    libraries = {package: metadata.version(package) for package in ("torch", "ray", "gensim", "numpy")}
    return {"finetune-cnn": __version__, "python": platform.python_version(), **libraries}


def save_checkpoint(
    folder: Path,
    checkpoint: Checkpoint,
    optimizer_state: dict[str, np.ndarray] | None = None,
    progress: dict[str, Any] | None = None,
    initial_vectors: InitialVectors | None = None,
) -> None:
    """Write a checkpoint into an empty folder, the manifest last.

    Args:
        optimizer_state, progress: what a resumed run needs.
        initial_vectors: the word vectors before training.

    Raises:
        OSError, StorageError: a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "experiment.yaml").write_text(checkpoint.experiment.to_yaml(), encoding="utf-8")
    write_json(str(folder / "labels.json"), checkpoint.labels)
    write_json(str(folder / "vocabulary.json"), checkpoint.words)
    write_json(str(folder / "metrics.json"), checkpoint.metrics)
    _write_tensors(folder / "weights.safetensors", checkpoint.weights)
    names = list(MODEL_FILES)
    if initial_vectors is not None:
        _write_tensors(folder / INITIAL_VECTORS_FILE, vars(initial_vectors))
        names.append(INITIAL_VECTORS_FILE)
    if optimizer_state is not None and progress is not None:
        _write_tensors(folder / "state.safetensors", optimizer_state)
        write_json(str(folder / "progress.json"), progress)
        names += TRAINING_STATE_FILES
    files = {name: {"bytes": (folder / name).stat().st_size, "sha256": _sha256(folder / name)} for name in names}
    write_json(str(folder / "manifest.json"), {"format": FORMAT_VERSION, "files": files})


def resolve_checkpoint(path: str) -> str:
    """Return the checkpoint folder of a path: itself, or the one that a best.json (or its folder) names.

    Raises:
        CheckpointError: there is neither.
    """
    original = path = absolute_path(path)
    if not path.partition("?")[0].endswith(".json"):
        if exists(join(path, "manifest.json")):
            return path
        path = join(path, "best.json")
    if not exists(path):
        raise CheckpointError(f"{original}: contains neither a checkpoint nor a best.json")
    try:
        target = json.loads(read_text(path))["checkpoint"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: does not name a checkpoint: {error!r}") from error
    if not isinstance(target, str):
        raise CheckpointError(f"{path}: does not name a checkpoint but {target!r}")
    return target if is_uri(target) or Path(target).is_absolute() else join(parent(path), target)


def load_checkpoint(path: str) -> Checkpoint:
    """Return the checkpoint of a folder, URI or best.json.

    Raises:
        CheckpointError: it is missing, incomplete, altered, or of a newer format.
    """
    location = resolve_checkpoint(path)
    with _open_checkpoint(location) as files:
        return Checkpoint(
            experiment=_parse_settings(files.read_text("experiment.yaml")),
            labels=files.read_json("labels.json"),
            words=files.read_json("vocabulary.json"),
            weights=files.read_tensors("weights.safetensors"),
            metrics=files.read_json("metrics.json"),
            path=location,
            manifest_sha256=files.manifest_sha256,
        )


def load_initial_vectors(path: str) -> InitialVectors | None:
    """Return the word vectors before training; None for a checkpoint of an earlier version, which lacks them.

    Raises:
        CheckpointError: the checkpoint is missing, or the file is missing, altered, or of a newer format.
    """
    with _open_checkpoint(resolve_checkpoint(path)) as files:
        if INITIAL_VECTORS_FILE not in files:
            return None
        return InitialVectors(**files.read_tensors(INITIAL_VECTORS_FILE))


def load_training_state(folder: Path) -> TrainingState:
    """Return the state to resume from, of a checkpoint that was written with it.

    Raises:
        CheckpointError: it is incomplete or altered.
    """
    with _open_checkpoint(str(folder)) as files:
        return TrainingState(
            files.read_tensors("weights.safetensors"),
            files.read_tensors("state.safetensors"),
            files.read_json("progress.json"),
        )


def verify_checksums(path: str) -> None:
    """Read the files that classification needs and compare them with the manifest.

    Raises:
        CheckpointError: a file is missing, incomplete, altered, or of a newer format.
    """
    with _open_checkpoint(path) as files:
        for name in MODEL_FILES:
            files.verify(name)


def verify_sizes(path: str) -> None:
    """Compare the sizes of all files with the manifest. Only the manifest is read, so this is fast at any location.

    Raises:
        CheckpointError: a file is missing or has another size.
    """
    try:
        files = json.loads(read_text(join(path, "manifest.json")))["files"]
        sizes = list_file_sizes(path)
    except (StorageError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: is an incomplete checkpoint: {error!r}") from error
    damaged = [name for name, entry in files.items() if sizes.get(name) != entry["bytes"]]
    if damaged:
        raise CheckpointError(f"{path}: is an incomplete checkpoint: {', '.join(damaged)} missing or truncated")


class _VerifiedFiles:
    """Files of a checkpoint on this machine; each is compared with the manifest's SHA-256 when it is read.

    location: path or URI for error messages.
    """

    def __init__(self, location: str, folder: Path) -> None:
        self._location, self._folder = location, folder
        try:
            content = (folder / "manifest.json").read_bytes()
            self.manifest_sha256 = hashlib.sha256(content).hexdigest()
            manifest = json.loads(content)
            version, files = manifest["format"], manifest["files"]
            if version == FORMAT_VERSION:
                self._checksums = {name: entry["sha256"] for name, entry in files.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{location}: has no readable manifest.json: {error!r}") from error
        if version != FORMAT_VERSION:
            raise CheckpointError(f"{location}: is of format {version}; this version reads format {FORMAT_VERSION}")

    def __contains__(self, name: str) -> bool:
        return name in self._checksums

    def verify(self, name: str) -> Path:
        """Return the path of a file whose content matches the manifest; CheckpointError otherwise."""
        path = self._path(name)
        self._compare(name, _sha256(path))
        return path

    def read_text(self, name: str) -> str:
        content = self._path(name).read_bytes()
        self._compare(name, hashlib.sha256(content).hexdigest())
        return content.decode("utf-8")

    def read_json(self, name: str) -> Any:
        return json.loads(self.read_text(name))

    def read_tensors(self, name: str) -> dict[str, np.ndarray]:
        # Hashed as a stream: with the file's bytes in memory, the tensors would be there twice.
        return load_file(self.verify(name))

    def _path(self, name: str) -> Path:
        path = self._folder / name
        if name not in self._checksums or not path.is_file():
            raise CheckpointError(f"{self._location}: lacks {name}")
        return path

    def _compare(self, name: str, checksum: str) -> None:
        if checksum != self._checksums[name]:
            raise CheckpointError(f"{self._location}: {name} does not match the manifest; it was altered or truncated")


@contextmanager
def _open_checkpoint(location: str) -> Iterator[_VerifiedFiles]:
    """Yield the files of a folder or URI, copied to this machine if needed; CheckpointError if one cannot be read."""
    try:
        with as_local_folder(location) as folder:
            yield _VerifiedFiles(location, folder)
    except (OSError, ValueError, TypeError, yaml.YAMLError, ExperimentError, StorageError, SafetensorError) as error:
        raise CheckpointError(f"{location}: cannot be read: {error}") from error


def _parse_settings(text: str) -> Experiment:
    """Return the experiment of a YAML text; an alias is an error, since a few lines of them expand to gigabytes."""
    if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
        raise ValueError("experiment.yaml: contains a YAML alias, which a checkpoint may not have")
    return Experiment.model_validate(yaml.safe_load(text))


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _write_tensors(path: Path, tensors: dict[str, np.ndarray]) -> None:
    try:
        save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, path)
    except SafetensorError as error:  # for instance, the disk is full
        raise OSError(str(error)) from error
