"""Trials are kept one by one, and compared."""

from pathlib import Path

from jobs.config.experiment import Experiment
from jobs.search.records import RecordStore, TrialRecord, objective_metric, select_best_record


def epoch(number: int, accuracy: float, loss: float) -> dict:
    return {
        "epoch": number,
        "accuracy": accuracy,
        "loss": loss,
        "macro_f1": accuracy,
        "train_loss": loss,
        "seconds": 1.0,
    }


def test_what_was_written_is_read(tmp_path: Path) -> None:
    """By number, whatever the order of writing; none where nothing was."""
    ledger = RecordStore(str(tmp_path / "trials"))
    assert ledger.read() == []
    second = TrialRecord(2, {"model.dropout": 0.1}, "failed", "out of memory", "a traceback")
    first = TrialRecord(1, {"model.filter_widths": [3, 4]}, "finished", epochs=[epoch(1, 0.5, 0.7)], best=1, ended=3.5)
    for each in (second, first):
        ledger.write(each)
    assert ledger.read() == [first, second]
    assert second.best_metrics == {}
    assert first.best_metrics["accuracy"] == 0.5


def test_the_best_is_by_the_objective_then_the_loss_then_the_first() -> None:
    """Of each trial's best epoch; a trial without one is none."""
    records = [
        TrialRecord(1, {}, "failed"),
        TrialRecord(2, {}, "finished", epochs=[epoch(1, 0.8, 0.5), epoch(2, 0.7, 0.2)], best=1),
        TrialRecord(3, {}, "stopped", epochs=[epoch(1, 0.8, 0.4)], best=1),
        TrialRecord(4, {}, "finished", epochs=[epoch(1, 0.8, 0.4)], best=1),
    ]
    assert select_best_record(records, "accuracy") == records[2]
    assert select_best_record(records[:1], "accuracy") is None
    assert select_best_record(records, "loss") == records[2]


def test_the_objective_is_that_of_training_unless_told_otherwise() -> None:
    """tune.metric before train.metric."""
    assert objective_metric(Experiment().replace({"train.metric": "macro_f1"})) == "macro_f1"
    assert objective_metric(Experiment().replace({"train.metric": "macro_f1", "tune.metric": "loss"})) == "loss"


def test_what_a_trial_was_begun_with_is_kept_apart(tmp_path: Path) -> None:
    """It is no record yet."""
    ledger = RecordStore(str(tmp_path / "trials"))
    assert ledger.read_started() == {}
    ledger.write_started(3, {"model.dropout": 0.5})
    assert ledger.read_started() == {3: {"model.dropout": 0.5}}
    assert ledger.read() == []
