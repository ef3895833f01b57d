"""Reports of a worker to Ray Train."""

from pathlib import Path
from typing import Any

import pytest
import ray.train
from ray.train.torch import TorchTrainer

from cluster.storage import StorageError
from jobs.training.history import Epoch, Progress
from jobs.training.monitor import RunCallback
from jobs.training.process_group import ProcessGroup
from jobs.training.run_files.checkpoint_store import checkpoint_name
from jobs.training.run_files.reporter import Reporter, do_nothing


class Recorder(ray.train.UserCallback):
    """Callback with the epochs and the names of the checkpoints it was called with."""

    def __init__(self) -> None:
        self.reports: list[tuple[int, str]] = []

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        self.reports.append((metrics[0]["epoch"], Path(checkpoint.path).name if checkpoint else ""))


class ReportRecorder(RunCallback):
    """Callback of the reports themselves, as Ray Train calls a user's."""

    def __init__(self) -> None:
        super().__init__(lambda messages: None)
        self.reports: list[tuple[dict[str, Any], bool]] = []

    def after_report(self, run_context: Any, metrics: Any, checkpoint: Any) -> None:
        self.reports.append((metrics[0], checkpoint is not None))


def fail() -> None:
    raise StorageError("the storage does not respond")


def run_in_local_mode(function: Any) -> None:
    """Run a function as Ray Train's only worker, in this process."""
    TorchTrainer(function, scaling_config=ray.train.ScalingConfig(num_workers=0)).fit()


EPOCHS = [Epoch(number, 0.5, 0.4, 0.9, 0.8, 1234.5, 3.0) for number in (1, 2, 3)]


def test_reports_are_limited_in_time_but_not_the_best_and_the_last_epoch(tmp_path: Path) -> None:
    """The messages of epochs in between are in the next report."""
    recorder, messages = Recorder(), []
    callback = RunCallback(messages.extend, [recorder])
    for epoch in EPOCHS:
        (tmp_path / checkpoint_name(epoch.epoch)).mkdir()

    def train() -> None:
        reporter = Reporter(str(tmp_path), ProcessGroup(), 3600.0, callback)
        assert reporter.is_due()
        reporter.submit(do_nothing, [None])
        assert not reporter.is_due()
        reporter.submit(lambda: reporter.add_message("epoch", 1), [])
        reporter.wait()
        assert messages == []
        reporter.submit_end(Progress(EPOCHS, best=2))
        reporter.wait()

    run_in_local_mode(train)
    assert recorder.reports == [(2, "epoch-0002"), (3, "epoch-0003")]
    assert messages == [("epoch", 1)]


def test_a_checkpoint_that_was_removed_is_not_reported(tmp_path: Path) -> None:
    """Of the best epoch, for which Ray Train's result would name a folder that is missing."""
    recorder = Recorder()
    (tmp_path / "epoch-0003").mkdir()

    def train() -> None:
        reporter = Reporter(str(tmp_path), ProcessGroup(), 3600.0, RunCallback(lambda messages: None, [recorder]))
        reporter.submit_end(Progress(EPOCHS, best=2))
        reporter.wait()

    run_in_local_mode(train)
    assert recorder.reports == [(2, ""), (3, "epoch-0003")]


def test_an_epoch_without_its_checkpoint_is_not_reported(tmp_path: Path) -> None:
    """The report is sent without it: the other workers wait in theirs."""
    recorder, messages = Recorder(), []
    callback = RunCallback(messages.extend, [recorder])

    def train() -> None:
        reporter = Reporter(str(tmp_path), ProcessGroup(), 0.0, callback)
        reporter.add_message("log", "before")
        reporter.submit(fail, [EPOCHS[0]])
        with pytest.raises(StorageError, match="does not respond"):
            reporter.wait()

    run_in_local_mode(train)
    assert recorder.reports == []
    assert messages == [("log", "before")]


def test_each_report_of_a_users_trainer_has_metrics(tmp_path: Path) -> None:
    """Messages and reports without an epoch are left out. Other workers may wait in the report of a failed write."""
    recorder = ReportRecorder()
    (tmp_path / "epoch-0001").mkdir()

    def train() -> None:
        reporter = Reporter(str(tmp_path), ProcessGroup(), 0.0, recorder, with_messages=False)
        reporter.add_message("log", "before")
        assert reporter.take_messages() == []
        reporter.submit_begin(Progress())
        reporter.submit(do_nothing, [None])
        reporter.submit(do_nothing, [EPOCHS[0]])
        reporter.submit(do_nothing, [None])
        reporter.submit(fail, [EPOCHS[1]])
        with pytest.raises(StorageError, match="does not respond"):
            reporter.wait()

    run_in_local_mode(train)
    assert [(metrics["epoch"], has_checkpoint) for metrics, has_checkpoint in recorder.reports] == [
        (1, True),
        (2, False),
    ]
