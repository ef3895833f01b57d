"""Services that run on a Ray cluster, as its dashboard reports them, and the leases on their checkpoints."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit

from cluster.console.logs import RESULT
from cluster.machine import is_own_address
from cluster.ray_jobs import create_client, resolve_dashboard_url
from cluster.ray_private import read_session_name
from cluster.storage import StorageError
from jobs.model.checkpoint import CheckpointError
from jobs.model.checkpoint_leases import remove_lease, write_lease
from jobs.model.checkpoint_locations import resolve_checkpoint
from serving.deployment.checkpoints import referenced_checkpoints
from serving.deployment.configurations import (
    DeployedMeanwhileError,
    DeploymentError,
    RoutePrefixError,
    exclude,
    is_imperative,
    merge,
    read_user_config,
    require_unchanged,
)
from serving.deployment.reachability import build_service_url, is_loopback, resolve_reachable_url

logger = logging.getLogger(__name__)

KEPT_ADDRESS = (
    "Serve was running already and keeps its address, {host}:{port}; to change it, remove all services first "
    "(finetune-cnn service undeploy)"
)

DEFAULT_NAME = "classifier"  # of the application in serving/service.yaml
DEPLOY_TIMEOUT_S = 120
SEND_ATTEMPTS = 4


class ServeApi(Protocol):
    """The part of the dashboard's Serve client that a deployment uses."""

    def deploy_applications(self, config: Mapping[str, Any]) -> None:
        """Send a Serve configuration."""

    def get_serve_details(self) -> Mapping[str, Any]:
        """Return the state of Serve and its applications."""

    def delete_applications(self) -> None:
        """Stop Serve with all its applications."""


@dataclass(frozen=True)
class Application:
    """A service on a cluster.

    url: as its host is configured; reachable_url: from here, None if it is not; configuration: as it was deployed,
    None if a running process such as `finetune-cnn serve` started it, or if it is being removed; is_imperative: a
    process started it; user_config: of its first deployment; replicas: number by state.
    """

    name: str
    status: str
    message: str
    url: str
    reachable_url: str | None
    deployed_at: float
    configuration: Mapping[str, Any] | None
    is_imperative: bool
    user_config: Mapping[str, Any]
    replicas: Mapping[str, int]

    @property
    def checkpoint(self) -> str:
        """Path of the configured checkpoint."""
        return str(self.user_config.get("checkpoint", ""))

    @property
    def previous(self) -> str | None:
        """Path of the checkpoint that was served before."""
        return self.user_config.get("previous")

    def require_declarative(self) -> None:
        """Raise DeploymentError if a process started it: only that process can change or remove it."""
        if self.is_imperative:
            raise DeploymentError(
                f"{self.name}: was not started by `finetune-cnn deploy`; end it with Ctrl-C in the terminal of "
                "`finetune-cnn serve`, or by serve.delete in the program that started it"
            )


