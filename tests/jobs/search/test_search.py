"""A search returns its trials in order, learns from their results, ends at its limits, and resumes."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jobs.config.experiment import Experiment, ExperimentError
from jobs.search.records import TrialRecord
from jobs.search.search import MAX_RESTARTS_BEFORE_TRAINING, Search, build_search, check_search
from jobs.search.space import parse_space
from tests.support.commands import run_command
from tests.support.trial_records import make_record

SPACE = {
    "model.embedding": {"choice": ["static", "non-static"]},
    "model.dropout": {"uniform": [0.0, 0.8]},
    "train.vectors_learning_rate": {"loguniform": [1e-4, 1e-2]},
    "model.filter_widths": {"choice": [[2, 3], [3, 4, 5]]},
}


def make_experiment(**settings: Any) -> Experiment:
    return Experiment().replace({"tune.space": SPACE} | {f"tune.{key}": value for key, value in settings.items()})


def start_search(experiment: Experiment, records: list[TrialRecord] | None = None) -> Search:
    return build_search(experiment, parse_space(experiment), records or [])


def run_trials(search: Search, count: int) -> list[TrialRecord]:
    """Run trials whose accuracy is highest at a dropout of 0.6."""
    records = []
    for _ in range(count):
        trial = search.next_trial()
        assert trial is not None
        records.append(make_record(*trial, 1 - abs(trial[1]["model.dropout"] - 0.6), ended=trial[0]))
        search.add_record(records[-1])
    return records


def distance_to_optimum(record: TrialRecord) -> float:
    return abs(record.settings["model.dropout"] - 0.6)


@pytest.mark.parametrize("kind", ["random", "optuna"])
def test_each_number_is_returned_once_up_to_the_limit(kind: str) -> None:
    """Also while other trials are running."""
    search = start_search(make_experiment(search=kind, trials=7, samples=9))
    assert search.max_trials == 7
    trials = []
    while (trial := search.next_trial()) is not None:
        trials.append(trial)
        if len(trials) == 3:
            search.add_record(make_record(*trials[0], 0.5))
    assert [number for number, _ in trials] == list(range(1, 8))
    assert not search.exhausted
    for trial in trials[1:]:
        search.add_record(make_record(*trial, 0.5))
    assert search.exhausted


@pytest.mark.parametrize("kind", ["random", "optuna"])
def test_a_search_resumes_with_the_trials_that_have_not_ended(kind: str) -> None:
    """In whatever order the others ended; random trials get the same settings as without the interruption."""
    experiment = make_experiment(search=kind, trials=6, samples=6)
    complete = run_trials(start_search(experiment), 6)
    resumed = start_search(experiment, [record for record in complete if record.number in (1, 2, 4)])
    remaining = run_trials(resumed, 3)
    assert [record.number for record in remaining] == [3, 5, 6]
    assert resumed.next_trial() is None
    assert resumed.exhausted
    if kind == "random":
        assert [record.settings for record in remaining] == [complete[index].settings for index in (2, 4, 5)]


def test_optuna_starts_with_own_settings_of_each_kind_of_embedding_and_then_learns() -> None:
    """Most of the later trials are near the optimum; of random ones a quarter would be."""
    experiment = make_experiment(search="optuna", trials=60).replace({"model.dropout": 0.25})
    records = run_trials(start_search(experiment), 60)
    own = {"model.dropout": 0.25, "model.filter_widths": [3, 4, 5]}
    assert [record.settings for record in records[:2]] == [
        {"model.embedding": "static"} | own,
        {"model.embedding": "non-static"} | own | {"train.vectors_learning_rate": 0.001},
    ]
    assert sum(distance_to_optimum(record) < 0.1 for record in records[-30:]) > 15


def test_optuna_resumes_a_trial_that_varies_nothing() -> None:
    """No setting of the space applies with the other settings."""
    space = {"train.batch_size": {"choice": [8], "if": {"model.embedding": "rand"}}}
    experiment = Experiment().replace({"tune.space": space, "tune.search": "optuna", "model.embedding": "static"})
    dimensions, started = parse_space(experiment), dict[int, dict[str, Any]]()
    first = build_search(experiment, dimensions, [], {}, started.__setitem__).next_trial()
    assert (first, started) == ((1, {}), {1: {}})
    assert build_search(experiment, dimensions, [], started).next_trial() == first


def test_optuna_learns_from_trials_of_an_earlier_command() -> None:
    """Of a failed trial it learns only that it failed."""
    experiment = make_experiment(search="optuna", trials=40)
    known = run_trials(start_search(experiment), 30)
    known[5] = make_record(6, known[5].settings, None)
    resumed = run_trials(start_search(experiment, known), 10)
    assert [record.number for record in resumed] == list(range(31, 41))
    assert all(distance_to_optimum(record) < 0.3 for record in resumed[-3:])


def test_a_search_ends_after_tune_patience_trials_without_a_better_one() -> None:
    """In the order in which they ended."""
    search = start_search(make_experiment(trials=20, samples=20, patience=3))
    for ended, accuracy in enumerate((0.5, 0.7, 0.6, 0.6, 0.69)):
        trial = search.next_trial()
        assert trial is not None
        search.add_record(make_record(*trial, accuracy, ended=ended))
    assert search.next_trial() is None
    assert search.stop_reason == "none of the last 3 trials was better (tune.patience=3)"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("tune.space={model.dropuot: {choice: [0.1]}}", "did you mean 'model.dropout'"),
        ("data.text_column=body", "has no column 'body'"),
        ("vectors.path=nowhere.bin", "no such vectors file"),
    ],
)
def test_a_mistake_is_an_error_before_ray_is_loaded(toy_csv: Path, setting: str, message: str) -> None:
    script = (
        "import sys; from jobs.__main__ import main\n"
        f"code = main(['tune', 'data.train={toy_csv}', {setting!r}])\n"
        "assert code == 2 and not {'ray', 'torch'} & sys.modules.keys()"
    )
    result = run_command("python", "-c", script)
    assert result.returncode == 0, result.stderr
    assert message in result.stderr


@pytest.mark.parametrize("kind", ["random", "optuna"])
def test_failed_trials_use_up_the_patience(kind: str) -> None:
    """Also if no trial before them had a result."""
    search = start_search(make_experiment(search=kind, patience=3))
    while (trial := search.next_trial()) is not None:
        search.add_record(make_record(*trial, None, ended=trial[0]))
    assert len(search.records) == 3
    assert search.stop_reason == "all 3 trials failed (tune.patience=3)"


def test_the_time_of_earlier_commands_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("jobs.search.search.time", SimpleNamespace(monotonic=lambda: now))
    experiment = make_experiment(minutes=2)
    search = build_search(experiment, parse_space(experiment), [], elapsed_s=110.0)
    now = 1009.0
    assert search.elapsed_s == 119.0
    assert search.next_trial() is not None
    now = 1011.0
    assert search.out_of_time
    assert search.next_trial() is None


def test_a_lost_trial_is_returned_again_with_the_same_settings() -> None:
    """A limited number of times, and not after the search has ended."""
    search = start_search(make_experiment(search="optuna", trials=2))
    first, second = search.next_trial(), search.next_trial()
    assert first is not None and second is not None  # noqa: PT018
    assert search.next_trial() is None
    for _ in range(MAX_RESTARTS_BEFORE_TRAINING):
        assert search.resubmit(1)
        assert search.may_continue()
        assert search.next_trial() == first
    assert not search.resubmit(1)
    search.add_record(make_record(*first, None))
    assert search.may_continue()
    search.add_record(make_record(*second, 0.5))
    assert not search.may_continue()
    assert not search.resubmit(2)


def test_a_search_ends_after_tune_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    """No further trial starts."""
    now = 1000.0
    monkeypatch.setattr("jobs.search.search.time", SimpleNamespace(monotonic=lambda: now))
    search = start_search(make_experiment(minutes=2))
    now = 1119.0
    assert not search.out_of_time
    assert search.next_trial() is not None
    now = 1121.0
    assert search.out_of_time
    assert search.next_trial() is None
    assert "tune.minutes=2" in search.stop_reason


def test_the_objective_may_be_minimized() -> None:
    """A search for the lowest loss learns to lower it."""
    records = run_trials(start_search(make_experiment(search="optuna", trials=60, metric="loss")), 60)
    assert sum(distance_to_optimum(record) < 0.1 for record in records[-30:]) > 15


def test_an_interrupted_trial_has_the_same_settings_when_the_search_resumes() -> None:
    """Optuna would not draw the same ones; the trial's folder may contain the state that it resumes from."""
    experiment = make_experiment(search="optuna", trials=8)
    space = parse_space(experiment)
    started: dict[int, dict[str, Any]] = {}
    search = build_search(experiment, space, [], {}, started.__setitem__)
    trials = [trial for _ in range(6) if (trial := search.next_trial())]
    assert started == dict(trials)
    ended = [make_record(*trial, 0.5) for trial in trials[:4]]
    resumed = build_search(experiment, space, ended, dict(started), started.__setitem__)
    assert [resumed.next_trial(), resumed.next_trial()] == trials[4:]
    drawn = [trial for _ in range(2) if (trial := resumed.next_trial())]
    assert [number for number, _ in drawn] == [7, 8]
    assert all(settings not in [known for _, known in trials] for _, settings in drawn)


