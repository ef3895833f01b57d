"""What is tried next: in order, learned from, limited, and going on where it was cut off."""

import time
from typing import Any

import pytest

from jobs.config.experiment import Experiment
from jobs.search.records import Record
from jobs.search.search import Search, first_points, search_of
from jobs.search.space import dimensions

SPACE = {
    "model.embedding": {"choice": ["static", "non-static"]},
    "model.dropout": {"uniform": [0.0, 0.8]},
    "train.vectors_learning_rate": {"loguniform": [1e-4, 1e-2]},
    "model.filter_widths": {"choice": [[2, 3], [3, 4, 5]]},
}


def experiment(**settings: Any) -> Experiment:
    return Experiment().replace({"tune.space": SPACE} | {f"tune.{key}": value for key, value in settings.items()})


def record(number: int, settings: dict[str, Any], accuracy: float | None, ended: float = 0.0) -> Record:
    """A trial that ended so."""
    epochs = (
        [] if accuracy is None else [{"epoch": 1, "loss": 1 - accuracy, "accuracy": accuracy, "macro_f1": accuracy}]
    )
    status = "failed" if accuracy is None else "finished"
    return Record(number, settings, status, epochs=epochs, best=len(epochs), ended=ended or float(number))


def searched(search: Search, count: int) -> list[Record]:
    """Run trials whose accuracy is best at a dropout of 0.6."""
    found = []
    for _ in range(count):
        handed = search.next()
        assert handed is not None
        found.append(record(*handed, 1 - abs(handed[1]["model.dropout"] - 0.6)))
        search.ended(found[-1])
    return found


@pytest.mark.parametrize("kind", ["random", "optuna"])
def test_every_number_is_handed_out_once_up_to_the_limit(kind: str) -> None:
    """Also while others are still running."""
    chosen = experiment(search=kind, trials=7, samples=9)
    search = search_of(chosen, dimensions(chosen), [])
    assert search.limit == 7
    handed = []
    while (one := search.next()) is not None:
        handed.append(one)
        if len(handed) == 3:
            search.ended(record(*handed[0], 0.5))
    assert [number for number, _ in handed] == list(range(1, 8))
    assert not search.exhausted
    for each in handed[1:]:
        search.ended(record(*each, 0.5))
    assert search.exhausted


@pytest.mark.parametrize("kind", ["random", "optuna"])
def test_a_search_goes_on_with_what_has_not_ended(kind: str) -> None:
    """Whatever order the trials ended in; random ones get the same settings as they would have."""
    chosen = experiment(search=kind, trials=6, samples=6)
    space = dimensions(chosen)
    whole = searched(search_of(chosen, space, []), 6)
    kept = [each for each in whole if each.number in (1, 2, 4)]
    again = search_of(chosen, space, kept)
    rest = searched(again, 3)
    assert [each.number for each in rest] == [3, 5, 6]
    assert again.next() is None
    assert again.exhausted
    if kind == "random":
        assert [each.settings for each in rest] == [whole[number].settings for number in (2, 4, 5)]


def test_optuna_begins_with_kims_settings_of_each_kind_and_then_learns() -> None:
    """Of its later trials most are near the best; of those at random few."""
    chosen = experiment(search="optuna", trials=60)
    space = dimensions(chosen)
    assert first_points(space) == [
        {"model.embedding": kind, "model.dropout": 0.5, "model.filter_widths": [3, 4, 5]}
        for kind in ("static", "non-static")
    ]
    found = searched(search_of(chosen, space, []), 60)
    for each, kind in zip(found, ("static", "non-static"), strict=False):
        assert each.settings["model.embedding"] == kind
        assert each.settings["model.dropout"] == 0.5
        assert ("train.vectors_learning_rate" in each.settings) == (kind == "non-static")
    near = sum(abs(each.settings["model.dropout"] - 0.6) < 0.1 for each in found[-30:])
    assert near > 15


def test_optuna_learns_from_trials_of_an_earlier_command_and_of_failed_ones_only_that_they_failed() -> None:
    """All are told; none is asked for again."""
    chosen = experiment(search="optuna", trials=40)
    space = dimensions(chosen)
    known = searched(search_of(chosen, space, []), 30)
    known[5] = record(6, known[5].settings, None)
    again = search_of(chosen, space, known)
    assert all(abs(each.settings["model.dropout"] - 0.6) < 0.3 for each in searched(again, 10)[-3:])


def test_a_search_ends_after_so_many_trials_without_a_better_one() -> None:
    """In the order in which they ended."""
    chosen = experiment(trials=20, samples=20, patience=3)
    search = search_of(chosen, dimensions(chosen), [])
    for accuracy in (0.5, 0.7, 0.6, 0.6):
        handed = search.next()
        assert handed is not None
        search.ended(record(*handed, accuracy))
    handed = search.next()
    assert handed is not None
    search.ended(record(*handed, 0.69))
    assert search.next() is None
    assert search.ended_by == "no better one among the last 3 trials (tune.patience)"


def test_a_search_ends_when_its_minutes_are_over() -> None:
    """No further trial begins."""
    chosen = experiment(minutes=0.0005)
    search = search_of(chosen, dimensions(chosen), [])
    assert not search.out_of_time
    time.sleep(0.05)
    assert search.out_of_time
    assert search.next() is None
    assert "tune.minutes=0.0005 are over" in search.ended_by


def test_less_may_be_better() -> None:
    """A search for the lowest loss learns to lower it."""
    chosen = experiment(search="optuna", trials=60, metric="loss")
    found = searched(search_of(chosen, dimensions(chosen), []), 60)
    assert sum(abs(each.settings["model.dropout"] - 0.6) < 0.1 for each in found[-30:]) > 15


def test_a_trial_that_was_under_way_is_given_its_settings_again() -> None:
    """Optuna would not find the same; its number's folder may hold what it had learned."""
    chosen = experiment(search="optuna", trials=8)
    space = dimensions(chosen)
    asked: dict[int, dict[str, Any]] = {}
    search = search_of(chosen, space, [], {}, asked.__setitem__)
    handed = [search.next() for _ in range(6)]
    ended = [record(number, settings, 0.5) for number, settings in (each for each in handed[:4] if each)]
    assert asked == dict(each for each in handed if each)
    again = search_of(chosen, space, ended, dict(asked), asked.__setitem__)
    assert [again.next(), again.next()] == handed[4:]
    drawn = [again.next(), again.next()]
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
        assert search_of(chosen, dimensions(chosen), []).limit == limit
    grid = experiment(patience=5).replace({"tune.space": {"model.feature_maps": {"grid": [8, 16]}}})
    found = search_of(grid, dimensions(grid), [])
    assert (found.limit, found.of) == (2, " of 2")
    assert search_of(experiment(minutes=1), dimensions(experiment(minutes=1)), []).of == ""
