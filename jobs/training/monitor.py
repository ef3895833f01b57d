"""Monitor of a training run: Ray Train's callback, which receives the reports, and the driver's log of them.

Ray calls the callback in the controller, an actor on the driver's node. A file passes the messages of the reports on to
the driver.
"""

import logging
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import ray.util.client
from ray.train import UserCallback

from cluster import first_line, resources, to_single_line
from cluster.console.logs import limit_logs
from cluster.console.progress import Report, count_bar
from cluster.console.tables import GrowingTable
from cluster.message_queue import MessageFile, MessageFilePoller
from cluster.storage import StorageError, join
from jobs.training.history import Epoch, EpochProgress, EpochReport
from jobs.training.run_files.learning_curve import TensorBoardLog

logger = logging.getLogger(__name__)

# Time without workers after which the driver logs what the run waits for.
WORKER_WAIT_NOTICE_S = 20.0

POLL_INTERVAL_S = 0.1

# Consecutive losses of workers, or of the controller, without a new checkpoint; the next one ends the run.
MAX_FAILURES_WITHOUT_CHECKPOINT = 3


@dataclass(frozen=True)
class WorkerTimes:
    """Times of one set of workers. first_step_time: in seconds since 1970; step_seconds: spent in steps so far."""

    first_step_time: float
    step_seconds: float


@dataclass
class RunStatus:
    """State of a run as its driver knows it.

    start_time: of the command, in seconds since 1970. workers_running: set while there are workers. finished_epochs:
    queue of epochs, as they end. num_checkpoints: checkpoints written. worker_times: of the current workers.
    previous_step_seconds: time that lost workers spent in steps. first_step_time: of the run's first workers. on_epoch:
    called with each finished epoch. on_resume: called with the epochs of an earlier command.
    result: Ray Train's result, once the run has ended. stop_monitor: removes what the monitor of a run that does not
    end would leave.
    """

    start_time: float
    workers_running: threading.Event = field(default_factory=threading.Event)
    finished_epochs: queue.SimpleQueue[Epoch] = field(default_factory=queue.SimpleQueue)
    num_checkpoints: int = 0
    worker_times: WorkerTimes | None = None
    previous_step_seconds: float = 0.0
    first_step_time: float = 0.0
    result: Any = None
    on_epoch: Callable[[Epoch], None] = lambda epoch: None
    on_resume: Callable[[Sequence[Epoch]], None] = lambda epochs: None
    stop_monitor: Callable[[], None] = lambda: None

    def update_times(self, times: WorkerTimes) -> None:
        """Record the times of the current workers."""
        self.worker_times = times
        self.first_step_time = self.first_step_time or times.first_step_time

    def mark_workers_lost(self) -> None:
        """Record that there are no workers."""
        self.workers_running.clear()
        if self.worker_times is not None:
            self.previous_step_seconds += self.worker_times.step_seconds
        self.worker_times = None

    def format_times(self) -> str:
        """Return the duration of the command until now and what it consists of, as a line."""
        seconds = time.time() - self.start_time
        step_seconds = self.previous_step_seconds + (self.worker_times.step_seconds if self.worker_times else 0)
        first_step = f", the first step finished after {self.first_step_time - self.start_time:.1f} s"
        return f"{seconds:.1f} s in total, {step_seconds:.1f} s of it in training steps" + (
            first_step if self.first_step_time else ""
        )


class NoProgressError(Exception):
    """Workers were lost again and again without a new checkpoint."""


