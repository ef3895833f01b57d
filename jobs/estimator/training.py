"""Training in this process on rows in memory, without Ray and without a run folder."""

import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from jobs.config.conflicts import check_settings
from jobs.config.experiment import Experiment
from jobs.datasets.dataset import Dataset
from jobs.datasets.row_weights import check_class_weights
from jobs.model.checkpoint import (
    Checkpoint,
    InitialVectors,
    RunConstants,
    load_checkpoint,
    load_initial_vectors,
    load_train_texts,
)
from jobs.training.continuation import continue_training, load_start_weights
from jobs.training.corpus import build_corpus
from jobs.training.history import Epoch
from jobs.training.loop import create_loop
from jobs.training.run_files.snapshot import capture

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainedModel:
    """Result of a training: the network of the best epoch, and what a saved checkpoint has beside it."""

    checkpoint: Checkpoint
    constants: RunConstants
    epochs: list[Epoch]


def train_dataset(
    experiment: Experiment, dataset: Dataset, callbacks: Sequence[Callable[[Epoch], None]] = ()
) -> TrainedModel:
    """Train, and return the best epoch: the same as that of `jobs.training.train`, bit for bit.

    Args:
        dataset: its test part may be empty.
        callbacks: called after each epoch.

    Raises:
        TrainingDiverged, and the errors of settings and of reading vectors.
    """
    for warning in check_settings(experiment, {experiment.model.embedding}):
        logger.warning(warning)
    check_class_weights(experiment, dataset.labels)
    from cluster.resources import use_own_gpu  # imports Ray, which a loaded model does not need

    use_gpu = use_own_gpu(experiment.train.use_gpu)
    with tempfile.TemporaryDirectory() as scratch, _limit_threads(experiment.train.cpus_per_worker):
        corpus = build_corpus(
            experiment.replace({"storage": scratch}), dataset, use_pretrained=experiment.model.embedding != "rand"
        )
        experiment, corpus = continue_training(experiment, dataset, corpus)
        loop = create_loop(experiment, corpus, device="cuda" if use_gpu else "cpu")
        if experiment.train.start_from is not None:
            load_start_weights(loop.network, corpus, load_checkpoint(experiment.train.start_from))
        best: Path | None = None
        for epoch, is_best in loop.train_epochs():
            if is_best:
                previous, best = best, Path(scratch, f"epoch-{epoch.epoch:04d}")
                capture(experiment, corpus, loop, resumable=False)(best)
                if previous is not None:
                    shutil.rmtree(previous)
            for call in callbacks:
                call(epoch)
        assert best is not None, "the first epoch is the best one so far"
        initial, texts = load_initial_vectors(str(best)), load_train_texts(str(best))
        assert isinstance(initial, InitialVectors), "every new checkpoint has them"
        checkpoint = replace(load_checkpoint(str(best)), path="", manifest_sha256="")
    return TrainedModel(checkpoint, RunConstants(initial, {}, texts, files=None), loop.progress.epochs)


@contextmanager
def _limit_threads(number: int) -> Iterator[None]:
    """Context manager: torch uses so many threads, as a worker of `train` does; their number changes rounding."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
