"""Monitor of a run: what its callback forwards, and log lines and status from the workers' messages."""

import logging
import pickle
from pathlib import Path
from typing import Any

import pytest
import ray.util.client
from ray.train import UserCallback

from cluster.storage import StorageError
from jobs.training import monitor
from jobs.training.history import Epoch, EpochProgress, EpochReport
from jobs.training.monitor import NoProgressError, RunCallback, RunMonitor, RunStatus, WorkerTimes
from jobs.training.run_files.learning_curve import TensorBoardLog
from tests.support.tensorboard import read_scalars

EPOCH = Epoch(2, 0.5, 0.4, 0.9, 0.8, 1234.5, 3.0)
SAVED = ("saved", WorkerTimes(101.5, 2.0))


class Recorder(UserCallback):
    """Callback of a user, with what it was called with."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        self.calls.append((metrics[0], checkpoint))

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        self.calls.append(worker_exceptions)


def test_a_users_callback_receives_numbers_and_the_monitor_the_messages() -> None:
    """Also after the report was pickled, as on its way to the controller, where nothing of the messages remains."""
    forwarded: list[Any] = []
    recorder = Recorder()
    callback = RunCallback(forwarded.extend, [recorder])
    report = pickle.loads(pickle.dumps(EpochReport(Epoch(1, 0.5, None, None, None, 2.0, 3.0), [SAVED])))
    callback.after_report(None, [report, EpochReport()], "checkpoint")
    callback.after_report(None, [EpochReport(messages=[("started", "2 workers")]), EpochReport()], None)
    expected = {"epoch": 1, "train_loss": 0.5, "examples_per_second": 2.0, "seconds": 3.0}
    assert recorder.calls == [(expected, "checkpoint")]
    assert forwarded == [SAVED, ("started", "2 workers")]
    assert report.messages == []


def test_losses_without_a_new_checkpoint_end_the_run() -> None:
    """A checkpoint resets the count; the message names the worker that was killed, not one that lost its connection."""
    forwarded: list[Any] = []
    recorder = Recorder()
    callback = RunCallback(forwarded.extend, [recorder])
    lost: dict[int, Exception] = {0: RuntimeError("[gloo] Connection closed"), 1: RuntimeError("killed\nby SIGKILL")}
    callback.after_exception(None, lost)
    callback.after_report(None, [EpochReport(EPOCH, [SAVED])], "checkpoint")
    for _ in range(3):
        callback.after_report(None, [EpochReport(messages=[("started", "2 workers")])], None)
        callback.after_exception(None, lost)
    with pytest.raises(NoProgressError, match=r"^the workers were lost 4 times without progress: killed by SIGKILL$"):
        callback.after_exception(None, lost)
    assert forwarded.count(("lost", "killed by SIGKILL")) == 4
    assert recorder.calls.count(lost) == 5


def test_messages_are_logged_and_update_the_status(tmp_path: Path, messages: list[str]) -> None:
    """An epoch is also in the TensorBoard log."""
    status = RunStatus(100.0)
    with TensorBoardLog(str(tmp_path)) as scalars:
        handler = RunMonitor(5, status, scalars)
        handler.handle([("log", (logging.INFO, "a worker's message")), ("started", "2 workers on cpu")])
        assert status.workers_running.is_set()
        handler.handle([("progress", EpochProgress(2, 16, 1000, 0.6, 1234.5, 61.0))])
        handler.handle([SAVED, ("epoch", (EPOCH, True))])
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
    with TensorBoardLog(str(tmp_path / "again")) as scalars:
        RunMonitor(5, status, scalars).handle([("lost", "killed")])
    assert messages[-1] == "workers were lost (killed); restarting from the last checkpoint"
    assert not status.workers_running.is_set()


def test_a_terminal_shows_epochs_as_a_table_and_positions_in_a_bar(
    tmp_path: Path, messages: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The header is printed once. Epochs of an earlier command are reported, but not shown again."""
    monkeypatch.setattr(monitor.sys.stdout, "isatty", lambda: True)
    earlier, positions = [Epoch(1, 0.5, 0.4, 0.9, 0.8, 1234.5, 3.0)], []
    resumed: list[Epoch] = []
    status = RunStatus(100.0, on_resume=resumed.extend)

    def show(done: float, text: str) -> None:
        positions.append((done, text))

    with TensorBoardLog(str(tmp_path)) as scalars:
        handler = RunMonitor(5, status, scalars, show=show)
        handler.handle([("resumed", (earlier, 1)), ("progress", EpochProgress(2, 500, 1000, 0.6, 1234.5, 61.0))])
        handler.handle([("epoch", (EPOCH, True)), ("epoch", (Epoch(3, 0.5, 0.4, 0.9, 0.8, 99.0, 3.0), False))])
    assert messages == [
        "epoch  train loss  validation loss  accuracy  macro F1  examples/s\n"
        "    2      0.5000           0.4000    0.9000    0.8000       1,234  best so far",
        "    3      0.5000           0.4000    0.9000    0.8000          99",
    ]
    assert positions == [(1.5, "1,234 examples/s"), (2, "1,234 examples/s"), (3, "99 examples/s")]
    assert resumed == earlier


def test_epochs_whose_reports_were_lost_are_logged_when_the_run_resumes(tmp_path: Path) -> None:
    """Not those before the command started, and not those that were logged already."""
    epochs = [Epoch(number, 0.5, 0.4, 0.9, 0.8, 1234.5, 3.0) for number in range(1, 6)]
    status = RunStatus(100.0)
    with TensorBoardLog(str(tmp_path)) as scalars:
        handler = RunMonitor(9, status, scalars)
        handler.handle([("resumed", (epochs[:1], 1)), ("epoch", (epochs[1], True)), ("lost", "killed")])
        handler.handle([("resumed", (epochs[:4], 4)), ("epoch", (epochs[4], False))])
        [events] = tmp_path.iterdir()
        assert [step for step, _ in read_scalars(events)["validation/accuracy"]] == [2, 3, 4, 5]
    assert [status.finished_epochs.get_nowait() for _ in range(4)] == epochs[1:]


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


def test_through_ray_client_it_is_logged_once_that_there_is_no_progress(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, messages: list[str]
) -> None:
    """The controller's messages do not reach another machine, so the driver does not know when workers start."""
    monkeypatch.setattr(ray.util.client.ray, "is_connected", lambda: True)
    monkeypatch.setattr(monitor, "WORKER_WAIT_NOTICE_S", 0.0)
    monkeypatch.setattr(monitor.resources, "describe_free_resources", lambda: "no CPUs free")
    with monitor.monitor_workers(5, str(tmp_path), RunStatus(100.0), []):
        pass
    assert messages == ["on a machine outside the cluster no progress is shown through Ray Client (ray://)"]


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