def test_the_number_of_trials_follows_from_the_limits() -> None:
    """Time or patience alone leave it open, but a grid has no more trials than points."""
    for settings, limit in (
        ({"patience": 5}, 10_000),
        ({"patience": 5, "trials": 30}, 30),
        ({"trials": 30, "samples": 2}, 30),
        ({"samples": 2}, 2),
    ):
        assert start_search(make_experiment(**settings)).max_trials == limit
    grid = make_experiment(patience=5).replace({"tune.space": {"model.feature_maps": {"grid": [8, 16]}}})
    search = start_search(grid)
    assert (search.max_trials, search.total_suffix) == (2, " of 2")
    assert start_search(make_experiment(minutes=1)).total_suffix == ""


@pytest.mark.parametrize("kind", ["random", "optuna"])
def test_a_space_of_grids_is_searched_completely(kind: str) -> None:
    space = {"model.feature_maps": {"grid": [8, 16, 32]}, "train.class_weights": {"grid": [None, "balanced"]}}
    search = start_search(make_experiment(search=kind).replace({"tune.space": space}))
    trials = [trial for _ in range(7) if (trial := search.next_trial())]
    points = {(settings["model.feature_maps"], settings["train.class_weights"]) for _, settings in trials}
    assert len(trials) == len(points) == 6


