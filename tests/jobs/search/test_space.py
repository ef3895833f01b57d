"""The search space is validated before the first trial."""

import random
import warnings
from collections.abc import Callable

import pytest

from jobs.config.experiment import Experiment, ExperimentError
from jobs.search.points import generate_points
from jobs.search.space import (
    Dimension,
    describe_unused_dimensions,
    find_max_epochs,
    is_active,
    list_embeddings,
    parse_space,
)
from jobs.search.trainable import to_tune_space


def make_experiment(space: dict, **settings: object) -> Experiment:
    return Experiment().replace({"tune.space": space, **{f"tune.{key}": value for key, value in settings.items()}})


def test_a_space_is_parsed() -> None:
    """The number of points is that of the grid times the samples."""
    experiment = make_experiment(
        {"model.embedding": {"grid": ["rand", "static"]}, "train.learning_rate": {"loguniform": [1e-4, 1e-2]}},
        samples=3,
    )
    space = parse_space(experiment)
    assert [dimension.kind for dimension in space] == ["grid", "loguniform"]
    assert len(generate_points(experiment, space)) == 6
    assert list_embeddings(experiment, space) == {"rand", "static"}


def test_numbers_without_a_decimal_point_are_parsed() -> None:
    """1e-4 is a string in YAML 1.1."""
    [dimension] = parse_space(make_experiment({"train.learning_rate": {"loguniform": ["1e-4", "1e-2"]}}))
    assert dimension.values == [1e-4, 1e-2]


def test_the_defaults_can_be_searched() -> None:
    """They include all four kinds of embedding."""
    experiment = Experiment()
    assert len(list_embeddings(experiment, parse_space(experiment))) == 4


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({}, "is empty"),
        ({"model.dropuot": {"choice": [0.1]}}, r"did you mean 'model.dropout'"),
        ({"model.dropout": {"choice": [0.1, 2]}}, r"model.dropout: .*less than 1"),
        ({"model.dropout": {"choice": [0.1, 0.1]}}, r"contains a value twice"),
        ({"model.embedding": {"grid": ["static", "dynamic"]}}, r"given: 'dynamic'"),
        ({"model.dropout": 0.3}, r"must be one of grid, choice"),
        ({"model.dropout": {"normal": [0, 1]}}, r"must be one of grid, choice"),
        ({"model.dropout": {"choice": [0.1], "grid": [0.2]}}, r"must be one of grid, choice"),
        ({"model.dropout": {"uniform": [0.5]}}, r"must be \[low, high, step\]"),
        ({"model.dropout": {"uniform": [0.5, 0.1]}}, r"must be \[low, high, step\]"),
        ({"model.dropout": {"uniform": [0.1, 0.5, 0]}}, r"the step must be above 0"),
        ({"train.learning_rate": {"loguniform": [0.1, 0.5, 0.1]}}, r"must be \[low, high\], not"),
        ({"train.weight_decay": {"loguniform": [0, 1]}}, r"low must be above 0"),
        ({"model.feature_maps": {"randint": [1.5, 3]}}, r"must be whole numbers"),
        ({"model.feature_maps": {"lograndint": [0, 3]}}, r"low must be above 0"),
        ({"model.feature_maps": {"uniform": [8, 16]}}, r"model.feature_maps: .*integer"),
        ({"model.dropout": {"choice": []}}, r"must be a list of values"),
        ({"train.temperature": {"choice": [1, 2]}}, r"'train.temperature' does not change how"),
        ({"train.thresholds": {"uniform": [0.1, 0.9]}}, r"'train.thresholds' does not change how"),
        (
            {"train.threshold_objective": {"choice": [0.9]}},
            r"'train.threshold_objective' does not change how",
        ),
        (
            {"train.abstention_retention": {"choice": [0.9]}},
            r"'train.abstention_retention' does not change how",
        ),
        ({"train.class_weights": {"grid": [None, "equal"]}}, r"train.class_weights: must be balanced"),
        ({"data.train": {"choice": ["a", "b"]}}, r"'data.train' cannot be searched"),
        ({"train.workers": {"choice": [1, 2]}}, r"changes the speed of a trial"),
        ({"train.metric": {"choice": ["loss"]}}, r"set tune.metric"),
        ({"train.start_from": {"choice": ["runs/a"]}}, r"trials start from the beginning"),
        ({"model.dropout": {"choice": [0.1], "if": "static"}}, r"dropout.if: must be settings with their values"),
        ({"model.dropout": {"choice": [0.1], "if": {"model.kind": "x"}}}, r"'model.kind' is not a setting"),
        ({"model.dropout": {"choice": [0.1], "if": {"model.embedding": "dense"}}}, r"given: 'dense'"),
        ({"model.dropout": {"choice": [0.1], "if": {"model.dropout": 0.1}}}, r"depends on itself"),
        (
            {
                "model.dropout": {"choice": [0.1], "if": {"model.feature_maps": 8}},
                "model.feature_maps": {"choice": [8], "if": {"model.dropout": 0.1}},
            },
            r"model.dropout, model.feature_maps depend on each other",
        ),
    ],
)
def test_a_mistake_in_the_space_is_an_error(space: dict, message: str) -> None:
    """The message names the path and the mistake."""
    with pytest.raises(ExperimentError, match=message):
        parse_space(make_experiment(space))


