"""Training on rows in memory without a run folder: in this process, or on the workers of a Ray cluster."""

import logging
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from cluster.storage import absolute_path, join, remove_folder, write_text
from jobs.config.conflicts import check_settings
from jobs.config.experiment import Experiment
from jobs.datasets.dataset import Dataset
from jobs.embeddings.word_vectors import WordVectors
from jobs.model.checkpoint import (
    Checkpoint,
    RunConstants,
    load_checkpoint,
    load_initial_vectors,
    load_train_texts,
)
from jobs.model.linear.tensors import PREFIX
from jobs.training.continuation import continue_training, load_start_weights
from jobs.training.corpora.building import build_corpus
from jobs.training.corpora.corpus import Corpus
from jobs.training.history import Epoch
from jobs.training.loop import Loop, create_loop
from jobs.training.run_files.checkpoint_store import checkpoint_name
from jobs.training.run_files.run_folder import RunFolder
from jobs.training.run_files.snapshot import capture
from jobs.training.run_files.trackers import connect_trackers, track_run

logger = logging.getLogger(__name__)

EpochCallback = Callable[[Epoch], None]


@dataclass(frozen=True)
class TrainedModel:
    """Result of a training: the network of the best epoch, and what a saved checkpoint has beside it."""

    checkpoint: Checkpoint
    constants: RunConstants
    epochs: list[Epoch]


def train_dataset(
    experiment: Experiment,
    dataset: Dataset,
    callbacks: Sequence[EpochCallback] = (),
    initial: TrainedModel | None = None,
) -> TrainedModel:
    """Train in this process, and return the best epoch.

    With a vectors file, or random vectors, it is the same as that of `jobs.training.train`, bit for bit.

    Args:
        dataset: its test part may be empty.
        callbacks: called after each epoch. StopIteration of one ends the training, when all have been called.
        initial: model to start from; by default a new one. Without a vectors file its words have their vectors from
            before its training.

    Raises:
        ValueError: `initial` has other classes or a network of another size.
        TrainingDiverged, and the errors of settings and of reading vectors.
    """
    vectors = None
    if initial is not None and experiment.vectors.path is None and experiment.model.embedding != "rand":
        vectors = restore_vectors(initial)
    # A model with random vectors has none of a file.
    experiment, corpus = build_memory_corpus(experiment, dataset, vectors if vectors and vectors.words else None)
    from cluster.resources import use_own_gpu  # imports Ray, which a loaded model does not need

    use_gpu = use_own_gpu(experiment.train.use_gpu)
    with tempfile.TemporaryDirectory() as scratch, _THREAD_LIMIT.limit(experiment.train.cpus_per_worker):
        loop = create_loop(experiment, corpus, device="cuda" if use_gpu else "cpu")
        if experiment.train.start_from is not None:
            load_start_weights(loop.network, corpus, load_checkpoint(experiment.train.start_from))
        if initial is not None:
            _copy_weights(initial.checkpoint, loop)
        best: Path | None = None
        for epoch, is_best in loop.train_epochs():
            if is_best:
                previous, best = best, Path(scratch, checkpoint_name(epoch.epoch))
                capture(experiment, corpus, loop, resumable=False)(best)
                if previous is not None:
                    shutil.rmtree(previous)
            if call_callbacks(callbacks, epoch):
                break
        assert best is not None, "the first epoch is the best one so far"
        return load_trained(str(best), loop.progress.epochs)


def train_on_workers(
    experiment: Experiment, dataset: Dataset, storage: str | None, callbacks: Sequence[EpochCallback] = ()
) -> TrainedModel:
    """Train with Ray Train on `train.workers` workers, and return the best epoch.

    They run on the Ray that this process is connected to, on the cluster of RAY_ADDRESS, or on an embedded Ray.

    Args:
        storage: folder or URI that every node can access, for the checkpoints meanwhile; None for a temporary folder
            of this machine.
        callbacks: called in this process after each epoch, as reports of it arrive. An error ends the training late:
            it is raised after the last epoch. StopIteration is a warning: it cannot end the training of the workers.
    """
    from cluster.connection import connect
    from jobs.training.monitor import RunStatus
    from jobs.training.train import fit, require_resources

    errors: list[Exception] = []

    def call_all(epoch: Epoch) -> None:
        try:
            if not errors and call_callbacks(callbacks, epoch):
                logger.warning("a callback raised StopIteration, which workers ignore; set patience or n_workers=None")
        except Exception as error:  # in a thread of the monitor, which would end with it
            errors.append(error)

    experiment, corpus = build_memory_corpus(experiment, dataset)
    with connect(), temporary_storage(storage) as folder:
        use_gpu, _ = require_resources(experiment)
        run = RunFolder(folder, "workers")
        write_text(join(run.path, "experiment.yaml"), experiment.to_yaml())  # the workers require it
        result = fit(experiment, corpus, run, use_gpu, RunStatus(time.time(), on_epoch=call_all))
        if errors:
            raise errors[0]
        return load_trained(join(run.path, checkpoint_name(result.progress.best)), result.progress.epochs)


def call_callbacks(callbacks: Sequence[EpochCallback], epoch: Epoch) -> bool:
    """Call all callbacks with an epoch, and return whether one of them has raised StopIteration."""
    stopped = False
    for call in callbacks:
        try:
            call(epoch)
        except StopIteration:
            stopped = True
    return stopped


