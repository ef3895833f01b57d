"""Learning curve of a run: table, plot, and scalars that TensorBoard reads."""

from pathlib import Path

import pytest

from jobs.training.history import Epoch, Progress
from jobs.training.run_files import learning_curve
from tests.support.tensorboard import read_scalars

PROGRESS = Progress([Epoch(n, 1 / n, 0.5, 0.7 + n / 100, 0.6, 1234.5, 2.0) for n in (1, 2, 3)], best=3)
WITHOUT_VALIDATION = Progress([Epoch(n, 1 / n, None, None, None, 1234.5, 2.0) for n in (1, 2)], best=2)


def test_the_table_marks_the_best_epoch() -> None:
    """The table has one row per epoch, below the names of the columns."""
    heading, *lines = learning_curve.format_table(PROGRESS).splitlines()
    assert heading.split()[:3] == ["epoch", "train", "loss"]
    assert [line.endswith("best") for line in lines] == [False, False, True]
    assert lines[1].split() == ["2", "0.5000", "0.5000", "0.7200", "0.6000", "1,234"]


def lines_by_label(progress: Progress) -> list[dict[str, list[tuple[float, float]]]]:
    """Return the points of each line of both panels, by label."""
    return [
        {str(line.get_label()): list(zip(line.get_xdata(), line.get_ydata(), strict=True)) for line in axes.get_lines()}
        for axes in learning_curve.draw_learning_curve(progress, "title").axes
    ]


def test_the_plot_has_every_metric_and_the_best_epoch() -> None:
    losses, scores = lines_by_label(PROGRESS)
    assert losses["training loss"] == [(1, 1), (2, 0.5), (3, pytest.approx(1 / 3))]
    assert losses["validation loss"] == [(1, 0.5), (2, 0.5), (3, 0.5)]
    assert scores["validation accuracy"] == [(n, pytest.approx(0.7 + n / 100)) for n in (1, 2, 3)]
    assert scores["validation macro F1"] == [(n, 0.6) for n in (1, 2, 3)]
    assert scores["best epoch (3)"] == [(3, 0), (3, 1)]  # over the whole height
    for panel in (losses, scores):
        assert len(panel) == 3
        assert [(3, 0), (3, 1)] in panel.values()
    assert learning_curve.plot(PROGRESS, "title").startswith(b"\x89PNG")


@pytest.mark.parametrize("epochs", [1, 3])
def test_the_plot_has_a_title_units_and_whole_epochs(epochs: int) -> None:
    """The legend is below the panels; also for a single epoch the ticks are epochs."""
    title = learning_curve.format_title("tickets", "non-static", 1200, 7)
    assert title == "tickets: learning curve (non-static)\n1,200 training rows, 7 validation rows"
    figure = learning_curve.draw_learning_curve(Progress(PROGRESS.epochs[:epochs], best=1), title)
    figure.draw_without_rendering()
    assert figure.get_suptitle() == title
    assert [axes.get_ylabel() for axes in figure.axes] == [
        "loss: mean cross-entropy (nats)",
        "accuracy, macro F1 (0 to 1)",
    ]
    for axes in figure.axes:
        assert axes.get_xlabel() == "epoch"
        low, high = axes.get_xlim()
        assert [tick for tick in axes.get_xticks() if low <= tick <= high] == list(range(1, epochs + 1))
        assert not figure.legends[0].get_window_extent().overlaps(axes.bbox)


def test_each_epoch_is_in_the_tensorboard_log_at_once(tmp_path: Path) -> None:
    """The folder is a path or URI; another writer adds a file."""
    for path in (str(tmp_path / "local"), f"file://{tmp_path}/uri"):
        with learning_curve.TensorBoardLog(path) as log:
            for epoch in PROGRESS.epochs:
                log.log_epoch(epoch)
                [written] = Path(path.removeprefix("file://")).iterdir()
                assert len(read_scalars(written)["loss/train"]) == epoch.epoch
        assert read_scalars(written)["validation/accuracy"] == [(1, 0.71), (2, 0.72), (3, 0.73)]
        assert written.name.startswith("events.out.tfevents")


def test_without_a_validation_part_there_is_only_the_training_loss(tmp_path: Path) -> None:
    """The table, the plot and the log contain only the training loss."""
    last = learning_curve.format_table(WITHOUT_VALIDATION).splitlines()[-1]
    assert last.split() == ["2", "0.5000", "-", "-", "-", "1,234", "best"]
    assert [list(panel) for panel in lines_by_label(WITHOUT_VALIDATION)] == [["training loss"]]
    assert "no validation part" in learning_curve.format_title("tickets", "rand", 9, 0)
    with learning_curve.TensorBoardLog(str(tmp_path)) as log:
        log.log_epoch(WITHOUT_VALIDATION.epochs[0])
        [written] = tmp_path.iterdir()
        assert "loss/validation" not in read_scalars(written)
        assert read_scalars(written)["loss/train"] == [(1, 1.0)]
