"""What a cluster has and may come to have, compared with what a run asks for, before it waits for it in vain."""

from cluster import UsageError


class ResourceError(UsageError):
    """A run asks for more than the cluster can ever have."""


def cpus() -> int:
    """Return the CPUs of all nodes together."""
    import ray

    return int(ray.cluster_resources().get("CPU", 0))


def gpus() -> int:
    """Return the GPUs of all nodes together."""
    import ray

    return int(ray.cluster_resources().get("GPU", 0))


def free() -> str:
    """Return what nothing uses now, in words."""
    import ray

    nodes = sum(node["Alive"] for node in ray.nodes())
    now, all_in_all = ray.available_resources(), ray.cluster_resources()
    kinds = [kind for kind in ("CPU", "GPU") if all_in_all.get(kind)]
    amounts = [f"{now.get(kind, 0):g} of {all_in_all[kind]:g} {kind}s" for kind in kinds]
    return f"{' and '.join(amounts) or 'no CPU'} free on {nodes} node{'' if nodes == 1 else 's'}"


def require(workers: int, cpus_per_worker: int, use_gpu: bool) -> str | None:
    """Return None when the workers fit into the cluster's nodes, else what they wait for until it has grown.

    Raises:
        ResourceError: they will never fit, since the cluster does not grow.
    """
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if sum(_room(node, cpus_per_worker, use_gpu) for node in nodes) >= workers:
        return None
    asked = f"{workers} worker{'s' if workers > 1 else ''} of {cpus_per_worker} CPU{'s' if cpus_per_worker > 1 else ''}"
    asked += f"{' and a GPU' if use_gpu else ''} each"
    there = f"{_amounts(cpus(), gpus(), use_gpu)} on {len(nodes)} node{'' if len(nodes) == 1 else 's'}"
    if not grows():
        raise ResourceError(f"train.workers asks for {asked}; there are {there}, and this cluster does not grow")
    return f"waiting for {asked} until the cluster has grown; there are {there}"


def release() -> None:
    """Give back what this driver's placement groups hold, after whoever made them has died.

    Ray Train's own cleaner does so too, but only on a cluster with a dashboard.
    """
    import ray
    from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group

    job = ray.get_runtime_context().get_job_id()
    for number, group in placement_group_table().items():
        if number.endswith(job) and group["state"] != "REMOVED":  # the last bytes of a group's id are its job's
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(number))))


def grows() -> bool:
    """Tell whether the launcher or KubeRay started the cluster's nodes, which give them the name of their kind."""
    import ray

    return any("ray.io/node-group" in node.get("Labels", {}) for node in ray.nodes() if node["Alive"])


def _room(resources: dict[str, float], cpus_per_worker: int, use_gpu: bool) -> int:
    """Return how many workers fit into a node."""
    room = int(resources.get("CPU", 0) // cpus_per_worker)
    return min(room, int(resources.get("GPU", 0))) if use_gpu else room


def _amounts(num_cpus: int, num_gpus: int, use_gpu: bool) -> str:
    return f"{num_cpus} CPUs" + (f" and {num_gpus} GPUs" if use_gpu else "")
