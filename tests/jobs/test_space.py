"""The search space is checked before the first trial."""

import pytest

from jobs.experiment import Experiment, ExperimentError
from jobs.space import dimensions, embeddings, num_trials


def with_space(space: dict) -> Experiment:
    return Experiment().replace({"tune.space": space})


def test_a_space_is_read() -> None:
    """Grids multiply, draws are added by samples."""
    experiment = with_space(
        {"model.embedding": {"grid": ["rand", "static"]}, "train.learning_rate": {"loguniform": [1e-4, 1e-2]}}
    ).replace({"tune.samples": 3})
    space = dimensions(experiment)
    assert [each.kind for each in space] == ["grid", "loguniform"]
    assert num_trials(experiment, space) == 6
    assert embeddings(experiment, space) == {"rand", "static"}


def test_numbers_may_be_written_as_yaml_does_not_read_them() -> None:
    """1e-4 without a point is a string in YAML 1.1."""
    [found] = dimensions(with_space({"train.learning_rate": {"loguniform": ["1e-4", "1e-2"]}}))
    assert found.values == [1e-4, 1e-2]


def test_the_defaults_can_be_searched() -> None:
    """All four kinds of embedding among them."""
    experiment = Experiment()
    assert len(embeddings(experiment, dimensions(experiment))) == 4


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({}, "is empty"),
        ({"model.dropuot": {"choice": [0.1]}}, r"did you mean 'model.dropout'"),
        ({"model.dropout": {"choice": [0.1, 2]}}, r"model.dropout: .*less than 1"),
        ({"model.embedding": {"grid": ["static", "dynamic"]}}, r"given: 'dynamic'"),
        ({"model.dropout": 0.3}, r"must be one of grid, choice"),
        ({"model.dropout": {"normal": [0, 1]}}, r"must be one of grid, choice"),
        ({"model.dropout": {"uniform": [0.5]}}, r"must be \[low, high\]"),
        ({"model.dropout": {"uniform": [0.5, 0.1]}}, r"must be \[low, high\]"),
        ({"train.weight_decay": {"loguniform": [0, 1]}}, r"low must be above 0"),
        ({"model.feature_maps": {"randint": [1.5, 3]}}, r"must be whole numbers"),
        ({"model.feature_maps": {"uniform": [8, 16]}}, r"model.feature_maps: .*integer"),
        ({"model.dropout": {"choice": []}}, r"must be a list of values"),
        ({"data.train": {"choice": ["a", "b"]}}, r"'data.train' cannot be searched"),
        ({"train.workers": {"choice": [1, 2]}}, r"changes the speed of a trial"),
    ],
)
def test_a_mistake_in_the_space_is_named(space: dict, message: str) -> None:
    """With the path and what is wrong with it."""
    with pytest.raises(ExperimentError, match=message):
        dimensions(with_space(space))
