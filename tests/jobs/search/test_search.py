"""What is tried next: in order, learned from, limited, and going on where it was cut off."""

import time
from typing import Any

import pytest

from jobs.config.experiment import Experiment
from jobs.search.records import TrialRecord
from jobs.search.search import Search, build_initial_points, build_search
from jobs.search.space import parse_space

SPACE = {
    "model.embedding": {"choice": ["static", "non-static"]},
    "model.dropout": {"uniform": [0.0, 0.8]},
    "train.vectors_learning_rate": {"loguniform": [1e-4, 1e-2]},
    "model.filter_widths": {"choice": [[2, 3], [3, 4, 5]]},
}


def experiment(**settings: Any) -> Experiment:
    return Experiment().replace({"tune.space": SPACE} | {f"tune.{key}": value for key, value in settings.items()})


def record(number: int, settings: dict[str, Any], accuracy: float | None, ended: float = 0.0) -> TrialRecord:
    """A trial that ended so."""
    epochs = (
        [] if accuracy is None else [{"epoch": 1, "loss": 1 - accuracy, "accuracy": accuracy, "macro_f1": accuracy}]
    )
    status = "failed" if accuracy is None else "finished"
    return TrialRecord(number, settings, status, epochs=epochs, best=len(epochs), ended=ended or float(number))


def searched(search: Search, count: int) -> list[TrialRecord]:
    """Run trials whose accuracy is best at a dropout of 0.6."""
    found = []
    for _ in range(count):
        handed = search.next_trial()
        assert handed is not None
        found.append(record(*handed, 1 - abs(handed[1]["model.dropout"] - 0.6)))
        search.add_record(found[-1])
    return found


@pytest.mark.parametrize("kind", ["random", "optuna"])
def test_every_number_is_handed_out_once_up_to_the_limit(kind: str) -> None:
    """Also while others are still running."""
    chosen = experiment(search=kind, trials=7, samples=9)
    search = build_search(chosen, parse_space(chosen), [])
    assert search.max_trials == 7
    handed = []
    while (one := search.next_trial()) is not None:
        handed.append(one)
        if len(handed) == 3:
            search.add_record(record(*handed[0], 0.5))
    assert [number for number, _ in handed] == list(range(1, 8))
    assert not search.exhausted
    for each in handed[1:]:
        search.add_record(record(*each, 0.5))
    assert search.exhausted


@pytest.mark.parametrize("kind", ["random", "optuna"])
def test_a_search_goes_on_with_what_has_not_ended(kind: str) -> None:
    """Whatever order the trials ended in; random ones get the same settings as they would have."""
    chosen = experiment(search=kind, trials=6, samples=6)
    space = parse_space(chosen)
    whole = searched(build_search(chosen, space, []), 6)
    kept = [each for each in whole if each.number in (1, 2, 4)]
    again = build_search(chosen, space, kept)
    rest = searched(again, 3)
    assert [each.number for each in rest] == [3, 5, 6]
    assert again.next_trial() is None
    assert again.exhausted
    if kind == "random":
        assert [each.settings for each in rest] == [whole[number].settings for number in (2, 4, 5)]


def test_optuna_begins_with_kims_settings_of_each_kind_and_then_learns() -> None:
    """Of its later trials most are near the best; of those at random few."""
    chosen = experiment(search="optuna", trials=60)
    space = parse_space(chosen)
    assert build_initial_points(space) == [
        {"model.embedding": kind, "model.dropout": 0.5, "model.filter_widths": [3, 4, 5]}
        for kind in ("static", "non-static")
    ]
    found = searched(build_search(chosen, space, []), 60)
    for each, kind in zip(found, ("static", "non-static"), strict=False):
        assert each.settings["model.embedding"] == kind
        assert each.settings["model.dropout"] == 0.5
        assert ("train.vectors_learning_rate" in each.settings) == (kind == "non-static")
    near = sum(abs(each.settings["model.dropout"] - 0.6) < 0.1 for each in found[-30:])
    assert near > 15


def test_optuna_learns_from_trials_of_an_earlier_command_and_of_failed_ones_only_that_they_failed() -> None:
    """All are told; none is asked for again."""
    chosen = experiment(search="optuna", trials=40)
    space = parse_space(chosen)
    known = searched(build_search(chosen, space, []), 30)
    known[5] = record(6, known[5].settings, None)
    again = build_search(chosen, space, known)
    assert all(abs(each.settings["model.dropout"] - 0.6) < 0.3 for each in searched(again, 10)[-3:])


def test_a_search_ends_after_so_many_trials_without_a_better_one() -> None:
    """In the order in which they ended."""
    chosen = experiment(trials=20, samples=20, patience=3)
    search = build_search(chosen, parse_space(chosen), [])
    for accuracy in (0.5, 0.7, 0.6, 0.6):
        handed = search.next_trial()
        assert handed is not None
        search.add_record(record(*handed, accuracy))
    handed = search.next_trial()
    assert handed is not None
    search.add_record(record(*handed, 0.69))
    assert search.next_trial() is None
    assert search.stop_reason == "no better one among the last 3 trials (tune.patience)"


def test_a_search_ends_when_its_minutes_are_over() -> None:
    """No further trial begins."""
    chosen = experiment(minutes=0.0005)
    search = build_search(chosen, parse_space(chosen), [])
    assert not search.out_of_time
    time.sleep(0.05)
    assert search.out_of_time
    assert search.next_trial() is None
    assert "tune.minutes=0.0005 are over" in search.stop_reason


def test_less_may_be_better() -> None:
    """A search for the lowest loss learns to lower it."""
    chosen = experiment(search="optuna", trials=60, metric="loss")
    found = searched(build_search(chosen, parse_space(chosen), []), 60)
    assert sum(abs(each.settings["model.dropout"] - 0.6) < 0.1 for each in found[-30:]) > 15


def test_a_trial_that_was_under_way_is_given_its_settings_again() -> None:
    """Optuna would not find the same; its number's folder may hold what it had learned."""
    chosen = experiment(search="optuna", trials=8)
    space = parse_space(chosen)
    asked: dict[int, dict[str, Any]] = {}
    search = build_search(chosen, space, [], {}, asked.__setitem__)
    handed = [search.next_trial() for _ in range(6)]
    ended = [record(number, settings, 0.5) for number, settings in (each for each in handed[:4] if each)]
    assert asked == dict(each for each in handed if each)
    again = build_search(chosen, space, ended, dict(asked), asked.__setitem__)
    assert [again.next_trial(), again.next_trial()] == handed[4:]
    drawn = [again.next_trial(), again.next_trial()]
    assert [each[0] for each in drawn if each] == [7, 8]
    assert all(each[1] not in [settings for _, settings in handed] for each in drawn if each)


def test_where_time_or_patience_ends_a_search_its_draws_do_not() -> None:
    """But a grid has no more than its points; `trials` is how many there are."""
    for settings, limit in (
        ({"patience": 5}, 10_000),
        ({"patience": 5, "trials": 30}, 30),
        ({"trials": 30, "samples": 2}, 30),
        ({"samples": 2}, 2),
    ):
        chosen = experiment(**settings)
        assert build_search(chosen, parse_space(chosen), []).max_trials == limit
    grid = experiment(patience=5).replace({"tune.space": {"model.feature_maps": {"grid": [8, 16]}}})
    found = build_search(grid, parse_space(grid), [])
    assert (found.max_trials, found.total_suffix) == (2, " of 2")
    assert build_search(experiment(minutes=1), parse_space(experiment(minutes=1)), []).total_suffix == ""
