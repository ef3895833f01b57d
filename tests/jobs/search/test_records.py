"""Records of trials are written one by one, read again, and compared."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jobs.config.experiment import Experiment
from jobs.search.records import (
    MAX_RECORDED_ROWS,
    REPORT_KEY,
    RecordStore,
    TrialRecord,
    TrialReport,
    apply_trial_settings,
    decode_predictions,
    encode_predictions,
    format_trial_line,
    objective_metric,
    select_best_record,
)
from jobs.training.history import Progress
from tests.support.trial_records import make_epoch


def test_written_records_are_read_in_order(tmp_path: Path) -> None:
    """By number, whatever the order of writing; an empty list if there is no folder."""
    store = RecordStore(str(tmp_path / "trials"))
    assert store.read() == []
    second = TrialRecord(2, {"model.dropout": 0.1}, "failed", "out of memory", "a traceback")
    first = TrialRecord(1, {"model.filter_widths": [3, 4]}, "finished", epochs=[make_epoch(1, 0.5)], best=1, ended=3.5)
    for record in (second, first):
        store.write(record)
    assert store.read() == [first, second]
    assert second.best_epoch is None
    with pytest.raises(ValueError, match="trial 2 has no epoch"):
        second.best_value("accuracy")
    assert first.best_value("accuracy") == 0.5


def test_a_record_file_contains_the_figures_of_each_epoch(tmp_path: Path) -> None:
    """Files of earlier versions have the same keys."""
    record = TrialRecord(3, {}, "stopped", "slow", epochs=[make_epoch(1, 0.75)], best=1, ended=3.5, seconds=0.5)
    RecordStore(str(tmp_path)).write(record)
    assert json.loads((tmp_path / "00003.json").read_text()) == {
        "number": 3, "settings": {}, "status": "stopped", "reason": "slow", "detail": "", "best": 1, "ended": 3.5,
        "seconds": 0.5, "epochs": [{"epoch": 1, "train_loss": 0.1, "loss": 0.25, "accuracy": 0.75, "macro_f1": 0.75,
                                    "examples_per_second": 10.0, "seconds": 0.5}],
    }  # fmt: skip


@pytest.mark.parametrize("classes", [1, 2, 150, 300])
def test_predictions_of_a_trial_are_stored_with_its_record(classes: int, tmp_path: Path) -> None:
    """In few bytes, as text; those of very many rows are not."""
    predicted = np.random.default_rng(0).integers(0, classes, 500)
    record = TrialRecord(
        1, {}, "finished", epochs=[make_epoch(1, 0.5)], best=1, predicted=encode_predictions(predicted)
    )
    store = RecordStore(str(tmp_path))
    store.write(record)
    [read] = store.read()
    assert read == record
    np.testing.assert_array_equal(decode_predictions(read.predicted), predicted)
    assert len(read.predicted) < (800 if classes <= 256 else 1500)
    assert encode_predictions(np.zeros(MAX_RECORDED_ROWS + 1, int)) == ""


def test_the_best_record_is_chosen_by_the_objective_then_the_loss_then_the_number() -> None:
    """Each trial counts with its best epoch; a trial without one is ignored."""
    records = [
        TrialRecord(1, {}, "failed"),
        TrialRecord(2, {}, "finished", epochs=[make_epoch(1, 0.8, 0.5), make_epoch(2, 0.7, 0.2)], best=1),
        TrialRecord(3, {}, "stopped", epochs=[make_epoch(1, 0.8, 0.4)], best=1),
        TrialRecord(4, {}, "finished", epochs=[make_epoch(1, 0.8, 0.4)], best=1),
    ]
    assert select_best_record(records, "accuracy") == records[2]
    assert select_best_record(records[:1], "accuracy") is None
    assert select_best_record(records, "loss") == records[2]


def test_the_objective_is_tune_metric_or_else_train_metric() -> None:
    assert objective_metric(Experiment().replace({"train.metric": "macro_f1"})) == "macro_f1"
    assert objective_metric(Experiment().replace({"train.metric": "macro_f1", "tune.metric": "loss"})) == "loss"


def test_settings_of_started_trials_are_stored_separately(tmp_path: Path) -> None:
    """They are not records."""
    store = RecordStore(str(tmp_path / "trials"))
    assert store.read_started() == {}
    store.write_started(3, {"model.dropout": 0.5})
    assert store.read_started() == {3: {"model.dropout": 0.5}}
    assert store.read() == []


def test_the_time_spent_on_a_search_is_stored_next_to_its_records(tmp_path: Path) -> None:
    store = RecordStore(str(tmp_path / "trials"))
    assert store.read_elapsed() == 0
    store.write_elapsed(61.25)
    assert store.read_elapsed() == pytest.approx(61.25, abs=0.06)
    assert store.read() == []


def test_a_trial_is_numbered_on_the_console_as_in_its_folder_and_report() -> None:
    """Not by the order in which the trials ended."""
    record = TrialRecord(7, {"model.dropout": 0.25}, "stopped", "slow", epochs=[make_epoch(1, 0.5)], best=1)
    expected = "trial   7 of 8   accuracy 0.5000 in epoch 1 of 1 (stopped early)   dropout=0.25"
    assert format_trial_line(record, "accuracy", " of 8") == expected


def test_a_trial_has_its_own_settings_the_epochs_of_the_search_and_the_objective_as_metric() -> None:
    """Unless the epochs are searched."""
    experiment = Experiment().replace({"tune.epochs": 5, "tune.metric": "macro_f1", "train.epochs": 3})
    chosen = apply_trial_settings(experiment, {"model.dropout": 0.25, "seed": 3})
    assert (chosen.model.dropout, chosen.seed, chosen.train.epochs, chosen.train.metric) == (0.25, 3, 5, "macro_f1")
    assert apply_trial_settings(experiment, {"train.epochs": 2}).train.epochs == 2
    assert apply_trial_settings(experiment.replace({"tune.epochs": None}), {}).train.epochs == 3


def test_a_report_reaches_the_driver_through_a_result_of_tune() -> None:
    """Greater `objective` is better, also if the metric is minimized; a failed trial reports none."""
    progress = Progress([make_epoch(1, 0.5), make_epoch(2, 0.75)], best=2)
    report = TrialReport(progress, finished=True)
    result = report.to_tune_result("loss")
    assert (result["epoch"], result["objective"], result["finished"]) == (2, -0.25, True)
    assert (result["loss"], result["best/epoch"], result["best/accuracy"]) == (0.25, 2, 0.75)
    assert result[REPORT_KEY] is report
    report = TrialReport(Progress([replace(make_epoch(1, 0.5), balanced_accuracy=0.4)], best=1))
    result = report.to_tune_result("balanced_accuracy")
    assert (result["objective"], result["best/balanced_accuracy"]) == (0.4, 0.4)
    failure = TrialReport(progress, finished=True, error="out of memory", detail="a traceback")
    result = failure.to_tune_result("loss")
    assert not {"epoch", "objective"} & result.keys()
    assert result[REPORT_KEY] is failure


@pytest.mark.parametrize(
    ("error", "stop_reason", "status", "reason"),
    [
        ("", "", "finished", ""),
        ("", "out of time", "stopped", "out of time"),
        ("out of memory", "", "failed", "out of memory"),
        ("out of memory", "out of time", "failed", "out of memory"),
    ],
)
def test_the_record_of_a_trial_says_how_it_ended(error: str, stop_reason: str, status: str, reason: str) -> None:
    report = TrialReport(Progress([make_epoch(1, 0.5), make_epoch(2, 0.4)], best=1), error=error)
    record = TrialRecord.from_report(4, {"model.dropout": 0.1}, report, stop_reason)
    assert (record.number, record.settings, record.status) == (4, {"model.dropout": 0.1}, status)
    assert (record.reason, record.best, len(record.epochs), record.seconds) == (reason, 1, 2, 1.0)