class ServeCluster:
    """Ray Serve on a cluster.

    Args:
        address: of its dashboard; by default that of `resolve_dashboard_url`.

    Raises:
        SubmissionError: the cluster has no address or does not respond.
    """

    def __init__(self, address: str | None) -> None:
        self.dashboard_url = resolve_dashboard_url(address)
        client = create_client(self.dashboard_url, "serve")
        self._client: ServeApi = client
        # A cluster that is started again has another session, and none of the services of the earlier one.
        with self._convert_errors():
            self._session = read_session_name(client) or self.dashboard_url

    @contextmanager
    def _convert_errors(self) -> Iterator[None]:
        """Context manager: an error of the dashboard becomes a DeploymentError."""
        try:
            yield
        except (OSError, RuntimeError) as error:
            raise DeploymentError(f"{self.dashboard_url}: {error}") from error

    def _read_details(self) -> Mapping[str, Any]:
        with self._convert_errors():
            return self._client.get_serve_details()

    def is_serving(self) -> bool:
        """Return whether Serve runs, with or without applications."""
        return bool(self._read_details().get("proxies"))

    def find_machine(self) -> str | None:
        """Return the host of a machine of the cluster as reachable from here, or None if that is unknown.

        A dashboard on the loopback interface may be forwarded from another machine, whose services are not here. Serve
        knows where it runs; before it has started, the dashboard counts as one of this machine.
        """
        return self._find_machine(self._read_details())

    def _find_machine(self, details: Mapping[str, Any]) -> str | None:
        host = urlsplit(self.dashboard_url).hostname or ""
        node = (details.get("controller_info") or {}).get("node_ip")
        return None if is_loopback(host) and node and not is_own_address(node) else host

    def list_applications(self) -> list[Application]:
        """Return the services of this project; other applications have no checkpoint in their `user_config`."""
        details = self._read_details()
        machine = self._find_machine(details)
        applications = []
        for name, values in details["applications"].items():
            deployments = list(values["deployments"].values())
            user_config = deployments[0]["deployment_config"].get("user_config") if deployments else None
            configuration = values.get("deployed_app_config")
            if not user_config and configuration:  # it has not started yet
                user_config = read_user_config(configuration)
            if not isinstance(user_config, dict) or "checkpoint" not in user_config:
                continue
            http = details["http_options"]
            url = build_service_url(http["host"], http["port"], values["route_prefix"] or "")
            replicas = Counter(replica["state"] for deployment in deployments for replica in deployment["replicas"])
            applications.append(
                Application(
                    name,
                    values["status"],
                    values["message"],
                    url,
                    resolve_reachable_url(url, machine),
                    values["last_deployed_time_s"],
                    configuration,
                    is_imperative(values),
                    user_config,
                    replicas,
                )
            )
        return applications

    def find_application(self, name: str | None) -> Application:
        """Return a service by its name; without a name the only one, or else the one with the default name.

        Raises:
            DeploymentError: there is none.
        """
        applications = {application.name: application for application in self.list_applications()}
        if name is None:
            name = next(iter(applications)) if len(applications) == 1 else DEFAULT_NAME
        if name not in applications:
            running = f"it runs {', '.join(sorted(applications))}; use --name" if applications else "it runs no service"
            raise DeploymentError(f"{self.dashboard_url}: no service is called '{name}'; {running}")
        return applications[name]

    def deploy(self, configuration: Mapping[str, Any], before: Application | None) -> None:
        """Protect the checkpoints of the first application of a Serve configuration, and send the configuration.

        The other applications of the cluster stay as they are.

        Args:
            configuration: without `http_options`, those of the running Serve apply.
            before: the application when the command started; None if there was none.

        Raises:
            RoutePrefixError: another application has the same route prefix.
            DeployedMeanwhileError: another command has deployed the application since.
        """
        application = configuration["applications"][0]
        checkpoints = referenced_checkpoints(read_user_config(application))
        in_use = before.user_config if before else {}

        def send(details: Mapping[str, Any]) -> None:
            require_unchanged(application, before.configuration if before else None, details)
            self._client.deploy_applications(merge(configuration, details))

        self.write_leases(application["name"], checkpoints)
        try:
            self._update(send)
        except (RoutePrefixError, DeployedMeanwhileError) as error:
            in_use = error.user_config if isinstance(error, DeployedMeanwhileError) else in_use
            self.remove_leases(application["name"], checkpoints - referenced_checkpoints(in_use))
            raise

    def remove(self, name: str) -> None:
        """Remove an application that was deployed; the others stay as they are."""

        def remove(details: Mapping[str, Any]) -> None:
            configuration = exclude(name, details)
            if configuration is not None:
                self._client.deploy_applications(configuration)
            else:
                self._client.delete_applications()  # Serve stops too, and its port is free

        self._update(remove)

    def _update(self, send: Callable[[Mapping[str, Any]], None]) -> None:
        """Read the state of Serve and call a function that sends a change of it.

        Where a busy dashboard closes the connection, both are repeated: Serve removes the applications that a
        configuration does not contain, except those that a process started, so it must not contain an old state.
        """
        with self._convert_errors():
            for attempt in range(1, SEND_ATTEMPTS + 1):
                try:
                    send(self._client.get_serve_details())
                    return
                except OSError:
                    if attempt == SEND_ATTEMPTS:
                        raise
                    time.sleep(2)

    def wait_until_running(self, name: str, requested: Mapping[str, Any] | None = None) -> str:
        """Wait until an application runs, and return and log its URL.

        Args:
            requested: host and port that were configured; a warning says so if Serve uses others.

        Raises:
            DeploymentError: it failed, or does not run within DEPLOY_TIMEOUT_S seconds.
        """
        deadline = time.monotonic() + DEPLOY_TIMEOUT_S
        while time.monotonic() < deadline:
            try:
                details: Mapping[str, Any] = self._client.get_serve_details()
            except (OSError, RuntimeError):  # the dashboard is busy
                details = {"applications": {}}
            values = details["applications"].get(name, {})
            if values.get("status") in ("DEPLOY_FAILED", "UNHEALTHY"):
                raise DeploymentError(f"{name}: {values['status']}: {values.get('message')}")
            if values.get("status") == "RUNNING":
                http = details["http_options"]
                url = build_service_url(http["host"], http["port"], values["route_prefix"] or "")
                logger.log(RESULT, f"{name} is running at {url}")
                if any(value not in (None, http[key]) for key, value in (requested or {}).items() if key in http):
                    logger.warning(KEPT_ADDRESS.format(host=http["host"], port=http["port"]))
                return url
            time.sleep(0.5)
        raise DeploymentError(f"{name} was not running after {DEPLOY_TIMEOUT_S} s; `serve status` contains the reason")

    def write_leases(self, name: str, checkpoints: Iterable[str]) -> None:
        """Protect checkpoints that a service uses from being removed by the search that wrote them."""
        for checkpoint in checkpoints:
            try:
                folder = resolve_checkpoint(checkpoint)
                write_lease(folder, self._holder(name), {"service": name, "cluster": self.dashboard_url})
            except CheckpointError as error:  # the replicas refuse it, and the service reports why
                logger.debug(str(error))
            except StorageError as error:
                logger.warning(
                    f"{error}; a running search or training may remove this checkpoint, and the service could not "
                    "start replicas then"
                )

    def remove_leases(self, name: str, checkpoints: Iterable[str]) -> None:
        """Allow the removal of checkpoints that a service no longer uses, by the paths of `resolve_checkpoints`."""
        for checkpoint in checkpoints:
            try:
                remove_lease(checkpoint, self._holder(name))
            except StorageError as error:
                logger.warning(f"{error}; the checkpoint stays until its lease-*.json is deleted")

    def _holder(self, name: str) -> str:
        return f"{name} on {self._session}"
