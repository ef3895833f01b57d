"""Resources of trials, with and without GPUs that torch can use."""

from typing import Any

import pytest
import ray

from cluster import resources
from cluster.machine import GpuState
from jobs.config.experiment import Experiment
from jobs.search.trial_resources import plan_trial_resources

NODES = [{"CPU": 4.0, "GPU": 1.0}, {"CPU": 3.0}]


@pytest.fixture(autouse=True)
def nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two nodes, one of them with a GPU."""
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": item, "Labels": {}} for item in NODES])
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 7.0, "GPU": 1.0})
    set_gpu_error(monkeypatch, "")


def set_gpu_error(monkeypatch: pytest.MonkeyPatch, error: str) -> None:
    """Let torch be unable to use the node's GPU for this reason, or able if it is empty."""
    state = GpuState(1, "580.95.05", "2.13.0", "" if error else "13.0", error)
    monkeypatch.setattr(resources, "_gpu_states", {"": state})


@pytest.mark.parametrize(
    ("settings", "expected", "max_concurrent"),
    [
        ({}, {"cpu": 1.0, "gpu": 1.0}, 1),
        ({"train.use_gpu": False}, {"cpu": 1.0}, 7),
        ({"train.use_gpu": False, "train.cpus_per_worker": 2}, {"cpu": 2.0}, 3),
        ({"train.use_gpu": False, "tune.max_concurrent": 2}, {"cpu": 1.0}, 2),
        ({"tune.gpus_per_trial": 0}, {"cpu": 1.0}, 7),
        ({"tune.gpus_per_trial": 0.25}, {"cpu": 1.0, "gpu": 0.25}, 4),
        ({"tune.gpus_per_trial": 0.3}, {"cpu": 1.0, "gpu": 0.3}, 3),
        ({"train.use_gpu": True}, {"cpu": 1.0, "gpu": 1.0}, 1),
        ({"train.use_gpu": True, "tune.gpus_per_trial": 0}, {"cpu": 1.0}, 7),
    ],
)
def test_a_trial_of_one_worker_has_the_resources_itself(
    settings: dict[str, Any], expected: dict[str, float], max_concurrent: int
) -> None:
    """As many trials run at once as fit into the nodes. They use GPUs by default, as a run of `train` does."""
    plan = plan_trial_resources(Experiment().replace(settings))
    assert (plan.resources, plan.max_concurrent_trials) == (expected, max_concurrent)
    assert plan.use_gpu is ("gpu" in expected)
    assert not plan.distributed
    assert plan.wait_message is None


@pytest.mark.parametrize("settings", [{}, {"tune.gpus_per_trial": 0.25}])
def test_trials_use_cpus_if_torch_cannot_use_the_gpus(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, messages: list[str]
) -> None:
    """There is one warning, or an error if GPUs are requested."""
    set_gpu_error(monkeypatch, "Torch not compiled with CUDA enabled")
    plan = plan_trial_resources(Experiment().replace(settings))
    assert (plan.resources, plan.max_concurrent_trials, plan.use_gpu) == ({"cpu": 1.0}, 7, False)
    [message] = messages
    assert message.startswith("training on CPUs: torch cannot use the GPUs of ")
    with pytest.raises(resources.ResourceError, match=r"torch 2\.13\.0 is built without CUDA"):
        plan_trial_resources(Experiment().replace(settings | {"train.use_gpu": True}))


def test_trials_of_several_workers_use_gpus_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """If each worker gets one."""
    experiment = Experiment().replace({"train.workers": 2})
    assert not plan_trial_resources(experiment).use_gpu
    monkeypatch.setitem(NODES[0], "GPU", 2.0)
    assert plan_trial_resources(experiment).use_gpu
    assert not plan_trial_resources(experiment.replace({"train.use_gpu": False})).use_gpu


@pytest.mark.parametrize(("workers", "max_concurrent"), [(2, 3), (3, 2), ([2, 7], 3), (7, 1)])
def test_trials_of_several_workers_hold_no_cpu_while_they_wait(workers: Any, max_concurrent: int) -> None:
    """No more trials run than all of their workers fit."""
    plan = plan_trial_resources(Experiment().replace({"train.workers": workers}))
    assert (plan.resources["cpu"], plan.max_concurrent_trials, plan.distributed) == (0, max_concurrent, True)


def test_resources_that_the_cluster_will_never_have_are_an_error() -> None:
    """The message states the settings that decide, and the required and the existing resources."""
    with pytest.raises(
        resources.ResourceError, match=r"^train\.cpus_per_worker: no room for 1 worker of 5 CPUs.* 7 CPUs on 2 nodes"
    ):
        plan_trial_resources(Experiment().replace({"train.cpus_per_worker": 5}))
    with pytest.raises(
        resources.ResourceError,
        match=r"^train\.workers and .*: no room for 2 workers of 1 CPU and .*GPU.* 7 CPUs and 1 GPU.* on 2",
    ):
        plan_trial_resources(Experiment().replace({"train.workers": 2, "train.use_gpu": True}))
