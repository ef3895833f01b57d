"""A run as a table, a picture, and scalars that TensorBoard reads."""

from pathlib import Path

from jobs.training import learning_curve
from jobs.training.history import Epoch, Progress
from tests.support.tensorboard import scalars

PROGRESS = Progress([Epoch(n, 1 / n, 0.5, 0.7 + n / 100, 0.6, 1234.5, 2.0) for n in (1, 2, 3)], best=3)


def test_the_table_marks_the_best_epoch() -> None:
    """A line an epoch, below their names."""
    heading, *lines = learning_curve.format_table(PROGRESS)
    assert heading.split()[:3] == ["epoch", "train", "loss"]
    assert [line.endswith("best") for line in lines] == [False, False, True]
    assert lines[1].split() == ["2", "0.5000", "0.5000", "0.7200", "0.6000", "1,234"]


def test_the_picture_is_a_png() -> None:
    """Of any number of epochs."""
    for epochs in (1, 3):
        found = learning_curve.plot(Progress(PROGRESS.epochs[:epochs], best=1))
        assert found.startswith(b"\x89PNG")


def test_each_epoch_is_in_tensorboards_log_at_once(tmp_path: Path) -> None:
    """At a path or URI; a run that goes on adds a file."""
    for path in (str(tmp_path / "local"), f"file://{tmp_path}/uri"):
        with learning_curve.TensorBoardLog(path) as log:
            for epoch in PROGRESS.epochs:
                log.log_epoch(epoch)
                [written] = Path(path.removeprefix("file://")).iterdir()
                assert len(scalars(written)["loss/train"]) == epoch.epoch
        assert scalars(written)["validation/accuracy"] == [(1, 0.71), (2, 0.72), (3, 0.73)]
        assert written.name.startswith("events.out.tfevents")


def test_a_run_without_a_validation_part_has_its_training_loss_alone(tmp_path: Path) -> None:
    """In the table, the picture and the log."""
    alone = Progress([Epoch(n, 1 / n, None, None, None, 1234.5, 2.0) for n in (1, 2)], best=2)
    assert learning_curve.format_table(alone)[-1].split() == ["2", "0.5000", "-", "-", "-", "1,234", "best"]
    assert learning_curve.plot(alone).startswith(b"\x89PNG")
    with learning_curve.TensorBoardLog(str(tmp_path)) as log:
        log.log_epoch(alone.epochs[0])
        [written] = tmp_path.iterdir()
        assert "loss/validation" not in scalars(written)
        assert scalars(written)["loss/train"] == [(1, 1.0)]
