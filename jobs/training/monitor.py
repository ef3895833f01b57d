"""What the driver hears from its workers, and tells: lines for a person, scalars for TensorBoard."""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from cluster import resources
from cluster.message_queue import mailbox
from cluster.storage import StorageError, join
from jobs.config.experiment import Experiment
from jobs.training.history import Epoch
from jobs.training.learning_curve import Scalars
from jobs.training.run_folder import Run

# Without workers for so long, the driver says what they wait for.
WAITING_S = 20.0

# So often the driver looks for what its workers have sent.
TAKE_S = 0.1


@dataclass
class Heard:
    """What the driver knows of its workers. started: when the command began, in seconds since 1970.

    running: there are workers. epochs: those that ended, as they come. kept: checkpoints that were written.
    times: of the last workers, as `work` gives them; step_s: that those before them spent in steps; first_step_at:
    the very first.
    """

    started: float
    running: threading.Event = field(default_factory=threading.Event)
    epochs: queue.SimpleQueue[Epoch] = field(default_factory=queue.SimpleQueue)
    kept: int = 0
    times: dict[str, float] = field(default_factory=dict)
    step_s: float = 0.0
    first_step_at: float = 0.0

    def hear(self, times: dict[str, float]) -> None:
        """Take note of the workers' times."""
        self.times = times
        self.first_step_at = self.first_step_at or times["first_step_at"]

    def lost(self) -> None:
        """Take note that the workers are gone."""
        self.running.clear()
        self.step_s += self.times.get("step_s", 0.0)
        self.times = {}


def epoch_line(epoch: Epoch, improved: bool, left: int) -> str:
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


def within_line(at: dict[str, float]) -> str:
    """Return how far a long epoch is, on a line."""
    return (
        f"epoch {at['epoch']:3d}   step {at['step']:,} of {at['steps']:,}   train loss {at['train_loss']:.4f}"
        f"   {at['examples_per_second']:,.0f} examples/s   at most {timedelta(seconds=round(at['seconds_left']))} left"
    )


@contextmanager
def told(experiment: Experiment, run: Run, say: Callable[[str], None], heard: Heard) -> Iterator[Any]:
    """Hold a mailbox for the first worker's (kind, value); they are said as they come, and epochs logged."""
    import ray

    box = mailbox()
    ended = threading.Event()
    with Scalars(join(run.path, "tensorboard")) as scalars:
        tell = (box, ended, experiment.train.last_epoch, say, heard, scalars)
        teller = threading.Thread(target=_tell, args=tell, daemon=True)
        teller.start()
        try:
            yield box
        finally:
            ended.set()
            teller.join(timeout=60)
            ray.kill(box)


def _tell(
    box: Any,
    ended: threading.Event,
    epochs: int,
    say: Callable[[str], None],
    heard: Heard,
    scalars: Scalars,
) -> None:
    import ray

    last = time.monotonic()
    while True:
        last_round = ended.wait(TAKE_S)
        for kind, value in ray.get(box.take.remote()):
            last = time.monotonic()
            if kind == "line":
                say(value)
            elif kind == "started":
                say(f"training with {value}")
                heard.running.set()
            elif kind == "within":
                say(within_line(value))
            elif kind == "kept":
                heard.kept += 1
                heard.hear(value)
            elif kind == "epoch":
                epoch, improved = value
                heard.epochs.put(epoch)
                say(epoch_line(epoch, improved, epochs - epoch.epoch))
                try:
                    scalars.add(epoch)
                except StorageError as error:  # a full disk: the workers will say so too
                    say(str(error))
        if last_round:
            return
        if not heard.running.is_set() and time.monotonic() - last > WAITING_S:
            last = time.monotonic()
            say(f"waiting for workers; {resources.free()}")
