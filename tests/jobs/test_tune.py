"""The search on real Ray Tune: a best that serves, and a search that goes on."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs import checkpoint
from jobs.experiment import Experiment, load
from jobs.tune import SearchFailed, tune

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SPACE = {"model.embedding": {"grid": ["rand", "static", "non-static", "multichannel"]}}


def test_all_kinds_of_embedding_are_tried_and_the_best_is_named(ray_here: None, toy: Callable[..., Experiment]) -> None:
    """best.json names a whole checkpoint; best.yaml trains it again; a second call says that it is done."""
    experiment = toy(tune__space=SPACE | {"model.feature_maps": {"choice": [4, 8]}}, tune__samples=1, tune__epochs=3)
    told: list[str] = []
    best = Path(tune(experiment, told.append))
    trials = [line for line in told if line.startswith("trial")]
    assert len(trials) == 4
    for kind in SPACE["model.embedding"]["grid"]:
        assert sum(f"embedding={kind} " in line for line in trials) == 1
        assert any(line.startswith(f"{kind} ") and "best validation accuracy" in line for line in told)
    named = json.loads(best.read_text())
    found = checkpoint.read(str(best))
    assert found.experiment.model.embedding == named["settings"]["model.embedding"]
    assert found.metrics["accuracy"] == named["metrics"]["accuracy"]
    again = load(str(best.with_name("best.yaml")))
    assert again.model == found.experiment.model
    told.clear()
    assert tune(experiment, told.append) == str(best)
    assert any("this search is finished" in line for line in told)
    assert not any(line.startswith("trial") for line in told)


def test_a_search_in_which_every_trial_fails_says_why(ray_here: None, toy: Callable[..., Experiment]) -> None:
    """In one line, with the setting that would help."""
    experiment = toy(
        name="fails",
        tune__space={"train.learning_rate": {"grid": [1e30]}},
        tune__samples=1,
        model__max_norm=None,
        tune__scheduler="none",
    )
    with pytest.raises(SearchFailed, match=r"every trial failed.*lower train.learning_rate"):
        tune(experiment, lambda line: None)
