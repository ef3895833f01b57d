"""What trials are given fits, all that run at once."""

from typing import Any

import pytest

from cluster import resources
from jobs.config.experiment import Experiment
from jobs.search import trial_resources as means

NODES = [{"CPU": 4.0, "GPU": 1.0}, {"CPU": 3.0}]


@pytest.fixture(autouse=True)
def nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two nodes, one of them with a GPU."""
    import ray

    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": each, "Labels": {}} for each in NODES])
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 7.0, "GPU": 1.0})


@pytest.mark.parametrize(
    ("settings", "asked", "at_once"),
    [
        ({}, {"cpu": 1.0}, 7),
        ({"train.cpus_per_worker": 2}, {"cpu": 2.0}, 3),
        ({"tune.max_concurrent": 2}, {"cpu": 1.0}, 2),
        ({"tune.gpus_per_trial": 0.25}, {"cpu": 1.0, "gpu": 0.25}, 4),
        ({"tune.gpus_per_trial": 0.3}, {"cpu": 1.0, "gpu": 0.3}, 3),
        ({"train.use_gpu": True}, {"cpu": 1.0, "gpu": 1.0}, 1),
        ({"train.use_gpu": True, "tune.gpus_per_trial": 0}, {"cpu": 1.0}, 7),
    ],
)
def test_a_trial_of_one_worker_takes_its_room_itself(settings: dict[str, Any], asked: dict, at_once: int) -> None:
    """No node is split between two trials that do not both fit."""
    found = means.plan_trial_resources(Experiment().replace(settings))
    assert (found.resources, found.max_concurrent_trials, found.distributed, found.wait_message) == (
        asked,
        at_once,
        False,
        None,
    )


@pytest.mark.parametrize(("workers", "at_once"), [(2, 3), (3, 2), ([2, 7], 3), (7, 1)])
def test_trials_of_several_workers_hold_nothing_while_they_wait(workers: Any, at_once: int) -> None:
    """No more run than there is room for all workers of each."""
    found = means.plan_trial_resources(Experiment().replace({"train.workers": workers}))
    assert (found.resources["cpu"], found.max_concurrent_trials, found.distributed) == (0, at_once, True)


def test_what_never_fits_is_refused() -> None:
    """With what was asked and what there is."""
    with pytest.raises(resources.ResourceError, match=r"1 worker of 5 CPUs each; there are 7 CPUs on 2 nodes"):
        means.plan_trial_resources(Experiment().replace({"train.cpus_per_worker": 5}))
    with pytest.raises(resources.ResourceError, match=r"2 workers of 1 CPU and a GPU each; .* 7 CPUs and 1 GPUs on 2"):
        means.plan_trial_resources(Experiment().replace({"train.workers": 2, "train.use_gpu": True}))
