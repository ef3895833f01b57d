"""Ray cluster of several nodes on this machine, whose processes and nodes a benchmark kills."""

import os
import random
from contextlib import suppress
from pathlib import Path


class LocalCluster:
    """A head and two nodes on this machine, with their own folders."""

    def __init__(self, folder: Path) -> None:
        from ray.cluster_utils import Cluster

        self.environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
        self.environment |= {"RAY_TMPDIR": str(folder), "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
        os.environ.update(self.environment)
        self.folder = folder
        self._cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        self.address = self._cluster.address
        for _ in range(2):
            self.add_node()

    def add_node(self) -> None:
        """Add a node with one CPU."""
        self._cluster.add_node(num_cpus=1)

    def kill_node(self) -> None:
        """Kill all processes of a node."""
        node = random.choice(sorted(self._cluster.worker_nodes, key=id))
        self._cluster.remove_node(node, allow_graceful=False)

    def find_processes(self, title: str) -> list[int]:
        """Return the ids of the cluster's processes whose title starts with `title`."""
        pids = []
        for entry in Path("/proc").iterdir():
            with suppress(OSError, ValueError):
                ours = f"RAY_TMPDIR={self.folder}".encode() in (entry / "environ").read_bytes()
                if ours and (entry / "cmdline").read_bytes().startswith(title.encode()):
                    pids.append(int(entry.name))
        return pids

    def shutdown(self) -> None:
        """Stop all nodes."""
        self._cluster.shutdown()
