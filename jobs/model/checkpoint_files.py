"""Files of a checkpoint: written once, and read only if they match the manifest and have a harmless form.

A checkpoint may come from anywhere. Nothing in it is pickled, texts have a limit, and nested or self-referring texts
are errors, so that no file can run code or fill the memory.
"""

import glob
import hashlib
import itertools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from safetensors.numpy import load_file

from cluster import UsageError
from cluster.storage import StorageError, join, list_file_sizes, read_text
from jobs.config.abstention import validate_abstention
from jobs.config.experiment import MAX_YAML_BYTES, Experiment, add_earlier_values
from jobs.config.limits import MAX_TEMPERATURE, MIN_TEMPERATURE
from jobs.config.text_distribution import validate_distribution

READABLE_FORMATS = (1, 2, 3)
MODEL_CARD_FILE = "README.md"  # people may edit it
# Limits of the files of text, in bytes.
MAX_TEXT_BYTES = {
    "experiment.yaml": MAX_YAML_BYTES,
    "labels.json": 64 << 20,
    "vocabulary.json": 1 << 30,
    "progress.json": 64 << 20,
}
DEFAULT_MAX_TEXT_BYTES = 16 << 20  # metrics.json has a threshold for each label
YAML_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml takes a tenth of the time
MAX_YAML_DEPTH = 50  # the time to parse grows with its square
MAX_MESSAGE_CHARACTERS = 500

# Types of the values of metrics.json that reports read; other values are copied as they are.
METRIC_TYPES: dict[str, type | tuple[type, ...]] = {
    "epoch": int,
    "rows": int,
    "validation_rows": int,
    "accuracy": (int, float, type(None)),
    "held_out": str,
    "versions": dict,
    "started_from": dict,
    "quantization": dict,
    "temperature": (int, float),
    "label_thresholds": dict,
}


class CheckpointError(UsageError):
    """A folder is not a checkpoint, or the checkpoint is incomplete, altered or malformed."""