def load_trained(path: str, epochs: list[Epoch]) -> TrainedModel:
    """Return the model of a checkpoint, which may be removed afterwards."""
    checkpoint = replace(load_checkpoint(path), path="", manifest_sha256="")
    constants = RunConstants(load_initial_vectors(path), {}, load_train_texts(path), files=None)
    return TrainedModel(checkpoint, constants, epochs)


def build_memory_corpus(
    experiment: Experiment, dataset: Dataset, vectors: WordVectors | None = None
) -> tuple[Experiment, Corpus]:
    """Return the experiment and the corpus of rows in memory, after checks of the settings.

    Vectors trained on the rows are not stored. With `train.start_from`, both are those of `continue_training`.

    Args:
        vectors: word vectors to start from; by default those of the vectors file, or trained on the rows.
    """
    for warning in check_settings(experiment, {experiment.model.embedding}, rows_in_memory=True):
        logger.warning(warning)
    use_pretrained = experiment.model.embedding != "rand"
    with tempfile.TemporaryDirectory() as scratch:
        stored = experiment.replace({"storage": scratch})
        # Vectors that are trained here are not cached, so that the next fit must train the same ones.
        corpus = build_corpus(
            stored, dataset, use_pretrained=use_pretrained, word_vectors=vectors, train_with_one_thread=True
        )
    return continue_training(experiment, dataset, corpus)


def restore_vectors(model: TrainedModel) -> WordVectors:
    """Return the vectors that a model's words had before training, of the words with a pretrained one.

    They have the lengths of the vectors file. Those of a quantized or published checkpoint are the trained ones.
    """
    weights, initial = model.checkpoint.weights, model.constants.initial_vectors
    matrix = weights["fixed_vectors" if "fixed_vectors" in weights else "vectors"]  # (words + 2, dimensions)
    is_pretrained = np.ones(len(matrix), bool)
    if initial is not None:
        matrix = np.concatenate([initial.vectors, matrix[len(initial.vectors) :]]) / initial.scale[:, None]
        is_pretrained = initial.pretrained
    return WordVectors(model.checkpoint.words, matrix[2:]).select(is_pretrained[2:])


@contextmanager
def track_fit(experiment: Experiment, num_rows: int) -> Iterator[list[EpochCallback]]:
    """Context manager: yield callbacks that log epochs to the trackers of the settings, as a run; none without any.

    Variables of the environment name none: every fit of a cross-validation would be logged.

    Args:
        num_rows: of the training part.

    Raises:
        UsageError: nothing answers there, or the package of a tracker is not installed.
    """
    trackers = connect_trackers(experiment, {})
    name = f"fit-{uuid.uuid4().hex[:12]}"
    with track_run(trackers, experiment, name, name, num_rows) if trackers.active else nullcontext() as tracker:
        yield [tracker.log_epoch] if tracker else []


@contextmanager
def temporary_storage(storage: str | None) -> Iterator[str]:
    """Context manager: yield a new folder in a storage, by default of this machine, and remove it at the end."""
    folder = join(absolute_path(storage or tempfile.gettempdir()), f"finetune-cnn-{uuid.uuid4().hex[:12]}")
    try:
        yield folder
    finally:
        remove_folder(folder)


def _copy_weights(checkpoint: Checkpoint, loop: Loop) -> None:
    """Copy a checkpoint's filters and output into a loop's network, and the vectors of the words that both have.

    A linear classifier is trained on the rows of the loop.
    """
    network, labels = loop.network, loop.corpus.labels
    if checkpoint.labels != labels:
        raise ValueError(f"warm_start: the earlier fit has the labels {checkpoint.labels}, this one has {labels}")
    weights, own = (
        {name: torch.as_tensor(value) for name, value in tensors.items() if not name.startswith(PREFIX)}
        for tensors in (checkpoint.weights, network.weights())
    )
    if _list_shapes(own) != _list_shapes(weights):
        raise ValueError(
            "warm_start: the earlier fit has a network of another size; its embedding, filter_widths, feature_maps and "
            "the dimensions of its vectors must be the same"
        )
    if network.vectors is not None:
        ids = {word: index for index, word in enumerate(checkpoint.words, start=2)}
        rows = [0, 1, *(ids.get(word, -1) for word in loop.corpus.words)][: len(network.vectors)]
        known = np.flatnonzero(np.array(rows) >= 0)
        vectors = own["vectors"].clone()
        vectors[known] = weights["vectors"][np.array(rows)[known]]
        weights["vectors"] = vectors
    network.load_weights(weights)


def _list_shapes(weights: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of weights by name, without the number of words."""
    return {name: tuple(value.shape[name.endswith("vectors") :]) for name, value in weights.items()}


class _ThreadLimit:
    """Number of torch's threads, a global of the process, which several threads may limit at the same time."""

    def __init__(self) -> None:
        self._lock, self._users, self._before = threading.Lock(), 0, 0

    @contextmanager
    def limit(self, number: int) -> Iterator[None]:
        """Context manager: torch uses so many threads, as a worker of `train` does; their number changes rounding."""
        with self._lock:
            if not self._users:
                self._before = torch.get_num_threads()
            self._users += 1
            torch.set_num_threads(number)
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                torch.set_num_threads(self._before)  # of this thread, and of later ones


_THREAD_LIMIT = _ThreadLimit()
