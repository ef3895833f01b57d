"""Running trials: their resources, and their messages to the driver."""

import pickle
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import ray

from cluster import resources
from cluster.machine import GpuState
from cluster.storage import StorageError
from jobs.config.experiment import Experiment
from jobs.search import best_checkpoint
from jobs.search.best_checkpoint import handle_trial_messages
from jobs.search.records import RecordStore
from jobs.search.runner import SearchContext, TrialRecorder, plan_trial_resources
from tests.support.waiting import wait_for

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
    """The message states the required and the existing resources."""
    with pytest.raises(resources.ResourceError, match=r"1 worker of 5 CPUs.* 7 CPUs on 2 nodes"):
        plan_trial_resources(Experiment().replace({"train.cpus_per_worker": 5}))
    with pytest.raises(resources.ResourceError, match=r"2 workers of 1 CPU and .*GPU.* 7 CPUs and 1 GPU.* on 2"):
        plan_trial_resources(Experiment().replace({"train.workers": 2, "train.use_gpu": True}))


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


def test_tunes_own_files_contain_nothing_of_the_tracker() -> None:
    """Its URI may have a password, and Tune pickles its callbacks into the folder of the search."""
    tracker = SimpleNamespace(uri="https://user:secret@mlflow.example")
    context = SearchContext(Experiment(), SimpleNamespace(), RecordStore("trials"), "run", tracker)  # type: ignore[arg-type]
    assert b"secret" not in pickle.dumps(TrialRecorder(context))
