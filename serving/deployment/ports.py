"""Ports of a service: free ones, and who holds those that are not."""

import socket

from cluster.machine import find_listener
from cluster.ray_private import read_serve_port
from serving.deployment.applications import DeploymentError


def require_free_port(host: str, port: int) -> None:
    """Raise DeploymentError, with the process that holds it, if a port cannot be listened on."""
    require_no_orphaned_proxy(port)
    try:
        socket.create_server((host, port)).close()
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


def require_port_of_running_serve(port: int) -> None:
    """Raise an error if a running Serve listens on another port; it cannot change its port."""
    running = read_serve_port()
    if running != port:
        raise DeploymentError(f"Serve already runs on this cluster, on port {running}; use --port {running}")
