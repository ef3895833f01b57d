"""How a run went, epoch after epoch: a table, a picture, and scalars for TensorBoard."""

import io
import tempfile
import time
from pathlib import Path
from typing import Any, Self

from cluster.storage import join, write_bytes
from jobs.training.history import Epoch, Progress


def format_table(progress: Progress) -> list[str]:
    """Return the epochs as lines of text, the best one marked."""
    lines = [f"{'epoch':>5}  {'train loss':>10}  {'loss':>7}  {'accuracy':>8}  {'macro F1':>8}  {'examples/s':>10}"]
    for epoch in progress.epochs:
        best = "  best" if epoch.epoch == progress.best else ""
        validated = zip((epoch.loss, epoch.accuracy, epoch.macro_f1), (7, 8, 8), strict=True)
        figures = "  ".join(f"{'-' if value is None else f'{value:.4f}':>{width}}" for value, width in validated)
        lines.append(f"{epoch.epoch:5d}  {epoch.train_loss:10.4f}  {figures}  {epoch.examples_per_second:10,.0f}{best}")
    return lines


def plot(progress: Progress) -> bytes:
    """Return a PNG: losses on the left, accuracy and macro F1 on the right, the best epoch marked."""
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
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=120)
    return stream.getvalue()


class TensorBoardLog:
    """A TensorBoard log in a folder, a path or URI: losses, accuracy, macro F1 and examples a second, by epoch.

    It is written beside, and brought there after each epoch, since not every storage can append.
    """

    def __init__(self, path: str) -> None:
        from tensorboardX.event_file_writer import EventsWriter

        self._path = path
        self._folder = tempfile.TemporaryDirectory()
        # Not its SummaryWriter, which writes from a thread that no flush waits for.
        self._writer = EventsWriter(str(Path(self._folder.name, "events")))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()
        self._folder.cleanup()

    def log_epoch(self, epoch: Epoch) -> None:
        """Write an epoch's, to be seen at once; StorageError if it cannot be brought there."""
        self.add_epoch(epoch)
        self.flush()

    def add_epoch(self, epoch: Epoch) -> None:
        """Write an epoch's, to be brought there later."""
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
        """Return a scalar as TensorBoard's log holds it."""
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import scalar

        return Event(wall_time=time.time(), step=step, summary=scalar(name, value))

    def add_event(self, event: Any) -> None:
        """Write an event, to be brought there later."""
        self._writer.write_event(event)

    def flush(self) -> None:
        """Bring all that was written to where it is read; StorageError if it cannot be."""
        self._writer.flush()
        for log in Path(self._folder.name).iterdir():
            write_bytes(join(self._path, log.name), log.read_bytes())