def test_gpus_of_trials_that_use_none_are_an_error() -> None:
    experiment = make_experiment(gpus_per_trial=0.25).replace({"train.use_gpu": False})
    with pytest.raises(ExperimentError, match=r"tune\.gpus_per_trial has no effect with train\.use_gpu=false"):
        check_search(experiment)


@pytest.mark.parametrize("kind", ["random", "optuna"])
def test_own_settings_are_spelled_as_in_the_space(kind: str) -> None:
    """0 is the own value 0.0, and no other point."""
    space = {"train.vectors_pull": {"choice": [0, 0.1]}, "model.max_norm": {"choice": [3, None]}}
    experiment = make_experiment(search=kind, trials=4, samples=4).replace({"tune.space": space})
    search = start_search(experiment)
    trial = search.next_trial()
    assert trial == (1, {"train.vectors_pull": 0, "model.max_norm": 3})
    if kind == "random":
        assert search.max_trials == 4


def test_a_trial_resumes_with_the_settings_that_it_started_with() -> None:
    """An earlier version may have drawn others."""
    experiment = make_experiment(trials=3, samples=3)
    started = {1: {"model.embedding": "static", "model.dropout": 0.123}}
    search = build_search(experiment, parse_space(experiment), [], started)
    assert search.next_trial() == (1, started[1])


def test_some_trial_trains_its_vectors() -> None:
    space = {"model.embedding": {"grid": ["static", "non-static"]}, "train.epochs": {"choice": [4, 10]}}
    experiment = Experiment().replace({"tune.space": space, "train.frozen_epochs": 10, "vectors.path": "x.bin"})
    with pytest.raises(ExperimentError, match=r"train\.frozen_epochs=10 of 10 epochs leaves no epoch"):
        check_search(experiment)
