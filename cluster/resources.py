"""What a cluster has and may come to have, compared with what a run asks for, before it waits for it in vain."""

from cluster import UsageError


class ResourceError(UsageError):
    """A run asks for more than the cluster can ever have."""


def total_cpus() -> int:
    """Return the CPUs of all nodes together."""
    import ray

    return int(ray.cluster_resources().get("CPU", 0))


def total_gpus() -> int:
    """Return the GPUs of all nodes together."""
    import ray

    return int(ray.cluster_resources().get("GPU", 0))


def describe_free_resources() -> str:
    """Return what nothing uses now, in words."""
    import ray

    nodes = sum(node["Alive"] for node in ray.nodes())
    now, all_in_all = ray.available_resources(), ray.cluster_resources()
    kinds = [kind for kind in ("CPU", "GPU") if all_in_all.get(kind)]
    amounts = [f"{now.get(kind, 0):g} of {all_in_all[kind]:g} {kind}s" for kind in kinds]
    return f"{' and '.join(amounts) or 'no CPU'} free on {nodes} node{'' if nodes == 1 else 's'}"


def worker_capacity(cpus_per_worker: int, gpus_per_worker: float) -> int:
    """Return how many workers fit into the cluster's nodes, if nothing else runs there."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return sum(_room(node, cpus_per_worker, gpus_per_worker) for node in nodes)


def check_capacity(workers: int, cpus_per_worker: int, gpus_per_worker: float) -> str | None:
    """Return None when the workers fit into the cluster's nodes, else what they wait for until it has grown.

    Args:
        gpus_per_worker: a number, or a share of one.

    Raises:
        ResourceError: they will never fit, since the cluster does not grow.
    """
    import ray

    if worker_capacity(cpus_per_worker, gpus_per_worker) >= workers:
        return None
    asked = f"{workers} worker{'s' if workers > 1 else ''} of {cpus_per_worker} CPU{'s' if cpus_per_worker > 1 else ''}"
    if gpus_per_worker:
        asked += " and a GPU" if gpus_per_worker == 1 else f" and {gpus_per_worker:g} of a GPU"
    nodes = sum(node["Alive"] for node in ray.nodes())
    there = f"{_amounts(total_cpus(), total_gpus(), gpus_per_worker)} on {nodes} node{'' if nodes == 1 else 's'}"
    asked += " each"
    if not is_autoscaling():
        raise ResourceError(f"train.workers asks for {asked}; there are {there}, and this cluster does not grow")
    return f"waiting for {asked} until the cluster has grown; there are {there}"


def remove_placement_groups() -> None:
    """Give back what this driver's placement groups hold, after whoever made them has died.

    Ray Train's own cleaner does so too, but only on a cluster with a dashboard.
    """
    import ray
    from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group

    job = ray.get_runtime_context().get_job_id()
    for number, group in placement_group_table().items():
        if number.endswith(job) and group["state"] != "REMOVED":  # the last bytes of a group's id are its job's
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(number))))


def is_autoscaling() -> bool:
    """Tell whether the launcher or KubeRay started the cluster's nodes, which give them the name of their kind."""
    import ray

    return any("ray.io/node-group" in node.get("Labels", {}) for node in ray.nodes() if node["Alive"])


def _room(resources: dict[str, float], cpus_per_worker: int, gpus_per_worker: float) -> int:
    """Return how many workers fit into a node; none is spread over two GPUs, unless it takes them whole."""
    found = int(resources.get("CPU", 0) // cpus_per_worker)
    num_gpus = int(resources.get("GPU", 0))
    if not gpus_per_worker:
        return found
    share = gpus_per_worker
    return min(found, num_gpus * int(1 / share + 1e-9) if share <= 1 else int(num_gpus // share))


def _amounts(num_cpus: int, num_gpus: int, gpus_per_worker: float) -> str:
    return f"{num_cpus} CPUs" + (f" and {num_gpus} GPUs" if gpus_per_worker else "")