class VerifiedFiles:
    """Files of a checkpoint on this machine; each is compared with the manifest's SHA-256 when it is read.

    location: path or URI for error messages. format: version of the checkpoint's format.
    """

    def __init__(self, location: str, folder: Path) -> None:
        self._location, self._folder = location, folder
        try:
            content = _read_limited(folder / "manifest.json")
            self.manifest_sha256 = hashlib.sha256(content).hexdigest()
            manifest = parse_json("manifest.json", content.decode("utf-8"))
            version, files = manifest["format"], manifest["files"]
            if version in READABLE_FORMATS:
                self.format: int = version
                self._checksums: dict[str, str] = {name: entry["sha256"] for name, entry in files.items()}
                self._sizes: dict[str, int | None] = {name: entry.get("bytes") for name, entry in files.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{location}: has no readable manifest.json: {shorten_error(error)}") from error
        if version not in READABLE_FORMATS:
            formats = ", ".join(map(str, READABLE_FORMATS))
            raise CheckpointError(f"{location}: is of format {version}; this version reads formats {formats}")

    def __contains__(self, name: str) -> bool:
        return name in self._checksums

    def verify(self, name: str) -> Path:
        """Return the path of a file whose content matches the manifest; CheckpointError otherwise."""
        path = self._path(name)
        self._compare(name, sha256(path))
        return path

    def size(self, name: str) -> int | None:
        """Return the bytes of a file in the manifest; None if it is not in it."""
        return self._sizes.get(name)

    def checksum(self, name: str) -> str:
        """Return the SHA-256 of a file in the manifest."""
        return self._checksums[name]

    def read_text(self, name: str) -> str:
        content = _read_limited(self._path(name))
        self._compare(name, hashlib.sha256(content).hexdigest())
        return content.decode("utf-8")

    def read_edited_text(self, name: str) -> str | None:
        """Return a text that a person has edited since it was written; None if it is unchanged or does not exist."""
        path = self._folder / name
        if not path.is_file():
            return None
        content = _read_limited(path)
        is_unchanged = hashlib.sha256(content).hexdigest() == self._checksums.get(name)
        return None if is_unchanged else content.decode("utf-8")

    def read_json(self, name: str) -> Any:
        return parse_json(name, self.read_text(name))

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


def verify_sizes(path: str) -> None:
    """Compare the sizes of all files but the model card with the manifest.

    Only the manifest is read, so this is fast at any location.

    Raises:
        CheckpointError: a file is missing or has another size.
    """
    try:
        files = read_json(join(path, "manifest.json"))["files"]
        sizes = list_file_sizes(path)
        damaged = [name for name in files if name != MODEL_CARD_FILE and sizes.get(name) != files[name]["bytes"]]
    except (CheckpointError, StorageError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: is an incomplete checkpoint: {error!r}") from error
    if damaged:
        raise CheckpointError(f"{path}: is an incomplete checkpoint: {', '.join(damaged)} missing or truncated")


def read_json(path: str, max_bytes: int = DEFAULT_MAX_TEXT_BYTES) -> Any:
    """Return the value of a small JSON file at a path or URI.

    Raises:
        CheckpointError: it cannot be read, is longer than `max_bytes`, or is not JSON.
    """
    try:
        return parse_json(path, read_text(path, max_bytes))
    except (StorageError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read: {shorten_error(error)}") from error


def parse_json(name: str, text: str) -> Any:
    """Return the value of a JSON text; ValueError if it is not JSON, or nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError(f"{name}: is nested too deeply") from error


def parse_yaml(name: str, text: str) -> Any:
    """Return the value of a YAML text. An alias is an error, since a few lines of them expand to gigabytes.

    Raises:
        ValueError: it is not YAML, contains an alias, or is nested too deeply.
    """
    depth = 0
    try:
        for event in yaml.parse(text, YAML_LOADER):
            if isinstance(event, yaml.AliasEvent):
                raise ValueError(f"{name}: contains a YAML alias, which a checkpoint may not have")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_YAML_DEPTH:
                raise ValueError(f"{name}: is nested too deeply")
        return yaml.load(text, YAML_LOADER)
    except yaml.YAMLError as error:
        raise ValueError(f"{name}: is not YAML: {error}") from error


def parse_settings(text: str) -> Experiment:
    """Return the settings of an experiment.yaml; ValueError as for `parse_yaml`, or if they are invalid."""
    tree = parse_yaml("experiment.yaml", text)
    return Experiment.model_validate(add_earlier_values(tree) if isinstance(tree, dict) else tree)


def validate_metrics(metrics: object, num_classes: int | None = None) -> None:
    """Raise a CheckpointError if a value of metrics.json that is read is of another type, or out of range.

    Args:
        num_classes: of the checkpoint; None if it is not known.
    """
    if not isinstance(metrics, dict):
        raise CheckpointError("metrics.json: is not an object")
    for name, types in METRIC_TYPES.items():
        if name in metrics and not isinstance(metrics[name], types):
            raise CheckpointError(f"metrics.json: '{name}' is {str(metrics[name])[:50]!r}")
    temperature = metrics.get("temperature", 1.0)
    if not MIN_TEMPERATURE <= temperature <= MAX_TEMPERATURE:
        raise CheckpointError(f"metrics.json: 'temperature' is {str(temperature)[:50]}")
    for name, validate in (("abstention", validate_abstention), ("distribution", validate_distribution)):
        if name in metrics:
            try:
                validate(metrics[name], num_classes)
            except ValueError as error:
                raise CheckpointError(f"metrics.json: '{name}': {error}") from error
    thresholds = metrics.get("label_thresholds", {"values": []}).get("values")
    if not isinstance(thresholds, list) or not all(
        type(value) in (int, float) and 0 <= value <= 1 for value in thresholds
    ):
        raise CheckpointError(f"metrics.json: 'label_thresholds' has the values {str(thresholds)[:50]}")


def write_file(path: Path, write: Callable[[Path], None]) -> str:
    """Write a file with a function, and return its SHA-256; OSError if it cannot be written."""
    write(path)
    return sha256(path)


def write_text(path: Path, text: str) -> None:
    """Write a text of a checkpoint; CheckpointError if no reader would accept its length."""
    content, limit = text.encode("utf-8"), text_limit(path.name)
    if len(content) > limit:
        raise CheckpointError(f"{path.name}: would have {len(content):,} bytes; a reader accepts {limit:,}")
    path.write_bytes(content)


def write_json(path: Path, value: object) -> None:
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


class SharedFiles:
    """Files that do not change in a run: one file (hard link) in all checkpoints that this process writes.

    A checkpoint is complete all the same, and deleting another one does not matter. Trials of a search share files too.
    Files that another process wrote are not linked: they may be damaged.
    """

    def __init__(self) -> None:
        self._checksums: dict[str, str] = {}

    def write(self, path: Path, write: Callable[[Path], None]) -> str:
        """Write a file, or link it to that of another checkpoint in the same storage, and return its SHA-256.

        Args:
            write: writes the file, with the same content for each checkpoint of the run.

        Raises:
            OSError: it cannot be written.
        """
        checksum = self._checksums.get(path.name)
        if checksum is not None and _link(path, checksum):
            return checksum
        self._checksums[path.name] = checksum = write_file(path, write)
        if not _link(path, checksum):
            _written[_identify(path)] = checksum
        return checksum


_written: dict[tuple[int, ...], str] = {}
"""SHA-256 of the files that this process wrote, by what identifies them."""


def _link(path: Path, checksum: str) -> bool:
    """Make a file a link to that of another checkpoint of the run, or else of another run or trial next to it.

    Returns:
        False if there is no other, or if the file system has no links.
    """
    run = path.parent.parent
    part = path.with_name(f".{path.name}")
    # Unlike Path.glob, these ignore folders that another thread renames or removes meanwhile.
    in_run = (run / match for match in glob.iglob(f"epoch-*/{path.name}", root_dir=run))
    next_to_it = (run.parent / match for match in glob.iglob(f"*/epoch-*/{path.name}", root_dir=run.parent))
    for other in itertools.chain(in_run, next_to_it):
        try:
            if _written.get(_identify(other)) == checksum:
                os.link(other, part)
                os.replace(part, path)
                return True
        except OSError:
            continue
    return False


def _identify(path: Path) -> tuple[int, ...]:
    """Return numbers that identify a file, and change when its content is changed."""
    status = path.stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def text_limit(name: str) -> int:
    """Return the most bytes of a file of text that a reader accepts."""
    return MAX_TEXT_BYTES.get(name, DEFAULT_MAX_TEXT_BYTES)


def _read_limited(path: Path) -> bytes:
    limit = text_limit(path.name)
    if not path.is_file():  # a pipe would be read forever
        raise ValueError(f"{path.name}: is not a file")
    with path.open("rb") as stream:
        content = stream.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"{path.name}: is longer than {limit:,} bytes")
    return content


def shorten_error(error: Exception) -> str:
    """Return the message of an error, or its start."""
    message = str(error) if isinstance(error, UsageError | ValueError | OSError) else repr(error)
    return message if len(message) <= MAX_MESSAGE_CHARACTERS else f"{message[:MAX_MESSAGE_CHARACTERS]}..."
