"""Resources of a cluster's nodes, compared with those that a run requests.

A run that can never start fails at once instead of waiting.
"""

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster import UsageError, format_count
from cluster.machine import GpuState, inspect_gpus
from cluster.ray_private import read_free_resources

logger = logging.getLogger(__name__)

_gpu_states: dict[str, GpuState] = {}  # by id of the node, which no other node ever has

# A node may install the packages of a job first, which takes minutes.
GPU_RESPONSE_TIMEOUT_S = 600

CANCEL_ATTEMPTS, CANCEL_TIMEOUT_S = 5, 2


class ResourceError(UsageError):
    """A run requests more resources than the cluster can ever have."""


@dataclass(frozen=True)
class Node:
    """A living node of the cluster.

    resources: amounts by kind, such as CPU and GPU; labels: set by whatever started the node.
    """

    id: str
    host: str
    address: str
    resources: dict[str, float]
    labels: dict[str, str]


def list_nodes() -> list[Node]:
    """Return the living nodes of the cluster."""
    return [
        Node(
            id=node.get("NodeID", ""),
            host=node.get("NodeManagerHostname", ""),
            address=node.get("NodeManagerAddress", ""),
            resources=node["Resources"],
            labels=node.get("Labels", {}),
        )
        for node in ray.nodes()  # type: ignore[no-untyped-call]  # Ray has no types here
        if node["Alive"]
    ]


def run_on_node(node: Node, function: Callable[..., Any], *arguments: Any) -> Any:
    """Return Ray's reference to the value of a function that a process of a node calls, which then ends.

    It takes no CPU and no GPU, and sees all GPUs of the node. Its end releases the memory of GPUs.
    """
    strategy = NodeAffinitySchedulingStrategy(node.id, soft=False)
    task: Any = ray.remote(num_cpus=0, max_retries=0, max_calls=1)(function)  # Ray's types do not know the strategy
    return task.options(scheduling_strategy=strategy).remote(*arguments)


def describe_task_error(error: RayError) -> str:
    """Return why a task failed: the last line of a remote traceback names the error."""
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__


def cancel_tasks(references: Sequence[ray.ObjectRef[Any]]) -> None:
    """End tasks, so that others can use their resources; without a connection to Ray they have ended.

    Ray may ignore the cancellation of a task that is about to start, so it is repeated.
    """
    waiting = list(references) if ray.is_initialized() else []
    for _ in range(CANCEL_ATTEMPTS):
        if not waiting:
            return
        for reference in waiting:
            ray.cancel(reference, force=True)
        _, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=CANCEL_TIMEOUT_S)


def total_cpus() -> int:
    """Return the number of CPUs of all nodes."""
    return int(_total_resources().get("CPU", 0))


def total_gpus() -> int:
    """Return the number of GPUs of all nodes."""
    return int(_total_resources().get("GPU", 0))


def describe_free_resources() -> str:
    """Return the unused CPUs and GPUs as text, such as `2 of 4 CPUs free on 1 node`."""
    free: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]  # Ray has no types here
    total = _total_resources()
    kinds = [kind for kind in ("CPU", "GPU") if total.get(kind)]
    amounts = [f"{free.get(kind, 0):g} of {total[kind]:g} {kind}s" for kind in kinds]
    return f"{' and '.join(amounts) or 'no CPU'} free on {format_count(len(list_nodes()), 'node')}"


def used_cpus() -> float:
    """Return the CPUs that tasks, actors and placement groups of all jobs and services hold."""
    return _used("CPU")


def used_gpus() -> float:
    """Return the GPUs that tasks, actors and placement groups of all jobs and services hold."""
    return _used("GPU")


