"""A service on a test's own Ray head, and requests to it."""

import json
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmarks.ray_head import RayHead, find_free_ports, start_ray_head
from cluster.package import REPOSITORY
from jobs.model.checkpoint import save_checkpoint
from tests.support.checkpoints import checkpoint_of


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a best.json and two checkpoints."""
    folder = tmp_path_factory.mktemp("run")
    save_checkpoint(folder / "first", checkpoint_of("non-static"))
    save_checkpoint(folder / "second", checkpoint_of("static"))
    (folder / "best.json").write_text(json.dumps({"checkpoint": "first"}))
    return folder


@pytest.fixture(scope="module")
def head() -> Iterator[RayHead]:
    with start_ray_head(num_cpus=3) as found:
        yield found


def call(url: str, body: bytes | None = None, method: str | None = None) -> tuple[int, Any]:
    """Return status and JSON of an answer."""
    request = urllib.request.Request(url, data=body, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@contextmanager
def serving(saved: Path, head: RayHead) -> Iterator[str]:
    """Hold `python -m serving run` on the head's cluster."""
    [port] = find_free_ports(1)
    command = [sys.executable, "-m", "serving", "run", str(saved), "--port", str(port)]
    with subprocess.Popen(
        command, cwd=REPOSITORY, env=head.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        told = []
        for line in process.stdout:
            told.append(line)
            if line.startswith("serving at"):
                break
        else:
            raise AssertionError("".join(told))
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.send_signal(signal.SIGINT)
            rest, _ = process.communicate(timeout=60)
        assert process.returncode == 0, rest
        assert "Traceback" not in rest
