"""Driver-side monitor: log lines and status of a run from its workers' messages."""

import logging
from pathlib import Path

import pytest

from cluster.storage import StorageError
from jobs.training import monitor
from jobs.training.history import Epoch, EpochProgress
from jobs.training.learning_curve import TensorBoardLog
from jobs.training.monitor import RunMonitor, RunStatus, WorkerTimes
from tests.support.tensorboard import read_scalars

EPOCH = Epoch(2, 0.5, 0.4, 0.9, 0.8, 1234.5, 3.0)


def test_messages_are_logged_and_update_the_status(tmp_path: Path, messages: list[str]) -> None:
    """An epoch is also in the TensorBoard log."""
    status = RunStatus(100.0)
    with TensorBoardLog(str(tmp_path)) as scalars:
        handler = RunMonitor(5, status, scalars)
        handler.handle([("log", (logging.INFO, "a worker's message")), ("started", "2 workers on cpu")])
        assert status.workers_running.is_set()
        handler.handle([("progress", EpochProgress(2, 16, 1000, 0.6, 1234.5, 61.0))])
        handler.handle([("saved", WorkerTimes(101.5, 2.0)), ("epoch", (EPOCH, True))])
        [events] = tmp_path.iterdir()
        assert read_scalars(events)["validation/accuracy"] == [(2, 0.9)]
    assert messages == [
        "a worker's message",
        "training with 2 workers on cpu",
        "epoch   2   step 16 of 1,000   train loss 0.6000   1,234 examples/s   at most 0:01:01 left",
        "epoch   2   train loss 0.5000   validation loss 0.4000   accuracy 0.9000   macro F1 0.8000"
        "   1,234 examples/s   at most 0:00:09 left   best so far",
    ]
    assert status.finished_epochs.get_nowait() == EPOCH
    assert (status.num_checkpoints, status.first_step_time) == (1, 101.5)


def test_times_of_lost_workers_are_added(tmp_path: Path) -> None:
    """The first step is that of the first workers."""
    status = RunStatus(100.0)
    for first_step_time, step_seconds in ((101.0, 2.0), (105.0, 3.0)):
        status.workers_running.set()
        status.update_times(WorkerTimes(first_step_time, step_seconds))
        status.mark_workers_lost()
    status.mark_workers_lost()
    assert (status.previous_step_seconds, status.first_step_time) == (5.0, 101.0)
    assert not status.workers_running.is_set()


def test_a_wait_for_workers_is_logged_once_per_interval(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, messages: list[str]
) -> None:
    """Nothing is logged while workers run."""
    now = 0.0
    monkeypatch.setattr(monitor.time, "monotonic", lambda: now)
    monkeypatch.setattr(monitor.resources, "describe_free_resources", lambda: "0 of 4 CPUs free on 1 node")
    status = RunStatus(100.0)
    with TensorBoardLog(str(tmp_path)) as scalars:
        handler = RunMonitor(5, status, scalars)
        for now in (1.0, 21.0, 22.0, 42.0):  # noqa: B007 read by the clock above
            handler.handle([])
        assert messages == ["waiting for the workers to start; 0 of 4 CPUs free on 1 node"] * 2
        status.workers_running.set()
        now = 100.0
        handler.handle([])
        assert len(messages) == 2


def test_a_full_disk_under_the_tensorboard_log_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, messages: list[str]
) -> None:
    """The epoch is recorded all the same."""

    def fail(log: TensorBoardLog, epoch: Epoch) -> None:
        raise StorageError("the disk is full")

    monkeypatch.setattr(TensorBoardLog, "log_epoch", fail)
    status = RunStatus(100.0)
    with TensorBoardLog(str(tmp_path)) as scalars:
        RunMonitor(5, status, scalars).handle([("epoch", (EPOCH, False))])
    assert messages[-1] == "the disk is full"
    assert status.finished_epochs.get_nowait() == EPOCH