def limit_workers(
    minimum: int,
    maximum: int,
    cpus_per_worker: int,
    cpus_of_others: float,
    gpus_per_worker: int = 0,
    gpus_of_others: float = 0,
) -> int:
    """Return the largest number of workers that leaves other jobs and services their CPUs and GPUs, or `minimum`.

    Ray Train counts all CPUs and GPUs of the cluster, and would wait forever for workers that do not fit next to the
    others. Those of a worker are on one node. Workers of this run that were lost may still hold some, which become
    free.

    Args:
        cpus_of_others, gpus_of_others: `used_cpus()` and `used_gpus()` before the run started.
    """
    if minimum == maximum or is_autoscaling():
        return maximum
    nodes, total = list(read_free_resources().values()), _total_resources()
    of_lost_workers = {
        kind: max(0.0, total.get(kind, 0) - sum(free.get(kind, 0) for free in nodes) - of_others)
        for kind, of_others in (("CPU", cpus_of_others), ("GPU", gpus_of_others))
    }
    room = sum(_node_capacity(free, cpus_per_worker, gpus_per_worker) for free in (*nodes, of_lost_workers))
    return max(minimum, min(maximum, room))


def worker_capacity(cpus_per_worker: int, gpus_per_worker: float) -> int:
    """Return how many workers fit into the nodes of the cluster if nothing else runs there."""
    return sum(_node_capacity(node.resources, cpus_per_worker, gpus_per_worker) for node in list_nodes())


def use_gpus(requested: bool | None, workers: int, cpus_per_worker: int) -> bool:
    """Return whether the workers of a run use a GPU each; log why not if the cluster has some, or could have.

    Args:
        requested: `train.use_gpu`; None: if there are enough, and torch can use them.

    Raises:
        ResourceError: they are requested, and torch cannot use them.
    """
    if requested is None:
        enough, notice = select_gpus(workers, cpus_per_worker)
        if notice:
            logger.info(notice)
        return enough and torch_uses_gpus()
    return requested and torch_uses_gpus(required=True)


def torch_uses_gpus(*, required: bool = False) -> bool:
    """Return whether torch can use the GPUs of all nodes that have some, and log the result.

    Ray counts the GPUs that the driver lists, and places workers on any node with enough of them. Nodes that join later
    are not known.

    Raises:
        ResourceError: they are required and not usable.
    """
    states = inspect_gpu_nodes()
    unusable = [(node, state) for node, state in states if state.error]
    if not unusable:
        if states:
            logger.info(f"GPUs: {'; '.join(sorted({str(state) for _, state in states}))}")
        return True
    node, state = unusable[0]
    others = f" and of {format_count(len(unusable) - 1, 'other node')}" if len(unusable) > 1 else ""
    problem = f"torch cannot use the GPUs of {node.host} ({node.address}){others}: {state.problem}"
    if required:
        raise ResourceError(f"train.use_gpu asks for GPUs: {problem}")
    logger.warning(f"training on CPUs: {problem}")
    return False


def use_own_gpu(requested: bool | None) -> bool:
    """Return whether a run in this process uses a GPU of this machine; log why not if it has one.

    Args:
        requested: `train.use_gpu`; None: if torch can use one.

    Raises:
        ResourceError: one is requested, and torch cannot use it.
    """
    if requested is False:
        return False
    state = inspect_gpus()
    if not state.error:
        logger.info(f"GPU: {state}")
        return True
    if requested:
        reason = state.problem if state.count else f"this machine has none that the driver lists ({state})"
        raise ResourceError(f"train.use_gpu asks for a GPU: {reason}")
    if state.count:
        logger.warning(f"training on the CPU: torch cannot use the GPU of this machine: {state.problem}")
    return False


def inspect_gpu_nodes() -> list[tuple[Node, GpuState]]:
    """Return the nodes that have GPUs according to Ray, with the state of these; each node is asked once."""
    nodes = [node for node in list_nodes() if node.resources.get("GPU")]
    references = {node.id: run_on_node(node, inspect_gpus) for node in nodes if node.id not in _gpu_states}
    for node_id, reference in references.items():
        try:
            _gpu_states[node_id] = ray.get(reference, timeout=GPU_RESPONSE_TIMEOUT_S)
        except RayError as error:
            _gpu_states[node_id] = GpuState(error=f"no response: {describe_task_error(error)}; read its logs")
    return [(node, _gpu_states[node.id]) for node in nodes]


