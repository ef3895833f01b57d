"""Checkpoint: a trained classifier as a folder, with everything needed to classify, to resume, and to trace its origin.

    manifest.json          format version; size and SHA-256 of every other file
    README.md              model card, for people and the Hugging Face Hub; it may be edited
    experiment.yaml        all settings
    labels.json            classes, in the order of the scores
    vocabulary.json        words; the first one has id 2
    weights.safetensors    the network's tensors, including the word vectors; quantized ones in format 3
    untrained.safetensors  word vectors that training does not change, if weights.safetensors lacks them (format 2),
                           and the tensors of a linear classifier, except its scale
    metrics.json           metrics of the epoch, temperature, thresholds of labels and of abstention, and
                           provenance: rows, held-out part, versions; the distribution of the validation rows
    initial.safetensors    word vectors and word counts before training (to compare)
    train-texts.safetensors  64-bit digests of the training texts (to recognize them in a test part)
    state.safetensors      state of the optimizers (only to resume)
    progress.json          finished epochs, and the position in the unfinished one (only to resume)

Files that do not change in a run are the same files (hard links) in all checkpoints that one process wrote, where the
file system has links; an object store copies them itself. So every checkpoint is complete. Nothing is pickled: opening
an untrusted checkpoint runs no code. Reading one needs no torch.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from jobs.config.experiment import Experiment
from jobs.config.label_thresholds import DEFAULT_THRESHOLD
from jobs.datasets.tokenization.installed import describe_other_version
from jobs.datasets.tokenizer import Vocabulary, count_separate_marks
from jobs.model.checkpoint_files import (
    MODEL_CARD_FILE,
    SharedFiles,
    VerifiedFiles,
    parse_settings,
    validate_metrics,
    write_file,
    write_json,
    write_text,
)
from jobs.model.checkpoint_files import CheckpointError as CheckpointError
from jobs.model.checkpoint_files import verify_sizes as verify_sizes
from jobs.model.checkpoint_locations import MODEL_FILES, open_checkpoint, resolve_checkpoint
from jobs.model.checkpoint_tensors import UNTRAINED_VECTORS_FILE, is_quantized, read_weights, write_tensors

logger = logging.getLogger(__name__)

INITIAL_VECTORS_FILE = "initial.safetensors"
TRAIN_TEXTS_FILE = "train-texts.safetensors"


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

    @property
    def temperature(self) -> float:
        """Divisor of the logits before softmax; 1 if an earlier version wrote the checkpoint."""
        return float(self.metrics.get("temperature", 1.0))

    @property
    def vocabulary(self) -> Vocabulary:
        """Vocabulary of the words, a new one each time."""
        return Vocabulary(self.words, self.experiment.text.max_edit_distance)

    @property
    def is_multi_label(self) -> bool:
        """Whether a text may have several labels, with scores that do not depend on each other."""
        return self.experiment.data.is_multi_label

    @property
    def label_thresholds(self) -> np.ndarray:
        """Score from which a text gets each label, `(labels,)` float64; 0.5 in a checkpoint within an epoch."""
        values = self.metrics.get("label_thresholds", {}).get("values")
        return np.full(len(self.labels), DEFAULT_THRESHOLD) if values is None else np.array(values, np.float64)


@dataclass(frozen=True)
class InitialVectors:
    """Word vectors before training. The train words are those up to the last one of the training texts.

    vectors: `(train words, dimensions)` float32, empty if static; counts: `(train words,)` int64, of each word in the
    training texts. Other words are unchanged in the checkpoint.
    pretrained: `(vocabulary,)` bool, whether each word's vector came from a file. scale: `(vocabulary,)` float32,
    factor by which it was multiplied when it was read.
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


@dataclass(frozen=True)
class RunConstants:
    """Parts of a checkpoint that do not change in a run, apart from settings, labels and words.

    initial_vectors: before training; None to leave them out. untrained: tensors that training does not change, by the
    names of `weights`; `vectors` has only the rows after the trained ones, and is left out if it repeats those of
    `fixed_vectors`.
    train_texts: digests of the training texts, `(texts,)` uint64; None to leave them out. files: those that hold
    these parts, shared between checkpoints; None to write them for each checkpoint.
    """

    initial_vectors: InitialVectors | None
    untrained: dict[str, np.ndarray]
    train_texts: np.ndarray | None
    files: SharedFiles | None = field(default_factory=SharedFiles)


