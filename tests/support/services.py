"""Requests to a service, and services of the command line."""

import json
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cluster.machine import find_free_ports
from tests.support.running_commands import RunningCommand


def call(url: str, body: bytes | None = None, method: str | None = None) -> tuple[int, Any]:
    """Return status and JSON of a response."""
    request = urllib.request.Request(url, data=body, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@contextmanager
def run_service(checkpoint: Path | str, environment: Mapping[str, str], *options: str) -> Iterator[str]:
    """Context manager: the URL of `python -m serving run`; Ctrl-C must end it without an error."""
    [port] = find_free_ports(1)
    words = [sys.executable, "-m", "serving", "run", str(checkpoint), "--port", str(port), *options]
    with RunningCommand(words, environment) as command:
        command.wait_for_line("serving at")
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            code = command.interrupt()
    assert code == 0, command.output
    assert "next: curl " in command.output
    assert "Traceback" not in command.output