def select_gpus(workers: int, cpus_per_worker: int) -> tuple[bool, str | None]:
    """Return whether each worker gets a GPU, and a message if they do not although there are GPUs, or could be.

    All workers compute the same way, so there are GPUs for all of them or for none.
    """
    capacity = worker_capacity(cpus_per_worker, 1)
    if capacity >= workers:
        return True, None
    if total_gpus():
        return False, (
            f"training on CPUs: the cluster's {format_count(total_gpus(), 'GPU')} and their nodes have room for "
            f"{capacity} of {format_count(workers, 'worker')} with {format_count(cpus_per_worker, 'CPU')} and a GPU "
            "each; change train.workers or train.cpus_per_worker, or set train.use_gpu"
        )
    if is_autoscaling():
        return False, "training on CPUs: no node has a GPU at the moment; train.use_gpu=true waits for one"
    return False, None


def check_capacity(workers: int, cpus_per_worker: int, gpus_per_worker: float, settings: str) -> str | None:
    """Return None if the workers fit into the cluster, else a message that the run waits until it has grown.

    Args:
        gpus_per_worker: a whole number, or a fraction below 1.
        settings: names of the settings that decide the request, for the error.

    Raises:
        ResourceError: they can never fit, because the cluster does not autoscale.
    """
    if worker_capacity(cpus_per_worker, gpus_per_worker) >= workers:
        return None
    request = f"{format_count(workers, 'worker')} of {format_count(cpus_per_worker, 'CPU')}"
    if gpus_per_worker:
        request += " and a GPU" if gpus_per_worker == 1 else f" and {gpus_per_worker:g} of a GPU"
    available = f"{total_cpus()} CPUs"
    if gpus_per_worker:
        available += f" and {total_gpus()} GPUs"
    available += f" on {format_count(len(list_nodes()), 'node')}"
    if not is_autoscaling():
        raise ResourceError(
            f"{settings}: no room for {request}; there are {available}, and this cluster does not autoscale"
        )
    return f"waiting for {request} each until the cluster has grown; there are {available}"


def list_placement_groups() -> set[str]:
    """Return the ids of the placement groups of this driver, a user's own ones included."""
    job = ray.get_runtime_context().get_job_id()
    groups = placement_group_table().items()
    # A group's id ends in the id of its job.
    return {group_id for group_id, group in groups if group_id.endswith(job) and group["state"] != "REMOVED"}


def remove_placement_groups(earlier: Collection[str]) -> None:
    """Release the resources of this driver's placement groups, after the process that created them has died.

    Ray Train's own cleaner does this only on a cluster with a dashboard.

    Args:
        earlier: ids of the groups that stay: those that existed before the run.
    """
    for group_id in list_placement_groups().difference(earlier):
        remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(group_id))))


def is_autoscaling() -> bool:
    """Return whether the cluster launcher or KubeRay started the nodes: both label them with their node type."""
    return any("ray.io/node-group" in node.labels for node in list_nodes())


def _total_resources() -> dict[str, float]:
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]  # Ray has no types here
    return resources


def _used(kind: str) -> float:
    free: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]  # Ray has no types here
    return _total_resources().get(kind, 0) - free.get(kind, 0)


def _node_capacity(resources: dict[str, float], cpus_per_worker: int, gpus_per_worker: float) -> int:
    """Return how many workers fit into a node. A fraction of a GPU never spans two GPUs."""
    by_cpu = int(resources.get("CPU", 0) // cpus_per_worker)
    gpus = int(resources.get("GPU", 0))
    if not gpus_per_worker:
        return by_cpu
    by_gpu = gpus * int(1 / gpus_per_worker + 1e-9) if gpus_per_worker <= 1 else int(gpus // gpus_per_worker)
    return min(by_cpu, by_gpu)
