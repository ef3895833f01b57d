"""Runs and trials are logged to a real MLflow server, and by the real library of Weights & Biases."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

import pytest

from cluster import UsageError
from cluster.machine import find_free_ports
from cluster.package import REPOSITORY
from jobs.config.experiment import Experiment
from jobs.search.records import TrialRecord
from jobs.search.trackers import log_trial
from jobs.search.tune import tune
from jobs.training.history import Epoch
from jobs.training.run_files.trackers import Ending, TrackedRun, Trackers, connect_trackers, log_end, track_run
from jobs.training.train import train
from tests.support.mlflow_server import start_mlflow_server
from tests.support.trial_records import make_epoch, make_record
from tests.support.wandb_files import read_wandb_run


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with start_mlflow_server(tmp_path_factory.mktemp("mlflow")) as url:
        yield url


TRIAL = make_record(4, {"model.dropout": 0.3, "model.filter_widths": [3, 4]}, 0.75, ended=1000.0)


@pytest.mark.slow
def test_mlflow_has_a_run_with_settings_and_metrics_of_each_trial(server: str, messages: list[str]) -> None:
    """Under the experiment's name; that of a failed trial has the reason."""
    from mlflow import MlflowClient

    trackers = connect_trackers(Experiment().replace({"name": "tickets", "mlflow": server}))
    log_trial(trackers, TRIAL, "runs/tickets/tune-0123", seed=0)
    failed_trial = TrialRecord(5, {"model.dropout": 0.9}, "failed", "out of memory", ended=time.time())
    log_trial(trackers, failed_trial, "runs/tickets/tune-0123", seed=0)
    client = MlflowClient(tracking_uri=server)
    experiment = client.get_experiment_by_name("tickets")
    assert experiment is not None
    failed, finished = client.search_runs([experiment.experiment_id], order_by=["attributes.run_name DESC"])
    assert finished.data.params == {"model.dropout": "0.3", "model.filter_widths": "[3, 4]", "seed": "0"}
    assert finished.data.metrics["accuracy"] == finished.data.metrics["best_accuracy"] == 0.75
    assert (finished.info.status, finished.data.tags["search"]) == ("FINISHED", "tune-0123")
    assert (finished.info.start_time, finished.info.end_time) == (999_500, 1_000_000)
    assert (failed.info.status, failed.data.tags["reason"]) == ("FAILED", "out of memory")
    assert messages == []
    # The experiment exists now. A search's own setting names the server too.
    assert connect_trackers(Experiment().replace({"name": "tickets", "tune.mlflow": server})).active


@pytest.mark.slow
def test_mlflow_has_each_epoch_of_a_training(
    server: str, make_experiment: Callable[..., Experiment], messages: list[str]
) -> None:
    """Also those of an earlier command that a resumed run begins with."""
    from mlflow import MlflowClient

    experiment = make_experiment(mlflow=server, name="trained")
    best = json.loads(Path(train(experiment)).read_text())
    client = MlflowClient(tracking_uri=server)
    stored = client.get_experiment_by_name("trained")
    assert stored is not None
    [run] = client.search_runs([stored.experiment_id])
    assert (run.info.run_name, run.info.status) == (best["run"], "FINISHED")
    assert [point.step for point in client.get_metric_history(run.info.run_id, "accuracy")] == [1, 2, 3]
    assert run.data.metrics["best_accuracy"] == pytest.approx(best["metrics"]["accuracy"])
    assert run.data.params["train.epochs"] == "3"
    assert not [message for message in messages if "MLflow" in message]


def test_epochs_of_an_earlier_command_and_the_end_are_logged() -> None:
    """The status shows how the run ended."""
    for error, status in ((None, "finished"), (ValueError("diverged"), "failed"), (KeyboardInterrupt(), "stopped")):
        tracker = RecordingTracker()
        logs = Trackers([tracker]).start(TrackedRun("train-1", "train-1", {}, 0.0))
        with pytest.raises(type(error)) if error else nullcontext(), log_end(logs, "accuracy") as run:
            run.resume([make_epoch(1, 0.75), make_epoch(2, 0.5)])
            run.log_epoch(make_epoch(3, 0.625))
            if error is not None:
                raise error
        assert tracker.epochs == [1, 2, 3]
        assert tracker.ending is not None
        assert tracker.ending.best == make_epoch(1, 0.75)
        assert tracker.ending.status == status


def test_epochs_that_lost_workers_trained_again_replace_the_earlier_ones() -> None:
    """The best epoch is one of those that remain."""
    tracker = RecordingTracker()
    with log_end(Trackers([tracker]).start(TrackedRun("train-1", "train-1", {}, 0.0)), "accuracy") as run:
        for epoch in (make_epoch(1, 0.5), make_epoch(2, 0.9), make_epoch(2, 0.75), make_epoch(3, 0.625)):
            run.log_epoch(epoch)
    assert tracker.ending is not None
    assert tracker.ending.best == make_epoch(2, 0.75)


def test_a_tracker_that_failed_is_not_connected_to_again(
    make_experiment: Callable[..., Experiment], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, messages: list[str]
) -> None:
    """A training with two runs connects once."""
    connected = []

    def connect(experiment: Experiment) -> Trackers:
        connected.append(experiment.name)
        return Trackers([BrokenTracker()])

    monkeypatch.setattr("jobs.training.train.connect_trackers", connect)
    others = tmp_path / "other.csv"
    others.write_text("text\n" + "weather rain and sun\n" * 9)
    train(make_experiment(data__out_of_scope=str(others), train__epochs=1))
    assert connected == ["toy"]
    assert sum("recorder: train-" in message for message in messages) == 1


