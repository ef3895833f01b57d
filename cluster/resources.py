"""Resources of a cluster's nodes, compared with those that a run requests.

A run that can never start fails at once instead of waiting.
"""

from dataclasses import dataclass

import ray
from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group

from cluster import UsageError


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
    return f"{' and '.join(amounts) or 'no CPU'} free on {_count(len(list_nodes()), 'node')}"


def used_cpus() -> float:
    """Return the CPUs that tasks, actors and placement groups of all jobs and services hold."""
    free: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]  # Ray has no types here
    return _total_resources().get("CPU", 0) - free.get("CPU", 0)


def limit_workers(minimum: int, maximum: int, cpus_per_worker: int, cpus_of_others: float) -> int:
    """Return the largest number of workers that leaves other jobs and services their CPUs, or `minimum`.

    Ray Train counts all CPUs of the cluster, and would wait forever for workers that do not fit next to the others.
    """
    if is_autoscaling():
        return maximum
    room = int((total_cpus() - cpus_of_others) // cpus_per_worker)
    return max(minimum, min(maximum, room))


def worker_capacity(cpus_per_worker: int, gpus_per_worker: float) -> int:
    """Return how many workers fit into the nodes of the cluster if nothing else runs there."""
    return sum(_node_capacity(node.resources, cpus_per_worker, gpus_per_worker) for node in list_nodes())


def select_gpus(workers: int, cpus_per_worker: int) -> tuple[bool, str | None]:
    """Return whether each worker gets a GPU, and a message if they do not although there are GPUs, or could be.

    All workers compute the same way, so there are GPUs for all of them or for none.
    """
    capacity = worker_capacity(cpus_per_worker, 1)
    if capacity >= workers:
        return True, None
    if total_gpus():
        return False, (
            f"training on CPUs: the cluster's {_count(total_gpus(), 'GPU')} and their nodes have room for {capacity} "
            f"of {_count(workers, 'worker')} with {_count(cpus_per_worker, 'CPU')} and a GPU each; change "
            "train.workers or train.cpus_per_worker, or set train.use_gpu"
        )
    if is_autoscaling():
        return False, "training on CPUs: no node has a GPU at the moment; train.use_gpu=true waits for one"
    return False, None


def check_capacity(workers: int, cpus_per_worker: int, gpus_per_worker: float) -> str | None:
    """Return None if the workers fit into the cluster, else a message that the run waits until it has grown.

    Args:
        gpus_per_worker: a whole number, or a fraction below 1.

    Raises:
        ResourceError: they can never fit, because the cluster does not autoscale.
    """
    if worker_capacity(cpus_per_worker, gpus_per_worker) >= workers:
        return None
    request = f"{_count(workers, 'worker')} of {_count(cpus_per_worker, 'CPU')}"
    if gpus_per_worker:
        request += " and a GPU" if gpus_per_worker == 1 else f" and {gpus_per_worker:g} of a GPU"
    available = f"{total_cpus()} CPUs"
    if gpus_per_worker:
        available += f" and {total_gpus()} GPUs"
    available += f" on {_count(len(list_nodes()), 'node')}"
    if not is_autoscaling():
        raise ResourceError(
            f"train.workers asks for {request} each; there are {available}, and this cluster does not autoscale"
        )
    return f"waiting for {request} each until the cluster has grown; there are {available}"


def remove_placement_groups() -> None:
    """Release the resources of this driver's placement groups, after the process that created them has died.

    Ray Train's own cleaner does this only on a cluster with a dashboard.
    """
    job = ray.get_runtime_context().get_job_id()
    for group_id, group in placement_group_table().items():
        if group_id.endswith(job) and group["state"] != "REMOVED":  # a group's id ends in the id of its job
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(group_id))))


def is_autoscaling() -> bool:
    """Return whether the cluster launcher or KubeRay started the nodes: both label them with their node type."""
    return any("ray.io/node-group" in node.labels for node in list_nodes())


def _total_resources() -> dict[str, float]:
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]  # Ray has no types here
    return resources


def _node_capacity(resources: dict[str, float], cpus_per_worker: int, gpus_per_worker: float) -> int:
    """Return how many workers fit into a node. A fraction of a GPU never spans two GPUs."""
    by_cpu = int(resources.get("CPU", 0) // cpus_per_worker)
    gpus = int(resources.get("GPU", 0))
    if not gpus_per_worker:
        return by_cpu
    by_gpu = gpus * int(1 / gpus_per_worker + 1e-9) if gpus_per_worker <= 1 else int(gpus // gpus_per_worker)
    return min(by_cpu, by_gpu)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
