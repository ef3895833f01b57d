"""Progress of a run: the best epoch, its JSON form, and when a run is finished."""

import json
from dataclasses import replace

from jobs.training.history import Epoch, Progress, comparison_key, replace_epoch
from tests.support.trial_records import make_epoch


def test_the_best_epoch_is_selected_by_the_configured_metric() -> None:
    """A lower loss or a higher accuracy is better; among equals the lower loss decides."""
    epoch = Epoch(1, 0.5, 0.4, 0.9, 0.8, 100.0, 1.0)
    assert [comparison_key(vars(epoch), metric)[0] for metric in ("loss", "accuracy", "macro_f1")] == [-0.4, 0.9, 0.8]
    progress = Progress()
    assert progress.add(epoch, "accuracy")
    assert not progress.add(Epoch(2, 0.5, 0.4, 0.9, 0.9, 100.0, 1.0), "accuracy")
    assert not progress.add(Epoch(3, 0.5, 0.1, 0.8, 0.8, 100.0, 1.0), "accuracy")
    assert progress.add(Epoch(4, 0.5, 0.3, 0.9, 0.8, 100.0, 1.0), "accuracy")
    assert progress.best == 4


def test_epochs_of_earlier_versions_are_read() -> None:
    """They have no balanced accuracy; a run that selects by another metric continues with epochs that have one."""
    values = Progress([make_epoch(1, 0.5)], best=1).to_json()
    assert "balanced_accuracy" not in values["epochs"][0]
    progress = Progress.from_json(json.loads(json.dumps(values)))
    assert progress.add(replace(make_epoch(2, 0.6), balanced_accuracy=0.3, matthews_correlation=0.2), "accuracy")
    assert Progress.from_json(progress.to_json()) == progress
    assert progress.to_json()["epochs"][1]["balanced_accuracy"] == 0.3


def test_without_a_validation_part_the_last_epoch_is_the_best() -> None:
    progress = Progress()
    assert all(progress.add(Epoch(number, 1, None, None, None, 1, 1), "accuracy") for number in (1, 2))
    assert progress.best == 2


def test_progress_keeps_every_bit_as_json() -> None:
    """Numbers without a short decimal form are restored exactly."""
    progress = Progress([Epoch(1, 1 / 3, 0.1 + 0.2, 0.9, 0.8, 100.0, 1.0)], best=1, steps=7, train_loss=2 / 7)
    assert Progress.from_json(json.loads(json.dumps(progress.to_json()))) == progress


def test_a_run_ends_after_its_epochs_or_when_nothing_improves() -> None:
    """Epochs with frozen vectors do not count for patience."""
    epochs = [Epoch(number, 1, 1, 0.5, 0.5, 1, 1) for number in range(1, 5)]
    assert Progress(epochs, best=4).is_finished(4, patience=9, frozen_epochs=0)
    assert Progress(epochs, best=1).is_finished(9, patience=3, frozen_epochs=0)
    assert not Progress(epochs, best=1).is_finished(9, patience=3, frozen_epochs=2)
    assert not Progress(epochs, best=2).is_finished(9, patience=3, frozen_epochs=0)


def test_lost_epochs_are_replaced() -> None:
    """The best epoch is the best of those that remain."""
    progress = Progress()
    for number, accuracy in ((1, 0.5), (2, 0.7), (3, 0.9), (4, 0.8)):
        progress = replace_epoch(progress, make_epoch(number, accuracy), "accuracy")
    assert progress.best == 3
    again = replace_epoch(progress, make_epoch(3, 0.6), "accuracy")
    assert [epoch.accuracy for epoch in again.epochs] == [0.5, 0.7, 0.6]
    assert again.best == 2
