"""A service outlives the job that deployed it, with code at a permanent location."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.ray_head import RayHead, start_ray_head
from cluster.machine import find_free_ports
from cluster.package import REPOSITORY
from jobs.model.checkpoint import save_checkpoint
from tests.support.checkpoints import checkpoint_of
from tests.support.services import call
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture
def head() -> Iterator[RayHead]:
    """A cluster whose nodes do not have this repository."""
    with start_ray_head(num_cpus=3, repository_on_path=False) as ray_head:
        yield ray_head


def run(head: RayHead, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(
        command, cwd=REPOSITORY, env=head.environment, capture_output=True, text=True, timeout=200, check=False
    )


def test_a_service_outlives_the_job_that_deployed_it(head: RayHead, tmp_path: Path) -> None:
    """A temporary location of the code is refused. A replica that is killed after the job is replaced."""
    save_checkpoint(tmp_path / "checkpoint", checkpoint_of("static"))
    package = run(head, "cluster", "package", str(tmp_path / "code.zip"))
    assert package.returncode == 0, package.stderr
    location = re.search(r"--working-dir (\S+)", package.stdout)
    assert location
    refused = run(head, "serving", "deploy", str(tmp_path / "checkpoint"), "--working-dir", ".")
    assert refused.returncode == 2
    assert "a folder of this machine" in refused.stderr
    [port] = find_free_ports(1)
    address = ("--address", head.dashboard_url)
    deploy = ["deploy", str(tmp_path / "checkpoint"), *address, "--port", str(port), "--working-dir", location[1]]
    submission = run(head, "cluster", "submit", *address, "--module", "serving", "--", *deploy)
    assert submission.returncode == 0, submission.stdout + submission.stderr
    assert "SUCCEEDED" in run(head, "cluster", "status", *address).stdout
    url, body = f"http://127.0.0.1:{port}/predict", json.dumps({"inputs": "word1"}).encode()
    assert call(url, body)[0] == 200
    [replica] = find_replicas(head)
    os.kill(replica, signal.SIGKILL)
    wait_for(lambda: find_replicas(head) not in ([], [replica]), "another replica")
    wait_for(lambda: responds(url, body), "a response of the other replica")


def responds(url: str, body: bytes) -> bool:
    try:
        return call(url, body)[0] == 200
    except (OSError, ValueError):
        return False


def find_replicas(head: RayHead) -> list[int]:
    """Return the process ids of the cluster's replicas."""
    pids = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes()
                environment = (entry / "environ").read_bytes()
            except OSError:
                continue
            if command.startswith(b"ray::ServeReplica") and head.environment["RAY_TMPDIR"].encode() in environment:
                pids.append(int(entry.name))
    return pids
