"""Training in this process, without Ray: errors, and interruptions of the command."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from ray.train import UserCallback

from cluster import UsageError, resources
from cluster.machine import GpuState
from cluster.resources import ResourceError
from jobs.config.abstention import OUT_OF_SCOPE
from jobs.config.experiment import Experiment, ExperimentError
from jobs.evaluation.baselines import load_training_dataset
from jobs.evaluation.evaluate import evaluate
from jobs.model.checkpoint import load_checkpoint
from jobs.training.train import TrainingFailed, train
from tests.support.loops import train_in_process
from tests.support.running_commands import RunningCommand

TIMEOUT_S = 300


@pytest.fixture(autouse=True)
def not_connected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tests may have connected this process to Ray, and training would use it."""
    monkeypatch.setattr(ray, "is_initialized", lambda: False)


def train_command(settings: dict[str, object]) -> list[str]:
    return [sys.executable, "-m", "jobs", "train", *(f"{key}={value}" for key, value in settings.items())]


@pytest.mark.slow
def test_interruptions_do_not_change_the_result(toy_csv: Path, tmp_path: Path) -> None:
    """After Ctrl-C and kill -9 the same command resumes; the weights are those of an undisturbed run."""
    settings: dict[str, object] = {
        "name": "killed",
        "storage": str(tmp_path / "runs"),
        "data.train": str(toy_csv),
        "model.embedding": "rand",
        "model.feature_maps": 8,
        "model.linear": "words-and-pairs",
        "train.batch_size": 2,
        "train.epochs": 60,
        "train.patience": 60,
        "train.metric": "loss",
    }
    with RunningCommand(train_command(settings), timeout=TIMEOUT_S) as command:
        command.wait_for_line("97 training rows, 11 validation rows, 2 classes")
        command.wait_for_line("epoch   3")
        os.killpg(command.process.pid, signal.SIGINT)  # as a terminal does
        assert command.wait() == 130, command.output
    assert "interrupted; the same command resumes from here" in command.output
    assert "Traceback" not in command.output

    with RunningCommand(train_command(settings), timeout=TIMEOUT_S) as command:
        command.wait_for_line("resuming after epoch")
        command.wait_for_line("epoch ")
        command.process.kill()

    with RunningCommand(train_command(settings), timeout=TIMEOUT_S) as command:
        assert command.wait() == 0, command.output
    assert "resuming after epoch" in command.output

    loop, weights = train_in_process(Experiment().replace(settings))
    checkpoint = load_checkpoint(str(tmp_path / "runs" / "killed"))
    assert checkpoint.metrics["epoch"] == loop.progress.best
    for key, value in weights[loop.progress.best].items():
        assert np.array_equal(checkpoint.weights[key], value), key


class SeenReports(UserCallback):
    """Callback with the epochs it was called with, and whether their checkpoints were readable then."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int, bool]] = []

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        is_loaded = load_checkpoint(checkpoint.path).metrics["loss"] == metrics[0]["loss"]
        self.seen.append((run_context.run_config.name, metrics[0]["epoch"], is_loaded))


def test_a_users_callback_sees_every_epoch_and_its_checkpoint(make_experiment: Callable[..., Experiment]) -> None:
    """Ray Train's local mode calls no callbacks; the run is named as on a cluster."""
    callback = SeenReports()
    best = train(make_experiment(), callbacks=[callback])
    [run] = Path(best).parent.glob("train-*")
    assert callback.seen == [(run.name, epoch, True) for epoch in (1, 2, 3)]


@pytest.mark.parametrize("function", ["load_texts", "load_inputs", "fit_in_process"])
def test_an_interruption_before_the_first_checkpoint_says_so(
    make_experiment: Callable[..., Experiment], monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    """The command prints the argument."""

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"jobs.training.train.{function}", interrupt)
    with pytest.raises(KeyboardInterrupt, match="the same command starts again"):
        train(make_experiment())


def test_an_interruption_after_a_checkpoint_has_no_such_argument(
    make_experiment: Callable[..., Experiment], monkeypatch: pytest.MonkeyPatch
) -> None:
    callback = SeenReports()
    monkeypatch.setattr(callback, "after_report", lambda *_: os.kill(os.getpid(), signal.SIGINT))
    experiment = make_experiment(train__epochs=500, train__patience=500)
    with pytest.raises(KeyboardInterrupt) as raised:
        train(experiment, callbacks=[callback])
    assert raised.value.args == ()


def test_a_diverging_run_fails_with_the_workers_reason(make_experiment: Callable[..., Experiment]) -> None:
    """The error has no traceback, and there is no best.json."""
    experiment = make_experiment(train__learning_rate=1e30, model__max_norm=None, name="diverges")
    with pytest.raises(TrainingFailed, match=r"the training loss is .*lower train.learning_rate"):
        train(experiment)
    assert not (Path(experiment.storage) / "diverges" / "best.json").exists()


