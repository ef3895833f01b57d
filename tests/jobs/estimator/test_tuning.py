"""Epochs of the best trial of an estimator's search."""

from pathlib import Path

import numpy as np

from jobs.estimator.tuning import _read_epochs
from jobs.model.checkpoint import load_checkpoint, save_checkpoint
from jobs.search.records import TrialRecord
from jobs.training.history import Epoch, Progress
from tests.support.checkpoints import checkpoint_of
from tests.support.trial_records import make_epoch

EPOCHS = [make_epoch(1, 0.5), make_epoch(2, 0.6), make_epoch(3, 0.7)]


def save_epoch(folder: Path, epochs: list[Epoch], progress: Progress | None = None) -> str:
    """Save the checkpoint of the last epoch, and return its path."""
    checkpoint = checkpoint_of("rand")
    checkpoint.metrics.update(epochs[-1].to_json())
    state = None if progress is None else {"steps": np.array([1])}
    save_checkpoint(folder, checkpoint, state, progress and progress.to_json())
    return str(folder)


def read_epochs(path: str, record: TrialRecord | None) -> list[Epoch]:
    return _read_epochs(path, load_checkpoint(path).metrics, record)


def record(epochs: list[Epoch]) -> TrialRecord:
    return TrialRecord(1, {}, "stopped", epochs=epochs, best=len(epochs))


def test_the_best_epoch_is_among_the_epochs_if_the_time_limit_came_before_its_report(tmp_path: Path) -> None:
    """The checkpoint is named before its epoch is reported; a trial without a report has no record."""
    first, second = save_epoch(tmp_path / "1", EPOCHS[:1]), save_epoch(tmp_path / "2", EPOCHS[:2])
    assert read_epochs(first, None) == EPOCHS[:1]
    assert read_epochs(second, record(EPOCHS[:1])) == EPOCHS[:2]
    assert read_epochs(second, record(EPOCHS)) == EPOCHS


def test_the_checkpoint_of_a_trial_with_workers_has_all_its_epochs(tmp_path: Path) -> None:
    """Several of its reports may be missing."""
    path = save_epoch(tmp_path / "3", EPOCHS, Progress(EPOCHS, best=3))
    assert read_epochs(path, None) == read_epochs(path, record(EPOCHS[:1])) == EPOCHS
