"""Starting a service: here until it is stopped, or on a cluster that keeps it."""

import logging
import signal
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from pydantic import ValidationError

from cluster import UsageError
from cluster.connection import address_in_use, connect

DEPLOY_TIMEOUT_S = 120


class ServiceFailed(UsageError):
    """A service did not come up."""


def run(configuration: dict[str, Any], address: str | None, say: Callable[[str], None]) -> None:
    """Serve the first application of a Serve configuration until SIGINT or SIGTERM."""
    # Until it serves, either signal breaks off whatever Ray is waiting for.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    http = configuration["http_options"]
    embedded = address_in_use(address) is None
    if embedded:
        _check_free(http["host"], http["port"])
    with connect(address):
        from ray import serve

        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        from serving.app import Arguments, Service

        application = configuration["applications"][0]
        name = application["name"]
        options = {key: value for key, value in application["deployments"][0].items() if key != "name"}
        try:
            arguments = Arguments.model_validate(application.get("args") or {})
        except ValidationError as error:
            raise ServiceFailed(f"args of the application '{name}': {error}") from error
        say(f"starting the service for {options['user_config']['checkpoint']}")
        before = serve.status()  # of a Serve that runs on the cluster already, and stays when we end
        if name in before.applications:
            raise ServiceFailed(f"the cluster serves an application '{name}' already; `deploy` updates it")
        if before.proxies:
            _check_port(http["port"])
        try:
            serve.start(http_options=http)
            deployed = Service.options(**options).bind(arguments.limits.model_dump())
            serve.run(deployed, name=name, route_prefix=application["route_prefix"])
            url = f"http://{http['host']}:{http['port']}"
            say(f"serving at {url}: POST /predict, POST /, GET /info, GET /health; Ctrl-C stops it")
            _wait_for_signal()
            say("stopping")
            if embedded:
                serve.delete(name)  # or replicas would be cut off when their Ray ends
        except RuntimeError as error:
            raise ServiceFailed(f"the service did not come up: {str(error).splitlines()[-1]}") from error
        finally:
            if before.proxies:
                serve.delete(name)
            elif not embedded:
                serve.shutdown()


def _wait_for_signal() -> None:
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    stop.wait()


def _check_free(host: str, port: int) -> None:
    try:
        socket.create_server((host, port)).close()
    except OSError as error:
        raise ServiceFailed(f"cannot listen on {host}:{port}: {error.strerror}; --port takes another") from error


def _check_port(port: int) -> None:
    """Refuse a port that the cluster's running Serve does not listen on; it takes one only when it starts."""
    from ray.serve.context import _get_global_client

    found = _get_global_client().http_config.port
    if found != port:
        raise ServiceFailed(f"Serve runs on this cluster already, on port {found}: --port {found} shares it")


def deploy(configuration: dict[str, Any], address: str | None, say: Callable[[str], None]) -> None:
    """Hand a Serve configuration to a running cluster and wait until it serves.

    Raises:
        ServiceFailed: the cluster cannot be reached, or the service did not come up.
    """
    from cluster.submission import client_of, dashboard

    name = configuration["applications"][0]["name"]
    try:
        client = client_of(dashboard(address), "serve")
        client.deploy_applications(configuration)
        deadline = time.monotonic() + DEPLOY_TIMEOUT_S
        while time.monotonic() < deadline:
            details = client.get_serve_details()
            found = details["applications"].get(name, {})
            if found.get("status") == "RUNNING":
                http = details["http_options"]
                say(f"{name} is running at http://{http['host']}:{http['port']}{found['route_prefix']}")
                if http["port"] != configuration["http_options"].get("port", http["port"]):
                    say("Serve ran here before; a new host or port is taken up after `serve shutdown`")
                return
            if found.get("status") in ("DEPLOY_FAILED", "UNHEALTHY"):
                raise ServiceFailed(f"{name}: {found['status']}: {found.get('message')}")
            time.sleep(0.5)
    except (ConnectionError, RuntimeError) as error:
        raise ServiceFailed(f"the cluster at {address} does not take the service: {error}") from error
    raise ServiceFailed(f"{name} was not running after {DEPLOY_TIMEOUT_S} s; `serve status` says why")