class RunCallback(UserCallback):
    """Callback of Ray Train: forwards the reports of a run, and ends the run if restarts bring no new checkpoint.

    Args:
        send: receives the messages of the reports.
        callbacks: of the user; they receive the reports that have metrics.
    """

    # For the callbacks in local mode, where Ray Train calls none.
    run_context: Any = None

    def __init__(self, send: Callable[[list[tuple[str, Any]]], None], callbacks: Sequence[UserCallback] = ()) -> None:
        self.send, self._callbacks = send, callbacks
        self._max_failures = MAX_FAILURES_WITHOUT_CHECKPOINT
        self._failures = 0  # since the last checkpoint

    def after_report(self, run_context: Any, metrics: Sequence[Any], checkpoint: Any) -> None:
        """Forward a report; `metrics` are those of each worker, the first an `EpochReport`."""
        report = metrics[0]
        assert isinstance(report, EpochReport)
        messages, report.messages = report.messages, []  # Ray Train stores the report
        if any(kind == "saved" for kind, _ in messages):
            self._failures = 0
        self.send(messages)
        if report:
            for callback in self._callbacks:
                callback.after_report(run_context, list(metrics), checkpoint)

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Forward the loss of workers; NoProgressError, which ends the run, if there were too many."""
        for callback in self._callbacks:
            callback.after_exception(run_context, worker_exceptions)
        self._failures += 1
        loss = describe_loss(worker_exceptions)
        if self._failures > self._max_failures:
            raise NoProgressError(f"the workers were lost {self._failures} times without progress: {loss}")
        self.send([("lost", loss)])


def describe_loss(worker_exceptions: dict[int, Exception]) -> str:
    """Return which worker was lost and why, on one line."""
    messages = [" ".join(str(exception).split()) for exception in worker_exceptions.values()]
    # The remaining workers fail with connection errors because of the one that was lost.
    messages.sort(key=lambda message: "gloo" in message.lower() or "Connection" in message)
    return to_single_line(messages[0], 300)


class RunMonitor:
    """Driver's handler of the messages in a run's reports, which are pairs (kind, value).

    Args:
        last_epoch: of the run, if it does not stop earlier.
        status: updated by the messages.
        scalars: receives each epoch.
        receives_messages: False if it does not learn when the workers start.
        show: shows how many epochs are done, and a text; where it is None, positions in long epochs are logged.
    """

    def __init__(
        self,
        last_epoch: int,
        status: RunStatus,
        scalars: TensorBoardLog,
        *,
        receives_messages: bool = True,
        show: Report | None = None,
    ) -> None:
        self._last_epoch, self._status, self._scalars = last_epoch, status, scalars
        self._receives_messages = receives_messages
        self._show = show
        self._table = GrowingTable() if sys.stdout.isatty() else None
        self._last_notice = time.monotonic()
        self._num_epochs: int | None = None  # None before the first workers start

    def handle(self, messages: list[tuple[str, Any]]) -> None:
        """Log new messages and update the status; without any for a while, log what the run waits for."""
        for kind, value in messages:
            self._last_notice = time.monotonic()
            if kind == "log":
                logger.log(*value)
            elif kind == "started":
                logger.info(f"training with {value}")
                self._status.workers_running.set()
            elif kind == "resumed":
                self._handle_resumed(*value)
            elif kind == "progress":
                self._handle_progress(value)
            elif kind == "saved":
                self._status.num_checkpoints += 1
                self._status.update_times(value)
            elif kind == "lost":
                self._status.mark_workers_lost()
                logger.warning(f"workers were lost ({value}); restarting from the last checkpoint")
            elif kind == "epoch":
                self._handle_epoch(*value)
        waiting_s = time.monotonic() - self._last_notice
        is_waiting = self._receives_messages and not self._status.workers_running.is_set()
        if is_waiting and waiting_s > WORKER_WAIT_NOTICE_S:
            self._last_notice = time.monotonic()
            logger.info(f"waiting for the workers to start; {resources.describe_free_resources()}")

    def _handle_resumed(self, epochs: list[Epoch], best: int) -> None:
        """Handle epochs whose checkpoints were written, but whose reports were lost with their workers."""
        if self._num_epochs is None:
            self._status.on_resume(epochs)
        for epoch in epochs[self._num_epochs :] if self._num_epochs is not None else ():
            self._handle_epoch(epoch, epoch.epoch == best)
        self._num_epochs = len(epochs)

    def _handle_progress(self, progress: EpochProgress) -> None:
        if self._show is None:
            logger.info(format_epoch_progress(progress))
        else:
            text = f"{progress.examples_per_second:,.0f} examples/s"
            self._show(progress.epoch - 1 + progress.step / progress.steps, text)

    def _handle_epoch(self, epoch: Epoch, improved: bool) -> None:
        self._num_epochs = epoch.epoch
        self._status.finished_epochs.put(epoch)
        self._status.on_epoch(epoch)
        if self._table is not None:
            logger.info(self._table.format_row(list_metrics(epoch), "best so far" if improved else ""))
        else:
            logger.info(format_epoch(epoch, improved, self._last_epoch - epoch.epoch))
        if self._show is not None:
            self._show(epoch.epoch, f"{epoch.examples_per_second:,.0f} examples/s")
        try:
            self._scalars.log_epoch(epoch)
        except StorageError as error:  # the next checkpoint will end the run if the disk is full
            logger.warning(str(error))


@contextmanager
def monitor_workers(
    last_epoch: int, path: str, status: RunStatus, callbacks: Sequence[UserCallback], *, in_process: bool = False
) -> Iterator[RunCallback]:
    """Context manager: yield the callback of a run, whose messages are handled as they arrive.

    Args:
        last_epoch: of the run, if it does not stop earlier.
        path: of the run's folder.
        status: updated by the messages.
        callbacks: of the user.
        in_process: the only worker is this process.
    """
    client: Any = ray.util.client.ray  # has no type information
    # The controller runs on a node of the cluster, the driver perhaps elsewhere, without a file in common.
    is_client = not in_process and client.is_connected()
    if is_client:
        logger.info("on a machine outside the cluster no progress is shown through Ray Client (ray://)")
    with TensorBoardLog(join(path, "tensorboard")) as scalars, count_bar("epoch", last_epoch, logger) as show:
        monitor = RunMonitor(last_epoch, status, scalars, receives_messages=not is_client, show=show)
        if in_process:
            with limit_logs("ray.train", logging.WARNING):  # it would log that it runs in local mode
                yield RunCallback(monitor.handle, callbacks)
            return
        with MessageFilePoller(MessageFile(), monitor.handle, POLL_INTERVAL_S, _warn) as poller:
            status.stop_monitor = poller.close
            yield RunCallback(poller.queue.put, callbacks)


def _warn(error: Exception) -> None:
    logger.warning(f"the progress of the run is no longer shown: {first_line(error)}")


def format_epoch(epoch: Epoch, improved: bool, remaining: int) -> str:
    """Return an epoch's metrics as a line, with the time that the remaining epochs take at most."""
    validation = ""
    if epoch.loss is not None:
        micro_f1 = "" if epoch.micro_f1 is None else f"   micro F1 {epoch.micro_f1:.4f}"
        validation = (
            f"   validation loss {epoch.loss:.4f}{micro_f1}   accuracy {epoch.accuracy:.4f}"
            f"   macro F1 {epoch.macro_f1:.4f}"
        )
    time_left = f"   at most {timedelta(seconds=round(epoch.seconds * remaining))} left" if remaining else ""
    return (
        f"epoch {epoch.epoch:3d}   train loss {epoch.train_loss:.4f}{validation}"
        f"   {epoch.examples_per_second:,.0f} examples/s{time_left}{'   best so far' if improved else ''}"
    )


def list_metrics(epoch: Epoch) -> Mapping[str, str]:
    """Return an epoch's metrics as the row of a table."""
    values = {
        "epoch": f"{epoch.epoch}",
        "train loss": f"{epoch.train_loss:.4f}",
        "validation loss": _format_metric(epoch.loss),
        "micro F1": _format_metric(epoch.micro_f1),
        "accuracy": _format_metric(epoch.accuracy),
        "macro F1": _format_metric(epoch.macro_f1),
        "examples/s": f"{epoch.examples_per_second:,.0f}",
    }
    return {name: value for name, value in values.items() if value}


def _format_metric(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def format_epoch_progress(progress: EpochProgress) -> str:
    """Return the position in a long epoch as a line."""
    return (
        f"epoch {progress.epoch:3d}   step {progress.step:,} of {progress.steps:,}"
        f"   train loss {progress.train_loss:.4f}   {progress.examples_per_second:,.0f} examples/s"
        f"   at most {timedelta(seconds=round(progress.seconds_left))} left"
    )
