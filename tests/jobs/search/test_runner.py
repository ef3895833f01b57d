"""Running trials: their messages to the driver."""

import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import ray

from cluster.storage import StorageError
from jobs.config.experiment import Experiment
from jobs.search import best_checkpoint
from jobs.search.best_checkpoint import handle_trial_messages
from jobs.search.records import NUMBER_KEY, REPORT_KEY, RecordStore, TrialReport
from jobs.search.runner import SearchContext, TrialRecorder
from jobs.training.history import Progress
from jobs.training.run_files.trackers import Trackers
from tests.support.trial_records import make_epoch
from tests.support.waiting import wait_for


class Queue:
    """Shared state of a search in this process. batches: the messages of one call after the other."""

    def __init__(self, *batches: list[tuple[str, Any]]) -> None:
        self._batches = [*batches]
        self.drain = SimpleNamespace(remote=lambda: self._batches.pop(0) if self._batches else [])


@pytest.fixture
def local_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's two calls as far as a poller uses them."""
    monkeypatch.setattr(ray, "get", lambda value: value)
    monkeypatch.setattr(ray, "kill", lambda actor: None)
    monkeypatch.setattr(best_checkpoint, "MESSAGE_POLL_S", 0.01)


def test_a_full_disk_ends_a_search_with_its_reason(local_ray: None) -> None:
    """No further trial starts, and the error is raised when the running ones have ended."""
    manager = SimpleNamespace(
        update_if_better=Mock(side_effect=StorageError("best.json: cannot be written")), prune_checkpoints=Mock()
    )
    search = SimpleNamespace(records={}, stop_reason=None, elapsed_s=0.0)
    saved = SimpleNamespace(number=1, epoch=None, settings={})
    with (
        pytest.raises(StorageError, match="cannot be written"),
        handle_trial_messages(Queue([("saved", saved)]), manager, search),  # type: ignore[arg-type]
    ):
        wait_for(lambda: search.stop_reason is not None, "the end of the search", 10)
    assert search.stop_reason == "best.json: cannot be written"
    manager.prune_checkpoints.assert_not_called()


def test_checkpoints_are_removed_only_of_trials_whose_messages_were_handled(local_ray: None) -> None:
    """A trial that ends while messages are handled may have saved a checkpoint that is not named yet."""
    search = SimpleNamespace(records={1: "first"}, stop_reason=None, elapsed_s=0.0)
    pruned: list[list[str]] = []

    def update(number: int, epoch: Any, settings: Any) -> None:
        search.records[2] = "second"

    manager = SimpleNamespace(update_if_better=update, prune_checkpoints=pruned.append)
    saved = SimpleNamespace(number=1, epoch=None, settings={})
    with handle_trial_messages(Queue([], [("saved", saved)]), manager, search):  # type: ignore[arg-type]
        wait_for(lambda: len(pruned) >= 3, "three rounds", 10)
    assert pruned[:3] == [[], ["first"], ["first", "second"]]


def test_the_time_spent_on_a_search_is_saved_while_it_runs(local_ray: None) -> None:
    """At the start and then every ten seconds, for the case that the command is killed."""
    manager = SimpleNamespace(prune_checkpoints=Mock())
    search = SimpleNamespace(records={}, stop_reason=None, elapsed_s=0.0)
    saved: list[float] = []

    def drain() -> list[tuple[str, Any]]:
        search.elapsed_s += 4
        return []

    queue = SimpleNamespace(drain=SimpleNamespace(remote=drain))
    with handle_trial_messages(queue, manager, search, saved.append):  # type: ignore[arg-type]
        wait_for(lambda: len(saved) >= 3, "three times", 10)
    assert saved[:3] == [4.0, 16.0, 28.0]


def test_a_search_continues_if_its_time_is_not_saved(local_ray: None, messages: list[str]) -> None:
    """A store may fail for a moment; a store that stays unavailable ends the search at a trial's record."""
    manager = SimpleNamespace(prune_checkpoints=Mock())
    search = SimpleNamespace(records={}, stop_reason=None, elapsed_s=0.0)

    def drain() -> list[tuple[str, Any]]:
        search.elapsed_s += 100
        return []

    def fail(seconds: float) -> None:
        raise StorageError("the store does not respond")

    queue = SimpleNamespace(drain=SimpleNamespace(remote=drain))
    with handle_trial_messages(queue, manager, search, fail):  # type: ignore[arg-type]
        wait_for(lambda: len(messages) >= 2, "two attempts", 10)
    assert search.stop_reason is None
    assert messages[0] == "the time spent on the search is not saved: the store does not respond"


def test_the_best_checkpoint_is_named_before_the_end_of_its_trial_is_announced(
    messages: list[str], tmp_path: Path
) -> None:
    """Who reads the line, and finds the search killed a moment later, has a best.json."""
    events: list[str] = []
    search = SimpleNamespace(records={}, drop=lambda number: None, add_record=lambda record: None, total_suffix="")
    store = SimpleNamespace(write=lambda record: events.append("record"))
    context = SearchContext(
        Experiment(),
        search,
        store,
        str(tmp_path),
        name_checkpoints=lambda: events.append("checkpoints"),  # type: ignore[arg-type]
    )
    recorder = TrialRecorder(context)
    trial = SimpleNamespace(trial_id="a", config={NUMBER_KEY: 1})
    report = TrialReport(Progress([make_epoch(1, 0.5)], best=1), finished=True)
    recorder.on_trial_result(1, [], trial, {REPORT_KEY: report})  # type: ignore[arg-type]
    assert messages == []
    recorder.on_trial_complete(2, [], trial)  # type: ignore[arg-type]
    assert recorder.error is None
    assert events == ["checkpoints", "record"]
    assert messages[0].startswith("trial ")


def test_tunes_own_files_contain_nothing_of_the_tracker() -> None:
    """Its URI may have a password, and Tune pickles its callbacks into the folder of the search."""
    tracker = SimpleNamespace(uri="https://user:secret@mlflow.example")
    context = SearchContext(Experiment(), SimpleNamespace(), RecordStore("trials"), "run", Trackers([tracker]))  # type: ignore[arg-type, list-item]
    assert b"secret" not in pickle.dumps(TrialRecorder(context))