def test_a_setting_is_varied_only_where_it_has_an_effect() -> None:
    """By its `if`, also on a setting of the experiment itself, or because it requires that vectors are trained."""
    space = {
        "train.vectors_learning_rate": {"loguniform": [1e-4, 1e-2]},
        "train.frozen_epochs": {"choice": [0, 1]},
        "model.trained_words": {"choice": ["all", "out-of-vocabulary"], "if": {"model.embedding": "non-static"}},
        "model.embedding": {"grid": ["rand", "static", "non-static", "multichannel"]},
        "model.dropout": {"uniform": [0, 0.5], "if": {"train.frozen_epochs": 1}},
        "train.weight_decay": {"choice": [0.0, 0.1], "if": {"train.decay": "none"}},
    }
    experiment = make_experiment(space, samples=6)
    by_kind: dict[str, set[str]] = {}
    for settings in generate_points(experiment, parse_space(experiment)):
        by_kind.setdefault(settings["model.embedding"], set()).update(settings)
        assert ("model.dropout" in settings) == (settings.get("train.frozen_epochs") == 1)
    tuned = {"train.vectors_learning_rate", "train.frozen_epochs", "model.dropout", "model.embedding"}
    assert by_kind == {
        "rand": tuned,
        "static": {"model.embedding"},
        "non-static": tuned | {"model.trained_words"},
        "multichannel": tuned,
    }


def test_the_first_points_have_the_own_settings_of_the_experiment() -> None:
    """Of every value of the grids; settings that are not in the space are drawn, and a null one is its default."""
    space = {
        "model.embedding": {"grid": ["rand", "static", "non-static"]},
        "model.dropout": {"uniform": [0.1, 0.4]},
        "train.vectors_learning_rate": {"loguniform": [1e-4, 1e-2]},
        "train.batch_size": {"choice": [25, 50]},
        "model.feature_maps": {"choice": [10, 20]},
    }
    own = {"model.dropout": 0.3, "train.learning_rate": 0.004}
    experiment = make_experiment(space, samples=2).replace(own)
    points = generate_points(experiment, parse_space(experiment))
    assert [point["model.dropout"] for point in points[:3]] == [0.3] * 3
    assert [point.get("train.vectors_learning_rate") for point in points[:3]] == [0.006, None, 0.002]
    assert all(point["train.batch_size"] == 50 and point["model.feature_maps"] in (10, 20) for point in points[:3])
    assert all(point["model.dropout"] != 0.3 for point in points[3:])
    chosen = make_experiment(space | {"model.embedding": {"choice": ["static", "non-static"]}}, samples=1).replace(own)
    [point] = generate_points(chosen, parse_space(chosen))
    assert (point["model.embedding"], point["model.dropout"]) == ("non-static", 0.3)


def test_points_are_unique_and_the_same_for_each_call() -> None:
    """Also if they would differ only in settings that are not active, or if the same values are drawn again."""
    space = {"model.embedding": {"grid": ["static", "rand"]}, "train.frozen_epochs": {"grid": [0, 1, 2]}}
    experiment = make_experiment(space, samples=2)
    assert len(generate_points(experiment, parse_space(experiment))) == 4
    experiment = make_experiment({"model.feature_maps": {"choice": [8, 16]}}, samples=50)
    points = generate_points(experiment, parse_space(experiment))
    assert sorted(settings["model.feature_maps"] for settings in points) == [8, 16]
    assert points == generate_points(experiment, parse_space(experiment))
    experiment = make_experiment({"model.dropout": {"uniform": [0.1, 0.5]}}, samples=20)
    points = generate_points(experiment, parse_space(experiment))
    assert len({settings["model.dropout"] for settings in points}) == 20
    other = experiment.replace({"seed": 1})
    assert points != generate_points(other, parse_space(other))


@pytest.mark.parametrize(
    ("dimension", "fits"),
    [
        (Dimension("x", "choice", [[3, 4], [5]]), lambda value: value in ([3, 4], [5])),
        (Dimension("x", "uniform", [0.2, 0.6]), lambda value: 0.2 <= value <= 0.6),
        (Dimension("x", "uniform", [0.2, 0.6], 0.2), lambda value: value in (0.2, 0.4, 0.6)),
        (Dimension("x", "loguniform", [1e-4, 1e-2]), lambda value: 1e-4 <= value <= 1e-2),
        (Dimension("x", "randint", [10, 20]), lambda value: 10 <= value < 20 and isinstance(value, int)),
        (Dimension("x", "randint", [10, 30, 10][:2], 10), lambda value: value in (10, 20)),
        (Dimension("x", "lograndint", [1, 1000]), lambda value: 1 <= value < 1000 and isinstance(value, int)),
    ],
)
def test_random_and_optuna_draw_from_the_same_range(dimension: Dimension, fits: Callable[[object], bool]) -> None:
    """The high end of whole numbers is excluded; with a step, only its multiples are drawn."""
    import optuna

    generator = random.Random(0)
    drawn = [dimension.sample(generator) for _ in range(200)]
    assert all(map(fits, drawn))
    assert all(map(dimension.contains, drawn))
    assert len({str(value) for value in drawn}) > 1
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    suggested = [dimension.suggest(study.ask()) for _ in range(200)]
    assert all(map(fits, suggested))
    for value in (drawn[0], suggested[0]):
        assert dimension.distribution()._contains(
            dimension.distribution().to_internal_repr(dimension.to_optuna_value(value))
        )


