"""Ports of a service: free ones, and who holds those that are not."""

import logging
from collections.abc import Mapping
from typing import Any

from cluster.machine import find_listener, listen
from serving.deployment.applications import KEPT_ADDRESS
from serving.deployment.configurations import DeploymentError

logger = logging.getLogger(__name__)


def require_free_port(host: str, port: int) -> None:
    """Raise DeploymentError, with the process that holds it, if a port cannot be listened on."""
    require_no_orphaned_proxy(port)
    try:
        listen(host, port).close()
    except OSError as error:
        listener = find_listener(port)
        holder = f" ({listener.name}, process {listener.pid})" if listener else ""
        raise DeploymentError(
            f"cannot listen on {host}:{port}: {error.strerror}{holder}; set another --port"
        ) from error


def require_no_orphaned_proxy(port: int) -> None:
    """Raise DeploymentError if a HAProxy whose Ray has ended listens on a port of this machine.

    A new HAProxy could listen there too, and the old one would get a part of the requests.
    """
    listener = find_listener(port)
    if listener is not None and listener.name == "haproxy" and not listener.parent.startswith("ray::"):
        raise DeploymentError(
            f"port {port} is held by HAProxy, process {listener.pid}, which an earlier service left behind "
            f"when its Ray ended; end it with `kill {listener.pid}`, or set another --port"
        )


def select_address(http: Mapping[str, Any], running: tuple[str, int]) -> Mapping[str, Any]:
    """Return HTTP options with the host and port of a running Serve, and log a warning if they are others."""
    host, port = running
    if (host, port) != (http["host"], http["port"]):
        logger.warning(KEPT_ADDRESS.format(host=host, port=port))
    return {**http, "host": host, "port": port}