def save_checkpoint(
    folder: Path,
    checkpoint: Checkpoint,
    optimizer_state: dict[str, np.ndarray] | None = None,
    progress: dict[str, Any] | None = None,
    constants: RunConstants | None = None,
    card: str | None = None,
) -> None:
    """Write a checkpoint into an empty folder, the manifest last.

    Args:
        checkpoint: with constants, its weights lack those that `constants.untrained` has; its weights may be quantized.
        optimizer_state, progress: what a resumed run needs.
        constants: word vectors before training, and others that do not change in a run; None to leave them out.
        card: the model card, Markdown; None to write none.

    Raises:
        OSError: a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    changing: dict[str, Callable[[Path], None]] = {
        "weights.safetensors": partial(write_tensors, tensors=checkpoint.weights),
        "metrics.json": partial(write_json, value=checkpoint.metrics),
    }
    if card is not None:
        changing[MODEL_CARD_FILE] = partial(write_text, text=card)
    if optimizer_state is not None and progress is not None:
        changing["state.safetensors"] = partial(write_tensors, tensors=optimizer_state)
        changing["progress.json"] = partial(write_json, value=progress)
    constant: dict[str, Callable[[Path], None]] = {
        "experiment.yaml": lambda path: write_text(path, checkpoint.experiment.to_yaml()),
        "labels.json": partial(write_json, value=checkpoint.labels),
        "vocabulary.json": partial(write_json, value=checkpoint.words),
    }
    if constants is not None:
        if constants.initial_vectors is not None:
            constant[INITIAL_VECTORS_FILE] = partial(write_tensors, tensors=vars(constants.initial_vectors))
        if constants.untrained:
            constant[UNTRAINED_VECTORS_FILE] = partial(write_tensors, tensors=constants.untrained)
        if constants.train_texts is not None:
            constant[TRAIN_TEXTS_FILE] = partial(write_tensors, tensors={"digests": constants.train_texts})
    files = {}
    for name, write in (changing | constant).items():
        shared = constants.files if constants is not None and name in constant else None
        checksum = (shared.write if shared else write_file)(folder / name, write)
        files[name] = {"sha256": checksum, "bytes": (folder / name).stat().st_size}
    version = 3 if is_quantized(checkpoint.weights) else 2 if UNTRAINED_VECTORS_FILE in files else 1
    write_json(folder / "manifest.json", {"format": version, "files": files})


def load_checkpoint(
    path: str, check: Callable[[list[str], bool], None] = lambda labels, is_multi_label: None
) -> Checkpoint:
    """Return the checkpoint of a folder, URI or best.json.

    Args:
        check: called with the labels, and whether a text may have several, before the larger files are read.

    Raises:
        CheckpointError: it is missing, incomplete, altered, malformed, or of a newer format; or `check` raises it.
    """
    location = resolve_checkpoint(path)
    with open_checkpoint(location) as files:
        experiment = parse_settings(files.read_text("experiment.yaml"))
        labels = _read_labels(files)
        check(labels, experiment.data.is_multi_label)
        metrics = files.read_json("metrics.json")
        validate_metrics(metrics, len(labels))
        words = validate_names("vocabulary.json", files.read_json("vocabulary.json"))
        weights = read_weights(files)
        checkpoint = Checkpoint(experiment, labels, words, weights, metrics, location, files.manifest_sha256)
    if warning := describe_other_version(checkpoint.experiment.text.tokenizer, checkpoint.metrics.get("versions", {})):
        logger.warning(f"{location}: {warning}")
    if (separate_marks := count_separate_marks(checkpoint.words)) > 2:  # one or two may be tokens of the texts
        logger.warning(
            f"{location}: {separate_marks} words begin with a combining mark: an earlier version, which divided words "
            "there, trained it; train again"
        )
    return checkpoint


def load_labels(path: str | None) -> list[str]:
    """Return the labels of a checkpoint, if there is one, without reading its larger files; errors as of
    `load_checkpoint`."""
    if path is None:
        return []
    with open_checkpoint(resolve_checkpoint(path)) as files:
        return _read_labels(files)


def load_initial_vectors(path: str) -> InitialVectors | None:
    """Return the word vectors before training; None for a checkpoint of an earlier version, which lacks them.

    Raises:
        CheckpointError: the checkpoint is missing, or the file is missing, altered, or of a newer format.
    """
    with open_checkpoint(resolve_checkpoint(path)) as files:
        if INITIAL_VECTORS_FILE not in files:
            return None
        tensors = files.read_tensors(INITIAL_VECTORS_FILE)
    # Earlier versions wrote those of the train words only; all others came from the file.
    others = np.ones(len(tensors["scale"]) - len(tensors["pretrained"]), bool)
    return InitialVectors(**tensors | {"pretrained": np.concatenate([tensors["pretrained"], others])})


def load_train_texts(path: str) -> np.ndarray | None:
    """Return the digests of the training texts, sorted, `(texts,)` uint64; None if the checkpoint lacks them.

    Raises:
        CheckpointError: as for `load_initial_vectors`.
    """
    with open_checkpoint(resolve_checkpoint(path)) as files:
        return files.read_tensors(TRAIN_TEXTS_FILE)["digests"] if TRAIN_TEXTS_FILE in files else None


def load_training_state(folder: Path) -> TrainingState:
    """Return the state to resume from, of a checkpoint that was written with it.

    Raises:
        CheckpointError: it is incomplete or altered.
    """
    with open_checkpoint(str(folder)) as files:
        return TrainingState(
            read_weights(files),
            files.read_tensors("state.safetensors"),
            files.read_json("progress.json"),
        )


def verify_checksums(path: str) -> None:
    """Read all files but the model card and those that only resuming needs, and compare them with the manifest.

    Raises:
        CheckpointError: a file is missing, incomplete, altered, or of a newer format.
    """
    with open_checkpoint(path) as files:
        optional = (UNTRAINED_VECTORS_FILE, INITIAL_VECTORS_FILE, TRAIN_TEXTS_FILE)
        for name in (*MODEL_FILES, *(name for name in optional if name in files)):
            files.verify(name)


def _read_labels(files: VerifiedFiles) -> list[str]:
    return validate_names("labels.json", files.read_json("labels.json"))


def validate_names(file: str, names: object) -> list[str]:
    """Return a value; CheckpointError unless it is a list of different strings.

    Args:
        file: name of the file that it comes from.
    """
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise CheckpointError(f"{file}: is not a list of strings")
    if len(set(names)) != len(names):
        raise CheckpointError(f"{file}: contains duplicates")
    return names
