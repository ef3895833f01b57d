"""Who can reach a service, and whether it asks them for a key."""

import logging
import os
import time
from urllib.parse import urlsplit

from cluster import UsageError
from serving.client import Client, ServiceError
from serving.web import api_keys as keys

logger = logging.getLogger(__name__)

PROBE_TIMEOUT_S = 10  # a proxy hears of a service a little after it runs


class UnprotectedServiceError(UsageError):
    """A service is open that was meant to ask for a key."""


def build_service_url(host: str, port: int, path: str = "") -> str:
    """Return a service's URL; an IPv6 address stands in brackets there."""
    return f"http://{f'[{host}]' if ':' in host else host}:{port}{path}"


def describe_access(host: str) -> str:
    """Return who can reach a service that an embedded Ray has on a host, in words."""
    stats = os.environ.get("RAY_SERVE_HAPROXY_STATS_PORT"), os.environ.get("RAY_SERVE_HAPROXY_METRICS_PORT")
    who = "this machine alone" if _is_loopback(host) else f"whoever reaches {host}"
    key = (
        "with a key"
        if keys.load_api_keys()
        else f"without a key ({keys.KEYS_VARIABLE} or {keys.KEYS_FILE_VARIABLE} sets some)"
    )
    told = f"open to {who}, {key}"
    if None not in stats:
        told += f"; HAProxy's own figures are on ports {stats[0]} and {stats[1]} of every interface"
    return told


def require_key_protection(url: str, machine: str, then: str) -> None:
    """Refuse a service without keys where this environment has some: its replicas read that of their nodes.

    Args:
        url: of the service, with the host that it listens on.
        machine: one that it runs on, as it is reached from here.
        then: what becomes of the service, or what to do with it.

    Raises:
        Exposed: it answers without a key.
    """
    if not keys.are_configured():
        return
    here = resolve_reachable_url(url, machine)
    asks = here and _asks_for_key(here)
    if asks is None:
        logger.info(
            "whether the service asks for a key cannot be seen from here; GET /info without one must answer 401"
        )
    elif not asks:
        raise UnprotectedServiceError(
            f"{here} asks for no key and answers whoever reaches it: the keys are set in this shell alone. "
            f"{keys.KEYS_VARIABLE} or {keys.KEYS_FILE_VARIABLE} must be in the environment of Ray's nodes when they start. {then}"
        )


def _asks_for_key(url: str) -> bool | None:
    """Tell whether a service wants a key; None if none of ours answers."""
    client = Client(url, retry_timeout_s=0, timeout_s=3)
    deadline = time.monotonic() + PROBE_TIMEOUT_S
    while time.monotonic() < deadline:
        try:
            return False if "checkpoint" in client.info() else None
        except ServiceError as error:
            if error.status == 401:
                return True
        except (ValueError, TypeError):  # not what our service would say
            return None
        time.sleep(0.3)
    return None


def resolve_reachable_url(url: str, machine: str) -> str | None:
    """Return a service's URL as it is reached from here, or None: another machine's loopback is not."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if host in ("0.0.0.0", "::"):
        host = machine
    elif _is_loopback(host) and not _is_loopback(machine):
        return None
    return build_service_url(host, parts.port or 80, parts.path)


def _is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")
