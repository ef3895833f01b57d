"""Resources that a run requests, compared with those of the cluster; and release of those of a dead process."""

import time

import pytest
import ray
from ray.util.placement_group import placement_group

from cluster import resources


def make_nodes(monkeypatch: pytest.MonkeyPatch, *nodes: tuple[int, int], autoscaling: bool = False) -> None:
    """Let the cluster consist of nodes with these numbers of CPUs and GPUs."""
    labels = {"ray.io/node-group": "x"} if autoscaling else {}
    amounts = [{"CPU": float(cpus), "GPU": float(gpus)} for cpus, gpus in nodes]
    monkeypatch.setattr(
        resources,
        "list_nodes",
        lambda: [resources.Node(str(i), "h", "a", item, labels) for i, item in enumerate(amounts)],
    )
    monkeypatch.setattr(resources, "_total_resources", lambda: {"GPU": sum(item["GPU"] for item in amounts)})


@pytest.mark.parametrize(
    ("nodes", "workers", "expected", "message"),
    [
        ([(4, 1), (4, 1)], 2, True, ""),
        ([(4, 0), (4, 0)], 2, False, ""),
        (
            [(4, 1), (4, 0)],
            2,
            False,
            "cluster's 1 GPU and their nodes have room for 1 of 2 workers with 1 CPU and a GPU",
        ),
        ([(2, 8), (8, 0)], 4, False, "cluster's 8 GPUs and their nodes have room for 2 of 4 workers"),
    ],
    ids=["a GPU for each worker", "no GPU", "mixed nodes", "GPUs without CPUs"],
)
def test_all_workers_get_a_gpu_or_none_does(
    nodes: list[tuple[int, int]], workers: int, expected: bool, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If GPUs stay unused, a message names the settings. GPUs on nodes without CPUs for workers do not count."""
    make_nodes(monkeypatch, *nodes)
    uses_gpus, notice = resources.select_gpus(workers, cpus_per_worker=1)
    assert uses_gpus is expected
    assert bool(notice) is bool(message)
    assert message in (notice or "")


def test_a_cluster_that_could_add_gpus_says_how_to_request_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the setting the workers use what there is."""
    make_nodes(monkeypatch, (4, 0), autoscaling=True)
    assert resources.select_gpus(1, 1) == (
        False, "training on CPUs: no node has a GPU at the moment; train.use_gpu=true waits for one"
    )  # fmt: skip


@pytest.mark.ray
def test_workers_that_can_never_fit_are_an_error_with_request_and_capacity(embedded_ray: None) -> None:
    """Too many workers, too large ones, or missing GPUs; workers that fit do not wait."""
    assert resources.check_capacity(4, 1, gpus_per_worker=0) is None
    assert resources.check_capacity(2, 2, gpus_per_worker=0) is None
    for request, message in (
        (
            (5, 1, False),
            "asks for 5 workers of 1 CPU each; there are 4 CPUs on 1 node, and this cluster does not autoscale",
        ),
        ((1, 5, False), "asks for 1 worker of 5 CPUs each; there are 4 CPUs on 1 node"),
        ((3, 2, False), "asks for 3 workers of 2 CPUs each; there are 4 CPUs"),
        ((1, 1, True), "asks for 1 worker of 1 CPU and a GPU each; there are 4 CPUs and 0 GPUs on 1 node"),
    ):
        with pytest.raises(resources.ResourceError, match=message):
            resources.check_capacity(*request)


@pytest.mark.ray
def test_placement_groups_of_a_dead_controller_are_removed(embedded_ray: None) -> None:
    """The groups of this driver are removed; afterwards all CPUs are free."""

    @ray.remote(num_cpus=0)
    class Controller:
        def reserve(self) -> None:
            ray.get(placement_group([{"CPU": 1}] * 4).ready())

    controller = Controller.remote()
    ray.get(controller.reserve.remote())
    ray.kill(controller)
    assert ray.available_resources().get("CPU", 0) == 0
    resources.remove_placement_groups()
    deadline = time.monotonic() + 60
    while ray.available_resources().get("CPU", 0) < 4:
        assert time.monotonic() < deadline, "they are still reserved"
        time.sleep(0.2)
    assert resources.describe_free_resources() == "4 of 4 CPUs free on 1 node"
