"""The service behind HAProxy on a separate Ray head, for benchmarks and tests that change its deployment."""

import json
import os
import shutil
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import yaml

from benchmarks.ray_head import RayHead, start_ray_head
from cluster.machine import find_free_ports
from cluster.package import REPOSITORY
from cluster.ray_jobs import create_client
from serving.deployment.haproxy import build_environment
from serving.deployment.server import deploy
from tests.support.waiting import wait_for

TIMEOUT_S = 60
MAX_TRIES = 10


class DeployedService:
    """A deployed service.

    configuration: of Ray Serve; deployment: its part for the replicas, initially one without autoscaling;
    metrics_url: HAProxy's metrics.
    """

    def __init__(self, head: RayHead, checkpoint: str, metrics_url: str) -> None:
        self.head, self.metrics_url = head, metrics_url
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
        """Change options of the deployment, deploy, and wait for the configured number of replicas."""
        if "autoscaling_config" in options:
            self.deployment.pop("num_replicas", None)
        if "num_replicas" in options:
            self.deployment.pop("autoscaling_config", None)
        self.deployment |= options
        deploy(self.configuration, self.head.dashboard_url)
        if "num_replicas" in self.deployment:
            count = self.deployment["num_replicas"]
            wait_for(lambda: len(self.replica_pids()) == count, f"{count} replicas", TIMEOUT_S)

    def delete(self) -> None:
        """Remove the service, and wait until it is removed."""
        create_client(self.head.dashboard_url, "serve").deploy_applications({**self.configuration, "applications": []})
        wait_for(self._is_removed, "the end of the service", TIMEOUT_S)

    def _is_removed(self) -> bool:
        with self._details() as response:
            return "classifier" not in json.load(response)["applications"]

    def replica_pids(self) -> list[int]:
        """Return the process ids of the running replicas."""
        return [replica["pid"] for replica in self._replicas() if replica["state"] == "RUNNING"]

    def has_no_replicas(self) -> bool:
        """Return whether there is no replica, not even one that is stopping and would still respond."""
        return not self._replicas()

    def _replicas(self) -> list[dict[str, Any]]:
        for _ in range(MAX_TRIES):
            with suppress(OSError), self._details() as response:  # a busy dashboard
                return json.load(response)["applications"]["classifier"]["deployments"]["Classifier"]["replicas"]
            time.sleep(1)
        raise TimeoutError(f"the dashboard did not respond {MAX_TRIES} times")

    def _details(self) -> Any:
        return urllib.request.urlopen(f"{self.head.dashboard_url}/api/serve/applications/", timeout=30)

    def info(self) -> dict[str, Any]:
        """Return the response of a replica to GET /info."""
        with urllib.request.urlopen(f"{self.url}/info", timeout=30) as response:
            return json.load(response)

    def all_replicas_serve(self, checkpoint: str) -> bool:
        """Return whether the replicas that respond to a few requests all use a checkpoint."""
        return all(self.info()["checkpoint"] == checkpoint for _ in range(6))


@contextmanager
def deploy_service(checkpoint: str, num_cpus: int = 4) -> Iterator[DeployedService]:
    """Context manager: a service with one replica behind HAProxy, on a Ray head with `num_cpus` logical CPUs."""
    ports = find_free_ports(3)
    folder = Path(tempfile.mkdtemp(prefix="rh-", dir="/tmp"))  # short: HAProxy creates sockets in it
    try:
        without_token = patch.dict(os.environ, RAY_AUTH_MODE="disabled")
        variables = build_environment(folder, *ports)
        with without_token, start_ray_head(num_cpus, repository_on_path=True, **variables) as head:
            service = DeployedService(head, checkpoint, f"http://127.0.0.1:{ports[1]}/metrics")
            service.deploy()
            yield service
    finally:
        shutil.rmtree(folder, ignore_errors=True)
