"""Resources that a run requests, compared with those of the cluster; and release of those of a dead process."""

import time

import pytest
import ray
import ray.exceptions
from ray.util.placement_group import placement_group, remove_placement_group

from cluster import ray_private, resources
from cluster.machine import GpuState

USABLE = GpuState(1, "580.95.05", "2.13.0", "13.0")
UNUSABLE = GpuState(1, "580.95.05", "2.13.0", "", "Torch not compiled with CUDA enabled")


def make_nodes(monkeypatch: pytest.MonkeyPatch, *nodes: tuple[int, int], autoscaling: bool = False) -> None:
    """Let the cluster consist of nodes with these numbers of CPUs and GPUs."""
    labels = {"ray.io/node-group": "x"} if autoscaling else {}
    amounts = [{"CPU": float(cpus), "GPU": float(gpus)} for cpus, gpus in nodes]
    monkeypatch.setattr(
        resources,
        "list_nodes",
        lambda: [resources.Node(str(i), "h", "a", item, labels) for i, item in enumerate(amounts)],
    )
    total = {kind: sum(item[kind] for item in amounts) for kind in ("CPU", "GPU")}
    monkeypatch.setattr(resources, "_total_resources", lambda: total)


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


@pytest.mark.parametrize(
    ("free", "cpus_of_others", "expected"),
    [
        ([3, 3], 2, 2),
        ([4, 2], 2, 3),
        ([4, None], 4, 2),
        ([0, 0], 8, 1),
        ([1, 3], 2, 2),
        ([4, 4], 0, 4),
        ([4, 4], 3, 4),
    ],
    ids=[
        "others on each node", "others on one node", "a full node", "no room", "a lost worker", "no others",
        "others that have ended",
    ],
)  # fmt: skip
def test_workers_fit_into_the_free_cpus_of_each_node(
    free: list[int | None], cpus_of_others: float, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On two nodes of 4 CPUs, with 2 per worker: Ray Train would wait for a worker whose CPUs are on two nodes."""
    make_nodes(monkeypatch, (4, 0), (4, 0))
    nodes = {str(i): {} if cpus is None else {"CPU": float(cpus)} for i, cpus in enumerate(free)}
    monkeypatch.setattr(resources, "read_free_resources", lambda: nodes)
    assert resources.limit_workers(1, 4, 2, cpus_of_others) == expected
    assert resources.limit_workers(1, 2, 2, cpus_of_others) == min(expected, 2)
    assert resources.limit_workers(4, 4, 2, cpus_of_others) == 4
    make_nodes(monkeypatch, (4, 0), (4, 0), autoscaling=True)
    assert resources.limit_workers(1, 4, 2, cpus_of_others) == 4


@pytest.mark.parametrize(
    ("free", "cpus_of_others", "gpus_of_others", "expected"),
    [
        ([(4, 2), (4, 2)], 0, 0, 4),
        ([(4, 1), (4, 0)], 0, 3, 1),
        ([(4, None), (4, 1)], 0, 3, 1),
        ([(2, 0.5), (2, 1)], 4, 2.5, 1),
        ([(1, 2), (4, 0)], 3, 2, 1),
        ([(4, 0), (0, 2)], 4, 2, 1),
        ([(3, 1), (4, 2)], 0, 0, 4),
    ],
    ids=[
        "no others", "others with GPUs", "a node without free GPUs", "a part of a GPU", "a GPU without a CPU",
        "no room", "a lost worker",
    ],
)  # fmt: skip
def test_workers_fit_into_the_free_gpus_of_each_node(
    free: list[tuple[int, float | None]],
    cpus_of_others: float,
    gpus_of_others: float,
    expected: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On two nodes of 4 CPUs and 2 GPUs, with one of each per worker; workers on CPUs do not need any."""
    make_nodes(monkeypatch, (4, 2), (4, 2))
    nodes = {
        str(i): {"CPU": float(cpus)} | ({} if gpus is None else {"GPU": float(gpus)})
        for i, (cpus, gpus) in enumerate(free)
    }
    monkeypatch.setattr(resources, "read_free_resources", lambda: nodes)
    assert resources.limit_workers(1, 4, 1, cpus_of_others, 1, gpus_of_others) == expected
    assert resources.limit_workers(1, 8, 1, cpus_of_others) == 8 - cpus_of_others


def set_gpu_states(monkeypatch: pytest.MonkeyPatch, *states: GpuState) -> list[str]:
    """Let nodes with GPUs respond with these states; return the list of nodes that are asked."""
    asked: list[str] = []
    by_node = {str(i): state for i, state in enumerate(states)}
    monkeypatch.setattr(resources, "run_on_node", lambda node, function: asked.append(node.id) or node.id)
    monkeypatch.setattr(resources.ray, "get", lambda reference, timeout: by_node[reference])
    monkeypatch.setattr(resources, "_gpu_states", {})
    return asked


@pytest.mark.parametrize("requested", [None, False])
def test_without_a_gpu_no_node_is_asked(
    requested: bool | None, monkeypatch: pytest.MonkeyPatch, messages: list[str]
) -> None:
    """Nor with GPUs that the run must not use."""
    asked = set_gpu_states(monkeypatch)
    make_nodes(monkeypatch, (4, 0), (4, 0) if requested is None else (4, 1))
    assert not resources.use_gpus(requested, 1, 1)
    assert (asked, messages) == ([], [])


@pytest.mark.parametrize("requested", [None, True])
def test_gpus_are_used_if_torch_can_use_them(
    requested: bool | None, monkeypatch: pytest.MonkeyPatch, messages: list[str]
) -> None:
    """Their state is logged; each node with GPUs is asked once in a process."""
    asked = set_gpu_states(monkeypatch, USABLE, USABLE)
    make_nodes(monkeypatch, (4, 1), (4, 1), (4, 0))
    assert resources.use_gpus(requested, 2, 1)
    assert resources.use_gpus(requested, 2, 1)
    assert messages == ["GPUs: torch 2.13.0 for CUDA 13.0, driver 580.95.05"] * 2
    assert asked == ["0", "1"]


def test_gpus_that_torch_cannot_use_are_a_warning_or_an_error(
    monkeypatch: pytest.MonkeyPatch, messages: list[str]
) -> None:
    """Ray may place a worker on any node that has a GPU, so all must be usable."""
    set_gpu_states(monkeypatch, USABLE, UNUSABLE, UNUSABLE)
    make_nodes(monkeypatch, (4, 1), (4, 1), (4, 1))
    problem = (
        "torch cannot use the GPUs of h (a) and of 1 other node: torch 2.13.0 is built without CUDA; "
        "install a build for CUDA there"
    )
    assert not resources.use_gpus(None, 1, 1)
    assert messages == [f"training on CPUs: {problem}"]
    with pytest.raises(resources.ResourceError) as raised:
        resources.use_gpus(True, 1, 1)
    assert str(raised.value) == f"train.use_gpu asks for GPUs: {problem}"


def test_a_node_that_does_not_respond_has_no_usable_gpu(monkeypatch: pytest.MonkeyPatch, messages: list[str]) -> None:
    """Its error is stated instead."""
    set_gpu_states(monkeypatch)
    make_nodes(monkeypatch, (4, 1))

    def fail(reference: str, timeout: float) -> None:
        raise ray.exceptions.RaySystemError("ray::inspect_gpus()\nthe node died")

    monkeypatch.setattr(resources.ray, "get", fail)
    assert not resources.use_gpus(None, 1, 1)
    assert "of h (a): no response: the node died; read its logs" in messages[0]


@pytest.mark.parametrize(
    ("requested", "state", "expected", "message"),
    [
        (None, USABLE, True, "GPU: torch 2.13.0 for CUDA 13.0, driver 580.95.05"),
        (True, USABLE, True, "GPU: torch"),
        (False, USABLE, False, ""),
        (None, GpuState(torch="2.13.0", cuda="13.0", error="no driver"), False, ""),
        (None, UNUSABLE, False, "training on the CPU: torch cannot use the GPU of this machine: torch 2.13.0 is built"),
        (True, UNUSABLE, None, "train.use_gpu asks for a GPU: torch 2.13.0 is built without CUDA; install"),
        (
            True,
            GpuState(torch="2.13.0", error="x"),
            None,
            "asks for a GPU: this machine has none that the driver lists",
        ),
    ],
)
def test_a_run_in_this_process_uses_a_gpu_that_torch_can_use(
    requested: bool | None,
    state: GpuState,
    expected: bool | None,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    messages: list[str],
) -> None:
    """A machine without a GPU trains on its CPU without a message. None: an error."""
    monkeypatch.setattr(resources, "inspect_gpus", lambda: state)
    if expected is None:
        with pytest.raises(resources.ResourceError, match=message):
            resources.use_own_gpu(requested)
        return
    assert resources.use_own_gpu(requested) is expected
    assert len(messages) == bool(message)
    assert all(line.startswith(message) for line in messages)


@pytest.mark.ray
def test_workers_that_can_never_fit_are_an_error_with_request_and_capacity(embedded_ray: None) -> None:
    """Too many workers, too large ones, or missing GPUs; workers that fit do not wait."""
    assert resources.check_capacity(4, 1, 0, "workers") is None
    assert resources.check_capacity(2, 2, 0, "workers") is None
    for request, message in (
        (
            (5, 1, False),
            "^workers: no room for 5 workers of 1 CPU; there are 4 CPUs on 1 node, .* does not autoscale",
        ),
        ((1, 5, False), "no room for 1 worker of 5 CPUs; there are 4 CPUs on 1 node"),
        ((3, 2, False), "no room for 3 workers of 2 CPUs; there are 4 CPUs"),
        ((1, 1, True), "no room for 1 worker of 1 CPU and a GPU; there are 4 CPUs and 0 GPUs on 1 node"),
    ):
        with pytest.raises(resources.ResourceError, match=message):
            resources.check_capacity(*request, "workers")


@pytest.mark.ray
def test_placement_groups_of_a_dead_controller_are_removed(embedded_ray: None) -> None:
    """The group that the driver itself created before stays; afterwards all other CPUs are free."""
    own = placement_group([{"CPU": 1}])
    ray.get(own.ready())
    assert [node["CPU"] for node in ray_private.read_free_resources().values()] == [3]
    assert resources.limit_workers(1, 4, 2, resources.used_cpus()) == 1
    earlier = resources.list_placement_groups()

    @ray.remote(num_cpus=0)
    class Controller:
        def reserve(self) -> None:
            ray.get(placement_group([{"CPU": 1}] * 3).ready())

    controller = Controller.remote()
    ray.get(controller.reserve.remote())
    ray.kill(controller)
    assert ray.available_resources().get("CPU", 0) == 0
    resources.remove_placement_groups(earlier)
    deadline = time.monotonic() + 60
    while ray.available_resources().get("CPU", 0) < 3:
        assert time.monotonic() < deadline, "they are still reserved"
        time.sleep(0.2)
    assert resources.list_placement_groups() == earlier
    remove_placement_group(own)
    while ray.available_resources().get("CPU", 0) < 4:
        assert time.monotonic() < deadline, "it is still reserved"
        time.sleep(0.2)
    assert resources.describe_free_resources() == "4 of 4 CPUs free on 1 node"