def test_draws_of_a_log_range_are_uniform_over_its_orders_of_magnitude() -> None:
    """Half of the draws are below the geometric mean."""
    generator = random.Random(0)
    for kind, ends in (("loguniform", [1e-4, 1.0]), ("lograndint", [1, 10_000])):
        dimension = Dimension("x", kind, ends)  # type: ignore[arg-type]
        below = sum(dimension.sample(generator) < (ends[0] * ends[1]) ** 0.5 for _ in range(1000))
        assert 420 < below < 580


def test_a_setting_that_depends_on_an_inactive_setting_is_inactive() -> None:
    """Although the experiment's own value fulfils the condition."""
    space = [
        Dimension("model.embedding", "choice", ["static"]),
        Dimension("train.frozen_epochs", "choice", [0, 1], conditions={"model.embedding": ["non-static"]}),
        Dimension("model.dropout", "choice", [0.1], conditions={"train.frozen_epochs": [0]}),
    ]
    settings = {"model.embedding": "static"}
    assert not is_active(space[1], settings, space, Experiment())
    assert not is_active(space[2], settings, space, Experiment())


def test_the_weight_of_a_linear_classifier_is_drawn_only_with_one() -> None:
    space = {
        "model.linear": {"choice": ["none", "words-and-pairs"]}, "train.linear_weight": {"uniform": [0.1, 2.0]},
    }  # fmt: skip
    [linear, weight] = parse_space(Experiment().replace({"tune.space": space}))
    assert (linear.path, weight.conditions) == ("model.linear", {"model.linear": ["words-and-pairs"]})


@pytest.mark.parametrize(
    ("dimension", "condition"),
    [
        ("train.vectors_pull", {"model.embedding": ["static"]}),
        ("train.vectors_pull", {"model.embedding": [["static"]]}),
        ("model.dropout", {"model.embedding": ["non-static"]}),
        ("model.dropout", {"train.decay": "none"}),
    ],
)
def test_a_setting_that_no_trial_varies_is_reported(dimension: str, condition: dict) -> None:
    """Its condition never holds; it may hold with other settings of the same file."""
    space = {
        "model.embedding": {"grid": ["static", "rand"]},
        dimension: {"choice": [0.0, 0.1], "if": condition},
        "train.weight_decay": {"choice": [0.0, 0.1], "if": {"model.embedding": "rand", "train.decay": "linear"}},
    }
    experiment = make_experiment(space)
    [path] = condition
    assert describe_unused_dimensions(experiment, parse_space(experiment)) == [
        f"tune.space.{dimension} is varied in no trial: its condition on {path} never holds"
    ]


@pytest.mark.parametrize(
    ("definition", "epochs"),
    [
        (None, 8),
        ({"choice": [2, 3]}, 3),
        ({"choice": [4, 20]}, 20),
        ({"choice": [2, 3], "if": {"model.embedding": "static"}}, 8),
    ],
)
def test_the_epochs_of_trials_are_those_of_the_space_or_of_the_search(definition: dict | None, epochs: int) -> None:
    space = {"model.embedding": {"grid": ["static", "rand"]}} | ({"train.epochs": definition} if definition else {})
    assert find_max_epochs(make_experiment(space)) == epochs


@pytest.mark.parametrize(
    ("low", "high", "last"), [(0.25, 0.65, 0.65), (0.2, 0.65, 0.6), (0.1, 0.3, 0.3), (0, 0.05, 0), (0.85, 1, 0.95)]
)
def test_a_step_need_not_divide_the_ends_of_a_range(low: float, high: float, last: float) -> None:
    """Values are the low end and those that are whole steps above it."""
    experiment = Experiment().replace({"tune.space": {"model.dropout": {"uniform": [low, high, 0.1]}}})
    [item] = parse_space(experiment)
    assert item.values == [low, last]  # the ends are checked as values of the setting
    expected = {round(low + index * 0.1, 12) for index in range(round((last - low) / 0.1) + 1)}
    generator = random.Random(0)
    assert {item.sample(generator) for _ in range(200)} == expected
    assert {to_tune_space([item])["model.dropout"].sample() for _ in range(200)} == expected
    with warnings.catch_warnings(action="error"):  # Optuna warns of other ends
        assert item.distribution().high == last  # type: ignore[union-attr]