def test_a_run_within_a_search_is_in_the_group_of_its_trials() -> None:
    tracker = RecordingTracker()
    with track_run(Trackers([tracker]), Experiment(), "tune-0123 refit", "tune-0123", 900):
        assert (tracker.runs[0].name, tracker.runs[0].group) == ("tune-0123 refit", "tune-0123")


@pytest.mark.parametrize(("batch_size", "logged"), [(None, 10), (7, 7)])
def test_the_batch_size_is_logged_that_training_uses(batch_size: int | None, logged: int) -> None:
    """Also if the settings name none."""
    tracker = RecordingTracker()
    with track_run(Trackers([tracker]), Experiment().replace({"train.batch_size": batch_size}), "train-1", "", 900):
        assert tracker.runs[0].settings["train.batch_size"] == logged


class RecordingTracker:
    """A tracker that records what is logged."""

    name = "recorder"
    errors: tuple[type[Exception], ...] = (OSError,)

    def __init__(self) -> None:
        self.epochs: list[int] = []
        self.ending: Ending | None = None
        self.runs: list[TrackedRun] = []

    def start(self, run: TrackedRun) -> "RecordingTracker":
        self.runs.append(run)
        return self

    def log(self, epochs: Sequence[tuple[Epoch, float]]) -> None:
        assert sorted(ended for _, ended in epochs) == [ended for _, ended in epochs]
        self.epochs += [epoch.epoch for epoch, _ in epochs]

    def end(self, ending: Ending) -> None:
        self.ending = ending


class BrokenTracker(RecordingTracker):
    """A tracker that does not answer."""

    def start(self, run: TrackedRun) -> "RecordingTracker":
        raise OSError("no answer")


@pytest.mark.slow
def test_a_server_that_stops_answering_does_not_stop_the_search(
    server: str, monkeypatch: pytest.MonkeyPatch, messages: list[str]
) -> None:
    """One warning is logged."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    trackers = connect_trackers(Experiment().replace({"mlflow": server}))
    [port] = find_free_ports(1)
    [tracker] = trackers.active
    tracker.client._tracking_client.tracking_uri = f"http://127.0.0.1:{port}"  # type: ignore[attr-defined]
    for _ in range(2):
        log_trial(trackers, TRIAL, "tune-0123", seed=0)
    assert len(messages) == 1
    assert messages[0].startswith("MLflow: tune-0123 trial 4 and later runs are not logged")


@pytest.mark.slow
def test_a_wrong_mlflow_uri_is_an_error_before_anything_is_loaded(
    make_experiment: Callable[..., Experiment], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message is one line. Without a URI nothing is logged."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    [port] = find_free_ports(1)
    rows = tmp_path / "rows.csv"
    rows.write_text("label,text\ngood,a text\n,no label\n")  # reading it is another error
    experiment = make_experiment(mlflow=f"http://127.0.0.1:{port}", data__train=str(rows))
    Path(experiment.storage, experiment.name).mkdir(parents=True)  # a first search would start Ray
    for command in (train, tune):
        with pytest.raises(UsageError, match=r"mlflow: cannot log to http://127\.0\.0\.1"):
            command(experiment)
    for name in ("MLFLOW_TRACKING_URI", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    assert connect_trackers(Experiment()).active == []


@pytest.mark.slow
def test_wandb_has_runs_and_trials_offline(
    make_experiment: Callable[..., Experiment], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, messages: list[str]
) -> None:
    """Each is a folder that `wandb sync` uploads, with settings, epochs and summary."""
    pytest.importorskip("wandb", reason="the package wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    experiment = make_experiment(wandb="tickets")
    best = json.loads(Path(train(experiment)).read_text())
    log_trial(connect_trackers(experiment), TRIAL, "runs/tickets/tune-0123", seed=7)
    paths = sorted(tmp_path.glob("wandb/offline-run-*/run-*.wandb"), key=modified)
    deadline = time.monotonic() + 60
    while not all("status" in read_wandb_run(path)["summary"] for path in paths):  # wandb's process writes it
        assert time.monotonic() < deadline, "a run has no end"
        time.sleep(0.1)
    trained, trial = map(read_wandb_run, paths)
    assert trained["run"] == (best["run"], best["run"], "tickets")
    assert [(row["_step"], "accuracy" in row) for row in trained["history"]] == [(1, True), (2, True), (3, True)]
    assert trained["summary"]["best_accuracy"] == pytest.approx(best["metrics"]["accuracy"])
    assert trained["config"]["train.epochs"] == 3
    assert trial["run"] == ("tune-0123 trial 4", "tune-0123", "tickets")
    assert trial["config"]["model.dropout"] == 0.3
    assert trial["summary"]["status"] == "finished"
    assert not [message for message in messages if "W&B" in message]


@pytest.mark.slow
def test_a_wrong_key_of_wandb_is_an_error_before_the_training() -> None:
    """In a process of its own: wandb reads its variables once."""
    pytest.importorskip("wandb", reason="the package wandb is not installed")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    script = (
        "from jobs.config.experiment import Experiment\n"
        "from jobs.training.run_files.trackers import connect_trackers\n"
        "connect_trackers(Experiment().replace({'wandb': 'tickets'}))\n"
    )
    command = [sys.executable, "-c", script]
    result = subprocess.run(
        command, env=environment | {"WANDB_API_KEY": "short"}, cwd=REPOSITORY, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    assert re.search(r"UsageError: wandb: cannot log in: .*API key", result.stderr)


def modified(path: Path) -> float:
    return path.stat().st_mtime
