"""Requests to a service, and services of the command line."""

import json
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Timer
from typing import Any

from cluster.machine import find_free_ports
from cluster.package import REPOSITORY

START_TIMEOUT_S = 120


def call(url: str, body: bytes | None = None, method: str | None = None) -> tuple[int, Any]:
    """Return status and JSON of a response."""
    request = urllib.request.Request(url, data=body, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def wait_until_serving(process: subprocess.Popen[str], timeout_s: float = START_TIMEOUT_S) -> str:
    """Return the output of a starting service up to its ready line; the process is killed after `timeout_s`."""
    assert process.stdout is not None
    watchdog = Timer(timeout_s, process.kill)
    watchdog.start()
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("serving at"):
            watchdog.cancel()
            return "".join(lines)
    raise AssertionError(f"the service did not start:\n{''.join(lines)}")


@contextmanager
def run_service(checkpoint: Path, environment: Mapping[str, str], *options: str) -> Iterator[str]:
    """Context manager: the URL of `python -m serving run`; Ctrl-C must end it without an error."""
    [port] = find_free_ports(1)
    command = [sys.executable, "-m", "serving", "run", str(checkpoint), "--port", str(port), *options]
    with subprocess.Popen(
        command, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        wait_until_serving(process)
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.send_signal(signal.SIGINT)
            try:
                output, _ = process.communicate(timeout=60)
            finally:
                process.kill()
        assert process.returncode == 0, output
        assert "next: curl " in output
        assert "Traceback" not in output
