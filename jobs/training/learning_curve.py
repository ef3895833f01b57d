"""Learning curve of a run: a text table, a plot, and scalars for TensorBoard."""

import io
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from cluster.storage import join, write_bytes
from cluster.tables import format_text_table
from jobs.training.history import Epoch, Progress

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def format_table(progress: Progress) -> str:
    """Return a text table with a row per epoch, the best one marked."""

    def format_metric(value: float | None) -> str:
        return "-" if value is None else f"{value:.4f}"

    return format_text_table(
        [
            {
                "epoch": epoch.epoch,
                "train loss": format_metric(epoch.train_loss),
                "loss": format_metric(epoch.loss),
                "accuracy": format_metric(epoch.accuracy),
                "macro F1": format_metric(epoch.macro_f1),
                "examples/s": f"{epoch.examples_per_second:,.0f}",
                "": "best" if epoch.epoch == progress.best else "",
            }
            for epoch in progress.epochs
        ]
    )


def plot(progress: Progress) -> bytes:
    """Return the learning curve as a PNG."""
    stream = io.BytesIO()
    draw_learning_curve(progress).savefig(stream, format="png", dpi=120)
    return stream.getvalue()


def draw_learning_curve(progress: Progress) -> "Figure":
    """Return a figure: losses on the left, accuracy and macro F1 on the right, the best epoch marked."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    numbers = [epoch.epoch for epoch in progress.epochs]
    for axes, names in ((left, ("train_loss", "loss")), (right, ("accuracy", "macro_f1"))):
        for name in names:
            label = {"train_loss": "training loss", "loss": "validation loss"}.get(name, name.replace("_f1", " F1"))
            values = [getattr(epoch, name) for epoch in progress.epochs]
            if None not in values:
                axes.plot(numbers, values, marker=".", label=label)
        axes.axvline(progress.best, color="grey", linewidth=1, linestyle=":", label=f"best epoch, {progress.best}")
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend()
    return figure


class TensorBoardLog:
    """TensorBoard log in a folder (a path or URI): losses, accuracy, macro F1 and examples per second, by epoch.

    The log is written to a temporary file and copied to the folder after each epoch: not every storage can append.
    """

    def __init__(self, path: str) -> None:
        from tensorboardX.event_file_writer import EventsWriter

        self._path = path
        self._folder = tempfile.TemporaryDirectory()
        # Not SummaryWriter: its flush() does not wait for its thread.
        self._writer = EventsWriter(str(Path(self._folder.name, "events")))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()
        self._folder.cleanup()

    def log_epoch(self, epoch: Epoch) -> None:
        """Write an epoch's scalars and copy the log to its folder; StorageError if it cannot be copied."""
        self.add_epoch(epoch)
        self.flush()

    def add_epoch(self, epoch: Epoch) -> None:
        """Write an epoch's scalars; `flush` copies them."""
        for name, value in (
            ("loss/train", epoch.train_loss),
            ("loss/validation", epoch.loss),
            ("validation/accuracy", epoch.accuracy),
            ("validation/macro_f1", epoch.macro_f1),
            ("speed/examples_per_second", epoch.examples_per_second),
        ):
            if value is not None:
                self.add_event(self.scalar_event(name, value, epoch.epoch))

    @staticmethod
    def scalar_event(name: str, value: float, step: int) -> Any:
        """Return a scalar as an event of TensorBoard's log."""
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import scalar

        return Event(wall_time=time.time(), step=step, summary=scalar(name, value))

    def add_event(self, event: Any) -> None:
        """Write an event; `flush` copies it."""
        self._writer.write_event(event)

    def flush(self) -> None:
        """Copy everything written to the log's folder; StorageError if it cannot be copied."""
        self._writer.flush()
        for log in Path(self._folder.name).iterdir():
            write_bytes(join(self._path, log.name), log.read_bytes())
