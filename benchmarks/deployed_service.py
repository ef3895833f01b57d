"""The service on a Ray cluster of its own, with HAProxy before it, to be changed. For benchmarks and tests."""

import json
import os
import shutil
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import yaml

from benchmarks.ray_head import RayHead, find_free_ports, start_ray_head
from cluster.package import REPOSITORY
from cluster.ray_jobs import create_client
from serving.deployment.haproxy import build_environment
from serving.deployment.server import deploy

TIMEOUT_S = 60
MAX_TRIES = 10


class DeployedService:
    """A deployed service.

    configuration: what was handed to Serve; deployment: the part of it that tells of replicas, one without
    autoscaling at first; proxy: where HAProxy tells its figures.
    """

    def __init__(self, head: RayHead, checkpoint: str, proxy: str) -> None:
        self.head, self.metrics_url = head, proxy
        [port] = find_free_ports(1)
        self.port, self.url = port, f"http://127.0.0.1:{port}"
        self.configuration: dict[str, Any] = yaml.safe_load((REPOSITORY / "serving/service.yaml").read_text())
        self.configuration["http_options"]["port"] = port
        self.deployment: dict[str, Any] = self.configuration["applications"][0]["deployments"][0]
        self.autoscaling_config: dict[str, Any] = self.deployment.pop("autoscaling_config")
        self.deployment["ray_actor_options"]["num_cpus"] = 0.1
        self.deployment["num_replicas"] = 1
        self.deployment["user_config"] = {"checkpoint": checkpoint}

    def deploy(self, **options: Any) -> None:
        """Deploy with some options of the deployment changed, and wait until it runs so."""
        if "autoscaling_config" in options:
            self.deployment.pop("num_replicas", None)
        if "num_replicas" in options:
            self.deployment.pop("autoscaling_config", None)
        self.deployment |= options
        told: list[str] = []
        deploy(self.configuration, self.head.dashboard_url)
        assert told, "deploy says where the service is"
        if "num_replicas" in self.deployment:
            wait_until(lambda: len(self.replica_pids()) == self.deployment["num_replicas"])

    def delete(self) -> None:
        """Take the service down, and wait until it is gone."""
        create_client(self.head.dashboard_url, "serve").deploy_applications({**self.configuration, "applications": []})
        wait_until(self._is_gone)

    def _is_gone(self) -> bool:
        with self._details() as response:
            return "classifier" not in json.load(response)["applications"]

    def replica_pids(self) -> list[int]:
        """Return the processes of the replicas that run."""
        return [each["pid"] for each in self._replicas() if each["state"] == "RUNNING"]

    def has_no_replicas(self) -> bool:
        """Tell whether there is no replica, not even one that is about to end and would still answer."""
        return not self._replicas()

    def _replicas(self) -> list[dict[str, Any]]:
        for _ in range(MAX_TRIES):
            with suppress(OSError), self._details() as response:  # of a dashboard that is busy
                return json.load(response)["applications"]["classifier"]["deployments"]["Classifier"]["replicas"]
            time.sleep(1)
        raise TimeoutError(f"the dashboard did not answer {MAX_TRIES} times")

    def _details(self) -> Any:
        return urllib.request.urlopen(f"{self.head.dashboard_url}/api/serve/applications/", timeout=30)

    def info(self) -> dict[str, Any]:
        """Return what a replica says of itself."""
        with urllib.request.urlopen(f"{self.url}/info", timeout=30) as response:
            return json.load(response)

    def all_replicas_serve(self, checkpoint: str) -> bool:
        """Tell whether every replica serves a checkpoint, as far as a few questions can tell."""
        return all(self.info()["checkpoint"] == checkpoint for _ in range(6))


@contextmanager
def deploy_service(checkpoint: str, num_cpus: int = 4) -> Iterator[DeployedService]:
    """Hold a service with one replica in the fast configuration, on a Ray head that was told of so many CPUs."""
    ports = find_free_ports(2)
    folder = Path(tempfile.mkdtemp(prefix="rh-", dir="/tmp"))  # short: HAProxy keeps sockets in it
    try:
        without_token = patch.dict(os.environ, RAY_AUTH_MODE="disabled")
        with without_token, start_ray_head(num_cpus, **build_environment(folder, *ports)) as head:
            made = DeployedService(head, checkpoint, f"http://127.0.0.1:{ports[1]}/metrics")
            made.deploy()
            yield made
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def wait_until(ready: Callable[[], bool], seconds: float = TIMEOUT_S) -> None:
    """Wait for something to become true; TimeoutError if it does not."""
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not so after {seconds:g} s")
        time.sleep(0.3)
