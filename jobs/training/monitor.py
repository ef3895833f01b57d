"""Driver-side monitor of a training run: logs what the workers send, and writes TensorBoard scalars."""

import logging
import queue
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from cluster import first_line, resources
from cluster.message_queue import DirectSender, MessagePoller, MessageSender, QueueSender, start_message_queue
from cluster.storage import StorageError, join
from jobs.training.history import Epoch, EpochProgress
from jobs.training.learning_curve import TensorBoardLog

logger = logging.getLogger(__name__)

# Time without workers after which the driver logs what the run waits for.
WORKER_WAIT_NOTICE_S = 20.0

POLL_INTERVAL_S = 0.1


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
    previous_step_seconds: time that lost workers spent in steps. first_step_time: of the run's first workers.
    """

    start_time: float
    workers_running: threading.Event = field(default_factory=threading.Event)
    finished_epochs: queue.SimpleQueue[Epoch] = field(default_factory=queue.SimpleQueue)
    num_checkpoints: int = 0
    worker_times: WorkerTimes | None = None
    previous_step_seconds: float = 0.0
    first_step_time: float = 0.0

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


class RunMonitor:
    """Handler of the messages of a run's first worker, which are pairs (kind, value).

    Args:
        last_epoch: of the run, if it does not stop earlier.
        status: updated by the messages.
        scalars: receives each epoch.
    """

    def __init__(self, last_epoch: int, status: RunStatus, scalars: TensorBoardLog) -> None:
        self._last_epoch, self._status, self._scalars = last_epoch, status, scalars
        self._last_notice = time.monotonic()

    def handle(self, messages: list[tuple[str, Any]]) -> None:
        """Log new messages and update the status; without any for a while, log what the run waits for."""
        for kind, value in messages:
            self._last_notice = time.monotonic()
            if kind == "log":
                logger.log(*value)
            elif kind == "started":
                logger.info(f"training with {value}")
                self._status.workers_running.set()
            elif kind == "progress":
                logger.info(format_epoch_progress(value))
            elif kind == "saved":
                self._status.num_checkpoints += 1
                self._status.update_times(value)
            elif kind == "epoch":
                self._handle_epoch(*value)
        waiting_s = time.monotonic() - self._last_notice
        if not self._status.workers_running.is_set() and waiting_s > WORKER_WAIT_NOTICE_S:
            self._last_notice = time.monotonic()
            logger.info(f"waiting for the workers to start; {resources.describe_free_resources()}")

    def _handle_epoch(self, epoch: Epoch, improved: bool) -> None:
        self._status.finished_epochs.put(epoch)
        logger.info(format_epoch(epoch, improved, self._last_epoch - epoch.epoch))
        try:
            self._scalars.log_epoch(epoch)
        except StorageError as error:  # the next checkpoint will end the run if the disk is full
            logger.warning(str(error))


@contextmanager
def monitor_workers(
    last_epoch: int, path: str, status: RunStatus, *, in_process: bool = False
) -> Iterator[MessageSender]:
    """Context manager: yield a sender for the first worker, whose messages are handled as they arrive.

    Args:
        last_epoch: of the run, if it does not stop earlier.
        path: of the run's folder.
        status: updated by the messages.
        in_process: the only worker is this process; no Ray actor is started.
    """
    with TensorBoardLog(join(path, "tensorboard")) as scalars:
        monitor = RunMonitor(last_epoch, status, scalars)
        if in_process:
            yield DirectSender(monitor.handle)
            return
        with MessagePoller(start_message_queue(), monitor.handle, POLL_INTERVAL_S, _warn) as poller:
            yield QueueSender(poller.queue)


def _warn(error: Exception) -> None:
    logger.warning(f"the progress of the run is no longer shown: {first_line(error)}")


def format_epoch(epoch: Epoch, improved: bool, remaining: int) -> str:
    """Return an epoch's metrics as a line, with the time that the remaining epochs take at most."""
    validation = ""
    if epoch.loss is not None:
        validation = (
            f"   validation loss {epoch.loss:.4f}   accuracy {epoch.accuracy:.4f}   macro F1 {epoch.macro_f1:.4f}"
        )
    time_left = f"   at most {timedelta(seconds=round(epoch.seconds * remaining))} left" if remaining else ""
    return (
        f"epoch {epoch.epoch:3d}   train loss {epoch.train_loss:.4f}{validation}"
        f"   {epoch.examples_per_second:,.0f} examples/s{time_left}{'   best so far' if improved else ''}"
    )


def format_epoch_progress(progress: EpochProgress) -> str:
    """Return the position in a long epoch as a line."""
    return (
        f"epoch {progress.epoch:3d}   step {progress.step:,} of {progress.steps:,}"
        f"   train loss {progress.train_loss:.4f}   {progress.examples_per_second:,.0f} examples/s"
        f"   at most {timedelta(seconds=round(progress.seconds_left))} left"
    )
