"""A trial trains like a run, saves checkpoints that are the best, reports why it failed, and resumes."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from jobs.config.experiment import Experiment
from jobs.model import checkpoint
from jobs.search.records import decode_predictions
from jobs.search.trial import build_failure_report
from jobs.training.loop import TrainingDiverged
from tests.support.loops import make_loop
from tests.support.trials import make_trial, run_trial


def test_a_trial_has_the_results_of_the_same_training(
    make_experiment: Callable[..., Experiment], tmp_path: Path
) -> None:
    """Epoch by epoch; each report says whether it is the last one."""
    experiment = make_experiment(train__metric="loss")
    loop = make_loop(experiment)
    list(loop.train_epochs())
    reports = run_trial(make_trial(experiment, tmp_path)[0])
    progress = reports[-1].progress
    assert [epoch.loss for epoch in progress.epochs] == [epoch.loss for epoch in loop.progress.epochs]
    assert progress.best == loop.progress.best
    predicted = decode_predictions(reports[-1].predicted)  # in the best epoch
    assert np.mean(predicted == loop.corpus.validation.labels) == loop.progress.epochs[loop.progress.best - 1].accuracy
    assert [report.finished for report in reports] == [False] * (len(progress.epochs) - 1) + [True]


def test_only_a_checkpoint_that_is_the_best_of_the_search_is_saved(
    make_experiment: Callable[..., Experiment], tmp_path: Path
) -> None:
    """It is written before the driver learns of it; other trials write nothing."""
    best, saved = make_trial(make_experiment(), tmp_path)
    run_trial(best)
    key, epoch = saved[-1]
    loaded = checkpoint.load_checkpoint(str(tmp_path / "trial-00007" / f"epoch-{epoch.epoch:04d}"))
    assert loaded.metrics["accuracy"] == epoch.accuracy == key[0]
    assert key[2] == -7
    other, saved = make_trial(make_experiment(), tmp_path / "other", is_new_best=lambda key: False)
    run_trial(other)
    assert saved == []
    assert not (tmp_path / "other").exists()


def test_a_long_trial_resumes_and_ends_with_the_same_results(
    make_experiment: Callable[..., Experiment], tmp_path: Path
) -> None:
    """From the state that it wrote after train.checkpoint_minutes."""
    experiment = make_experiment(train__epochs=4, train__patience=9, train__checkpoint_minutes=1e-9)
    complete = run_trial(make_trial(experiment, tmp_path / "complete")[0])[-1].progress
    interrupted, _ = make_trial(experiment, tmp_path / "interrupted")
    interrupted.step()
    interrupted.step()
    interrupted.close()
    resumed, _ = make_trial(experiment, tmp_path / "interrupted")
    reports = run_trial(resumed)
    assert len(reports) == 2
    epochs = reports[-1].progress.epochs
    assert [epoch.epoch for epoch in epochs] == [1, 2, 3, 4]
    assert [epoch.train_loss for epoch in epochs] == [epoch.train_loss for epoch in complete.epochs]


def test_a_resumed_trial_reports_the_predictions_of_a_best_epoch_before_the_interruption(
    make_experiment: Callable[..., Experiment], tmp_path: Path
) -> None:
    experiment = make_experiment(train__epochs=2, train__learning_rate=1e-30, train__checkpoint_minutes=1e-9)
    interrupted, _ = make_trial(experiment, tmp_path)
    before = interrupted.step()
    interrupted.close()
    [after] = run_trial(make_trial(experiment, tmp_path)[0])
    assert (after.finished, after.progress.best) == (True, 1)
    assert after.predicted == before.predicted != ""


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (TrainingDiverged("epoch 1: the training loss is nan"), "epoch 1: the training loss is nan"),
        (MemoryError("Unable to allocate 9 GiB"), "out of memory: Unable to allocate 9 GiB"),
        (RuntimeError("CUDA out of memory. Tried to\nallocate"), "out of memory: CUDA out of memory. Tried to"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory"), "out of memory: [enforce fail]"),
        (ValueError(""), "ValueError: ValueError"),
    ],
)
def test_the_reason_of_a_failure_is_one_line(error: Exception, reason: str) -> None:
    """A user's mistake without the type of the error, others with it."""
    report = build_failure_report(error, None)
    assert report.error.startswith(reason)
    assert "\n" not in report.error
    assert report.finished
    assert report.progress.best == 0
