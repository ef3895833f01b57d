"""Reachability of a service: its URLs, who can reach it, and whether it requires an API key."""

import logging
import time
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

from cluster import UsageError, choose_form
from cluster.console.output import print_next, report_result
from serving import api_keys
from serving.client import Client, ServiceError
from serving.deployment.haproxy import active_ports

logger = logging.getLogger(__name__)

PROBE_TIMEOUT_S = 10  # a proxy learns of a service shortly after the service runs


class UnprotectedServiceError(UsageError):
    """A service is open although keys are configured here."""


def build_service_url(host: str, port: int, path: str = "") -> str:
    """Return a service's URL, with an IPv6 address in brackets."""
    return f"http://{f'[{host}]' if ':' in host else host}:{port}{path}"


def describe_access(host: str) -> str:
    """Return a sentence about who can reach a service of an embedded Ray that listens on a host."""
    ports = active_ports()
    clients = "this machine only" if is_loopback(host) else f"everyone who can reach {host}"
    count = len(api_keys.load_api_keys())
    key = (
        f"with an API key; {count} {choose_form(count, 'key is', 'keys are')} active"
        if count
        else f"without an API key (set {api_keys.KEYS_VARIABLE} or {api_keys.KEYS_FILE_VARIABLE} to require one of at "
        f"least {api_keys.MIN_KEY_LENGTH} characters)"
    )
    access = f"open to {clients}, {key}"
    if ports is not None:
        access += f"; HAProxy's own statistics are on ports {ports[0]} and {ports[1]} of every interface"
    return access


def format_request(url: str) -> str:
    """Return the command that sends a text to a service at a URL, whose API key is in the variable KEY if it has one.

    The URL may end with a slash.
    """
    key = '-H "Authorization: Bearer $KEY" ' if api_keys.are_configured() else ""
    return f'curl {key}-d \'{{"inputs": "a text"}}\' {url.rstrip("/")}/predict'


def report_service(configuration: Mapping[str, Any], url: str) -> None:
    """Print how to send a request to the first application of a Serve configuration, and report it as a result.

    Args:
        url: of the service, with its route prefix.
    """
    application, url = configuration["applications"][0], url.rstrip("/")
    checkpoint = application["deployments"][0]["user_config"]["checkpoint"]
    report_result({"service": application["name"], "url": url, "checkpoint": checkpoint})
    print_next(format_request(url))


def describe_addresses(url: str, metrics_urls: Iterable[str]) -> str:
    """Return a sentence with the addresses of a service's documentation and metrics."""
    return f"API description: {url}/openapi.json; metrics for Prometheus: {', '.join(metrics_urls)}"


def require_key_protection(url: str, machine: str | None, instruction: str) -> None:
    """Raise an error if keys are configured here but not in the environment of the replicas, which reads its node's.

    Args:
        url: of the service, with the host that it listens on.
        machine: host name or address of a machine that it runs on, as reachable from here; None if it is unknown.
        instruction: last sentence of the error: what happens to the service, or what to do with it.

    Raises:
        UnprotectedServiceError: the service responds without a key.
    """
    if not api_keys.are_configured():
        return
    reachable_url = resolve_reachable_url(url, machine)
    requires_key = reachable_url and _requires_key(reachable_url)
    if requires_key is None:
        logger.info(
            "cannot check from here whether the service requires a key; GET /info without a key must return 401"
        )
    elif not requires_key:
        raise UnprotectedServiceError(
            f"{reachable_url} requires no API key: the keys are set in this shell only. Set {api_keys.KEYS_VARIABLE} "
            f"or {api_keys.KEYS_FILE_VARIABLE} in the environment of Ray's nodes before they start. {instruction}"
        )


def _requires_key(url: str) -> bool | None:
    """Return whether a service requires a key; None if no service of this project responds."""
    client = Client(url, retry_timeout_s=0, timeout_s=3)
    deadline = time.monotonic() + PROBE_TIMEOUT_S
    while time.monotonic() < deadline:
        try:
            return False if "checkpoint" in client.info() else None
        except ServiceError as error:
            if error.status == 401:
                return True
        except (ValueError, TypeError):  # another kind of service
            return None
        time.sleep(0.3)
    return None


def resolve_reachable_url(url: str, machine: str | None) -> str | None:
    """Return a service's URL as reachable from here; None for the loopback address of another machine.

    Args:
        machine: as of `require_key_protection`; without one, only a service on an address of its own is reachable.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    if host in ("0.0.0.0", "::"):
        if machine is None:
            return None
        host = machine
    elif is_loopback(host) and not (machine and is_loopback(machine)):
        return None
    return build_service_url(host, parts.port or 80, parts.path)


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine's loopback address."""
    return host in ("localhost", "::1") or host.startswith("127.")
