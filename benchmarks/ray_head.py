"""A Ray cluster of one's own, with a dashboard, as `ray start` makes one. For benchmarks and tests."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from cluster.package import REPOSITORY

START_TIMEOUT_S = 90


@dataclass(frozen=True)
class RayHead:
    """A running head. address: HOST:PORT for drivers; dashboard: URL for jobs and services; environment:
    variables for commands that talk to it."""

    address: str
    dashboard_url: str
    environment: dict[str, str]


@contextmanager
def start_ray_head(
    num_cpus: int = 2, *options: str, repository_on_path: bool = True, **variables: str
) -> Iterator[RayHead]:
    """Hold a Ray head on free ports, in a folder of its own; its processes are ended by their group.

    Args:
        options, variables: further ones for `ray start`.
        code: put this repository on the PYTHONPATH of the nodes.
    """
    folder = tempfile.mkdtemp(prefix="rh-", dir="/tmp")  # short: Ray keeps sockets in it
    port, dashboard_port, client_port, agent_port = find_free_ports(4)
    environment = os.environ | {
        "RAY_TMPDIR": folder,
        "PYTHONPATH": str(REPOSITORY) if repository_on_path else "",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "RAY_USAGE_STATS_ENABLED": "0",
        "HOME": folder,  # the token that Ray writes
        "RAY_AUTH_MODE": "disabled",
    }
    environment |= variables
    environment.pop("RAY_ADDRESS", None)
    command = [str(Path(sys.executable).parent / "ray"), "start", "--head", "--block",
               "--node-ip-address=127.0.0.1", f"--port={port}", f"--num-cpus={num_cpus}",
               f"--dashboard-port={dashboard_port}", f"--ray-client-server-port={client_port}",
               f"--dashboard-agent-listen-port={agent_port}", f"--temp-dir={folder}", *options]  # fmt: skip
    log = Path(folder, "start.log")
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command, env=environment, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        url = f"http://127.0.0.1:{dashboard_port}"
        _wait_for(f"{url}/api/version", process, log)
        yield RayHead(f"127.0.0.1:{port}", url, environment | {"RAY_ADDRESS": f"127.0.0.1:{port}"})
    finally:
        _end(process, folder)
        shutil.rmtree(folder, ignore_errors=True)


def find_free_ports(count: int) -> list[int]:
    """Return ports that nothing listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def _wait_for(url: str, process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    raise RuntimeError(f"ray start did not come up: {log.read_text(errors='replace')[-2000:]}")


def _end(process: subprocess.Popen, folder: str) -> None:
    """Kill the head, and every process that its folder's path tells as its own."""
    process.kill()
    for pid in [process.pid, *_processes_of(folder)]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait(timeout=15)


def _processes_of(folder: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                told = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
                if folder.encode() in told:
                    found.append(int(entry.name))
    return found
