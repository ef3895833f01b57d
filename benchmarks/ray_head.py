"""A separate Ray head with a dashboard, started with `ray start`, for benchmarks and tests."""

import os
import shutil
import signal
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

from cluster.machine import find_free_ports
from cluster.package import REPOSITORY

START_TIMEOUT_S = 90


@dataclass(frozen=True)
class RayHead:
    """A running head. address: HOST:PORT for drivers; dashboard_url: for jobs and services; environment: variables
    for commands that use the head."""

    address: str
    dashboard_url: str
    environment: dict[str, str]


@contextmanager
def start_ray_head(
    num_cpus: int = 2, *options: str, repository_on_path: bool = True, **variables: str
) -> Iterator[RayHead]:
    """Context manager: a Ray head on free ports with its own temporary folder; its processes are killed at the end.

    Args:
        options, variables: further options and environment variables of `ray start`.
        repository_on_path: put this repository on the PYTHONPATH of the nodes.
    """
    folder = tempfile.mkdtemp(prefix="rh-", dir="/tmp")  # short: Ray creates sockets in it
    port, dashboard_port, client_port, agent_port = find_free_ports(4)
    environment = os.environ | {
        "RAY_TMPDIR": folder,
        "PYTHONPATH": str(REPOSITORY) if repository_on_path else "",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "RAY_USAGE_STATS_ENABLED": "0",
        "HOME": folder,  # Ray writes its token there
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
        _wait_for_dashboard(f"{url}/api/version", process, log)
        yield RayHead(f"127.0.0.1:{port}", url, environment | {"RAY_ADDRESS": f"127.0.0.1:{port}"})
    finally:
        _kill_all(process, folder)
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for_dashboard(url: str, process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    raise RuntimeError(f"ray start failed: {log.read_text(errors='replace')[-2000:]}")


def _kill_all(process: subprocess.Popen, folder: str) -> None:
    """Kill the head and all processes with its folder in their command line or environment."""
    process.kill()
    for pid in [process.pid, *_find_processes(folder)]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait(timeout=15)


def _find_processes(folder: str) -> list[int]:
    pids = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                text = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
                if folder.encode() in text:
                    pids.append(int(entry.name))
    return pids
