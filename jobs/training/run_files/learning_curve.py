"""Learning curve of a run: a text table, a plot, and scalars for TensorBoard."""

import io
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from cluster.console.tables import format_text_table
from cluster.storage import join, write_bytes
from jobs.config.label_thresholds import OPTIONAL_METRICS
from jobs.evaluation.reports.figures import (
    BLUE,
    GREEN,
    GREY,
    PURPLE,
    VERMILLION,
    add_legend,
    create_figure,
    figure_style,
    save_figure,
    shorten_label,
)
from jobs.training.history import Epoch, Progress

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Metric, label, color and marker of each curve.
LOSSES = [
    ("train_loss", "training loss", BLUE, "o"),
    ("loss", "validation loss", VERMILLION, "^"),
]
MICRO_F1 = ("micro_f1", "validation micro F1", BLUE, "o")  # with several labels per text
SCORES = [
    ("accuracy", "validation accuracy", GREEN, "s"),
    ("macro_f1", "validation macro F1", PURPLE, "D"),
]


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
                **({} if epoch.micro_f1 is None else {"micro F1": format_metric(epoch.micro_f1)}),
                "macro F1": format_metric(epoch.macro_f1),
                "examples/s": f"{epoch.examples_per_second:,.0f}",
                "": "best" if epoch.epoch == progress.best else "",
            }
            for epoch in progress.epochs
        ]
    )


def format_title(name: str, embedding: str, num_training_rows: int, num_validation_rows: int) -> str:
    """Return the title of a run's plot; `name` is the experiment's."""
    validation = f"{num_validation_rows:,} validation rows" if num_validation_rows else "no validation part"
    return f"{shorten_label(name)}: learning curve ({embedding})\n{num_training_rows:,} training rows, {validation}"


def plot(progress: Progress, title: str) -> bytes:
    """Return the learning curve as a PNG."""
    stream = io.BytesIO()
    save_figure(draw_learning_curve(progress, title), stream)
    return stream.getvalue()


@figure_style()
def draw_learning_curve(progress: Progress, title: str) -> "Figure":
    """Return a figure: losses on the left, accuracy and macro F1 on the right, the best epoch marked.

    Without a validation part there is only the training loss.
    """
    has_validation = all(epoch.loss is not None for epoch in progress.epochs)
    panels = [("loss: mean cross-entropy (nats)", LOSSES if has_validation else LOSSES[:1])]
    if has_validation:
        has_micro_f1 = all(epoch.micro_f1 is not None for epoch in progress.epochs)
        curves = [MICRO_F1, *SCORES] if has_micro_f1 else SCORES
        panels.append((f"{'micro F1, ' * has_micro_f1}accuracy, macro F1 (0 to 1)", curves))
    figure = create_figure(10 if has_validation else 6, 4.2, title)
    all_axes = figure.subplots(1, len(panels), squeeze=False)[0]
    numbers = [epoch.epoch for epoch in progress.epochs]
    for axes, (unit, curves) in zip(all_axes, panels, strict=True):
        for name, label, color, marker in curves:
            values = [getattr(epoch, name) for epoch in progress.epochs]
            axes.plot(numbers, values, color=color, marker=marker, markersize=4, label=label)
        if has_validation:
            axes.axvline(progress.best, color=GREY, linewidth=1, linestyle=":")
        axes.set(xlabel="epoch", ylabel=unit, xlim=(numbers[0] - 0.5, numbers[-1] + 0.5))
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    all_axes[0].set_ylim(bottom=0)
    if has_validation:
        all_axes[-1].lines[-1].set_label(f"best epoch ({progress.best})")
    add_legend(figure, all_axes)
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
            *((f"validation/{name}", getattr(epoch, name)) for name in OPTIONAL_METRICS),
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
