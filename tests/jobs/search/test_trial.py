"""A trial trains as a run does, keeps what is best, tells why it failed, and goes on."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.config.experiment import Experiment
from jobs.model import checkpoint
from jobs.search.trial import apply_trial_settings, build_failure_result
from jobs.training.loop import TrainingDiverged
from tests.support.loops import loop_of
from tests.support.trials import run, trial


def test_a_trial_gives_what_the_same_training_gives(make_experiment: Callable[..., Experiment], tmp_path: Path) -> None:
    """Epoch for epoch; each is told with its goodness."""
    experiment = make_experiment(train__metric="loss")
    loop = loop_of(experiment)
    list(loop.train_epochs())
    told = run(trial(experiment, tmp_path)[0])
    progress = json.loads(told[-1]["progress"])
    assert [epoch["loss"] for epoch in progress["epochs"]] == [epoch.loss for epoch in loop.progress.epochs]
    assert [each["goodness"] for each in told] == [-epoch.loss for epoch in loop.progress.epochs]
    assert progress["best"] == loop.progress.best


def test_only_what_is_the_best_of_all_is_kept_and_can_be_served(
    make_experiment: Callable[..., Experiment], tmp_path: Path
) -> None:
    """Written before it is told; of other trials there is nothing."""
    best, kept = trial(make_experiment(), tmp_path)
    run(best)
    rank, epoch, figures = kept[-1]
    found = checkpoint.load_checkpoint(str(tmp_path / "trial-00007" / f"epoch-{epoch:04d}"))
    assert found.metrics["accuracy"] == figures["accuracy"] == rank[0]
    assert rank[2] == -7
    other, kept = trial(make_experiment(), tmp_path / "other", beats=lambda rank: False)
    run(other)
    assert kept == []
    assert not (tmp_path / "other").exists()


def test_a_long_trial_goes_on_where_it_was_and_ends_the_same(
    make_experiment: Callable[..., Experiment], tmp_path: Path
) -> None:
    """From what it wrote after train.checkpoint_minutes."""
    experiment = make_experiment(train__epochs=4, train__patience=9, train__checkpoint_minutes=1e-9)
    whole = json.loads(run(trial(experiment, tmp_path / "whole")[0])[-1]["progress"])
    first, _ = trial(experiment, tmp_path / "cut")
    first.step()
    first.step()
    first.close()
    again, _ = trial(experiment, tmp_path / "cut")
    told = run(again)
    assert [each["epoch"] for each in told] == [3, 4]
    ended = json.loads(told[-1]["progress"])
    assert [epoch["train_loss"] for epoch in ended["epochs"]] == [epoch["train_loss"] for epoch in whole["epochs"]]


def test_a_trials_settings_are_its_own_its_epochs_the_searchs_and_its_metric_the_objective(
    make_experiment: Callable[..., Experiment],
) -> None:
    """Unless the epochs are searched."""
    experiment = make_experiment(tune__epochs=5, tune__metric="macro_f1")
    chosen = apply_trial_settings(experiment, {"model.dropout": 0.25, "seed": 3})
    assert (chosen.model.dropout, chosen.seed, chosen.train.epochs, chosen.train.metric) == (0.25, 3, 5, "macro_f1")
    assert apply_trial_settings(experiment, {"train.epochs": 2}).train.epochs == 2
    assert apply_trial_settings(make_experiment(tune__epochs=None), {}).train.epochs == 3


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
def test_why_a_trial_failed_is_told_in_a_line(error: Exception, reason: str) -> None:
    """A user's mistake as it is, others with their kind."""
    found = build_failure_result(error, None)
    assert found["failed"].startswith(reason)
    assert found["finished"]
    assert json.loads(found["progress"])["best"] == 0
