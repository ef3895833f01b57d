"""What the driver hears from its workers, and tells: lines for a person, scalars for TensorBoard."""

import logging
import queue
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from cluster import resources
from cluster.message_queue import start_message_queue
from cluster.storage import StorageError, join
from jobs.config.experiment import Experiment
from jobs.training.history import Epoch
from jobs.training.learning_curve import TensorBoardLog
from jobs.training.run_folder import RunFolder

logger = logging.getLogger(__name__)

# Without workers for so long, the driver says what they wait for.
WORKER_WAIT_NOTICE_S = 20.0

# So often the driver looks for what its workers have sent.
POLL_INTERVAL_S = 0.1


@dataclass
class RunStatus:
    """What the driver knows of its workers. started: when the command began, in seconds since 1970.

    running: there are workers. epochs: those that ended, as they come. kept: checkpoints that were written.
    times: of the last workers, as `work` gives them; step_s: that those before them spent in steps; first_step_at:
    the very first.
    """

    start_time: float
    workers_running: threading.Event = field(default_factory=threading.Event)
    finished_epochs: queue.SimpleQueue[Epoch] = field(default_factory=queue.SimpleQueue)
    num_checkpoints: int = 0
    worker_times: dict[str, float] = field(default_factory=dict)
    previous_step_seconds: float = 0.0
    first_step_time: float = 0.0

    def update_times(self, times: dict[str, float]) -> None:
        """Take note of the workers' times."""
        self.worker_times = times
        self.first_step_time = self.first_step_time or times["first_step_at"]

    def mark_workers_lost(self) -> None:
        """Take note that the workers are gone."""
        self.workers_running.clear()
        self.previous_step_seconds += self.worker_times.get("step_s", 0.0)
        self.worker_times = {}


def format_epoch(epoch: Epoch, improved: bool, left: int) -> str:
    """Return an epoch's figures on a line, with the time that so many more of its kind would take."""
    validation = ""
    if epoch.loss is not None:
        validation = (
            f"   validation loss {epoch.loss:.4f}   accuracy {epoch.accuracy:.4f}   macro F1 {epoch.macro_f1:.4f}"
        )
    time_left = f"   at most {timedelta(seconds=round(epoch.seconds * left))} left" if left else ""
    return (
        f"epoch {epoch.epoch:3d}   train loss {epoch.train_loss:.4f}{validation}"
        f"   {epoch.examples_per_second:,.0f} examples/s{time_left}{'   *' if improved else ''}"
    )


def format_epoch_progress(at: dict[str, float]) -> str:
    """Return how far a long epoch is, on a line."""
    return (
        f"epoch {at['epoch']:3d}   step {at['step']:,} of {at['steps']:,}   train loss {at['train_loss']:.4f}"
        f"   {at['examples_per_second']:,.0f} examples/s   at most {timedelta(seconds=round(at['seconds_left']))} left"
    )


@contextmanager
def monitor_workers(experiment: Experiment, run: RunFolder, heard: RunStatus) -> Iterator[Any]:
    """Hold a mailbox for the first worker's (kind, value); they are said as they come, and epochs logged."""
    import ray

    box = start_message_queue()
    ended = threading.Event()
    with TensorBoardLog(join(run.path, "tensorboard")) as scalars:
        tell = (box, ended, experiment.train.last_epoch, heard, scalars)
        teller = threading.Thread(target=_tell, args=tell, daemon=True)
        teller.start()
        try:
            yield box
        finally:
            ended.set()
            teller.join(timeout=60)
            ray.kill(box)


def _tell(box: Any, ended: threading.Event, epochs: int, heard: RunStatus, scalars: TensorBoardLog) -> None:
    import ray

    last = time.monotonic()
    while True:
        last_round = ended.wait(POLL_INTERVAL_S)
        for kind, value in ray.get(box.drain.remote()):
            last = time.monotonic()
            if kind == "log":
                logger.log(*value)
            elif kind == "started":
                logger.info(f"training with {value}")
                heard.workers_running.set()
            elif kind == "progress":
                logger.info(format_epoch_progress(value))
            elif kind == "saved":
                heard.num_checkpoints += 1
                heard.update_times(value)
            elif kind == "epoch":
                epoch, improved = value
                heard.finished_epochs.put(epoch)
                logger.info(format_epoch(epoch, improved, epochs - epoch.epoch))
                try:
                    scalars.log_epoch(epoch)
                except StorageError as error:  # a full disk: the workers will say so too
                    logger.info(str(error))
        if last_round:
            return
        if not heard.workers_running.is_set() and time.monotonic() - last > WORKER_WAIT_NOTICE_S:
            last = time.monotonic()
            logger.info(f"waiting for workers; {resources.describe_free_resources()}")
