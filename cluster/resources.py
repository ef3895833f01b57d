"""What a cluster has, compared with what a run asks for, before the run waits for it in vain."""

from cluster import UsageError
from cluster.connection import address_in_use


class ResourceError(UsageError):
    """A run asks for more than the cluster has."""


def cpus() -> int:
    """Return the CPUs of all nodes together."""
    import ray

    return int(ray.cluster_resources().get("CPU", 0))


def gpus() -> int:
    """Return the GPUs of all nodes together."""
    import ray

    return int(ray.cluster_resources().get("GPU", 0))


def require(workers: int, cpus_per_worker: int, use_gpu: bool) -> str | None:
    """Return None when the workers fit, else what the run waits for on a cluster that may still grow.

    Raises:
        ResourceError: an embedded Ray is too small; it never grows and Ray Train would wait for ever.
    """
    import ray

    nodes = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    missing = None
    if workers > sum(node // cpus_per_worker for node in nodes):
        missing = f"{workers} workers of {cpus_per_worker} CPUs each; there are {cpus()} CPUs on {len(nodes)} nodes"
    elif use_gpu and workers > gpus():
        missing = f"{workers} workers with a GPU each; there are {gpus()} GPUs"
    if missing is None:
        return None
    if address_in_use() is None:
        raise ResourceError(f"train.workers asks for {missing}")
    return f"waiting for {missing} until the cluster has grown"