def test_a_gpu_that_this_machine_lacks_is_an_error_before_anything_is_read(
    make_experiment: Callable[..., Experiment], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources, "inspect_gpus", lambda: GpuState(torch="2.13.0", cuda="13.0", error="no GPU"))
    with pytest.raises(ResourceError, match=r"train\.use_gpu asks for a GPU"):
        train(make_experiment(train__use_gpu=True, data__train="nowhere.csv"))


def test_a_worse_run_leaves_the_better_one_current_and_is_named_by_its_own_file(
    make_experiment: Callable[..., Experiment], messages: list[str]
) -> None:
    """So evaluate, predict, serve and deploy of the experiment use the better one, until the worse one is promoted."""
    good = make_experiment(train__epochs=8, train__patience=8, model__linear="none")
    worse = make_experiment(train__learning_rate=1e-6, train__epochs=1, model__linear="none")
    top = train(good)
    assert train(worse) != top
    assert any("remains the current run" in line and "--promote" in line for line in messages)
    assert load_checkpoint(top).experiment.train.epochs == 8
    messages.clear()
    assert train(worse, promote=True) == top
    assert any("this run is finished" in line for line in messages)
    assert load_checkpoint(top).experiment.train.epochs == 1


def test_the_better_use_of_out_of_scope_texts_becomes_current(
    make_experiment: Callable[..., Experiment], tmp_path: Path, messages: list[str]
) -> None:
    """Both uses are trained and compared on held-out rows. Texts of words that are in no other are a class here."""
    others = tmp_path / "other.csv"
    others.write_text("text\n" + "weather rain and sun\nrain in it\nsun was a weather\n" * 9)
    experiment = make_experiment(data__out_of_scope=str(others), train__epochs=4, train__learning_rate=0.02)
    best = train(experiment)
    checkpoint = load_checkpoint(best)
    assert checkpoint.labels == ["bad", "good", "out_of_scope"]
    assert checkpoint.experiment.data.out_of_scope_use == "class"
    assert checkpoint.metrics["abstention"]["out_of_scope"] == 2
    assert set(checkpoint.metrics["abstention"]["thresholds"]) == {"retention", "precision", "balanced"}
    [comparison] = [line for line in messages if line.startswith("out-of-scope texts are also a class")]
    runs = [load_checkpoint(str(path)) for path in Path(best).parent.glob("train-*")]
    for run in runs:
        assert f"{run.metrics['abstention']['balanced_accuracy']:.4f} if they" in comparison
    [other] = [run for run in runs if run.experiment.data.out_of_scope_use == "threshold"]
    assert other.labels == ["bad", "good"]
    messages.clear()
    assert train(experiment) == best
    assert sum("this run is finished" in line for line in messages) == 2


def test_a_run_with_a_class_of_out_of_scope_texts_is_continued(
    make_experiment: Callable[..., Experiment], tmp_path: Path, messages: list[str]
) -> None:
    """With each use of such texts; the class is no label of the rows that were read. Its checkpoint is evaluated."""
    others = tmp_path / "other.csv"
    others.write_text("text\n" + "weather rain and sun\nrain in it\nsun was a weather\n" * 9)
    settings = {"data__out_of_scope": str(others), "train__epochs": 1}
    first = train(make_experiment(**settings, data__out_of_scope_use="class"))
    for use in ("auto", "threshold", "class"):
        messages.clear()
        more = make_experiment(**settings, name=use, data__out_of_scope_use=use, train__start_from=first)
        best = train(more)
        checkpoint = load_checkpoint(best)
        assert checkpoint.labels == ["bad", "good", "out_of_scope"]
        assert checkpoint.metrics["abstention"]["out_of_scope"] == 2
        num_runs = sum(message.endswith("3 known and 0 new classes") for message in messages)
        assert num_runs == (2 if use == "auto" else 1)
        assert evaluate(best, [], str(tmp_path / "report")).rows == 12
        assert OUT_OF_SCOPE in load_training_dataset(checkpoint).labels
    with pytest.raises(ExperimentError, match=r"name their file in data\.out_of_scope"):
        train(make_experiment(train__start_from=first))


def test_errors_in_the_data_are_reported_before_ray_starts(
    make_experiment: Callable[..., Experiment], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.training.train.connect", lambda: pytest.fail("Ray was started"))
    with pytest.raises(UsageError, match="has no column 'nowhere'"):
        train(make_experiment(train__workers=2, data__text_column="nowhere"))
