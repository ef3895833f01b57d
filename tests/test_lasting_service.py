"""A service outlives the job that deployed it, with code that lies where it stays."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.ray_head import RayHead, find_free_ports, start_ray_head
from cluster.package import REPOSITORY
from jobs.model.checkpoint import save_checkpoint
from tests.host_network import wait_for
from tests.support.checkpoints import checkpoint_of
from tests.support.http import call

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture
def head() -> Iterator[RayHead]:
    """A cluster whose nodes have none of our code."""
    with start_ray_head(num_cpus=3, code=False) as found:
        yield found


def run(head: RayHead, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(
        command, cwd=REPOSITORY, env=head.environment, capture_output=True, text=True, timeout=200, check=False
    )


def test_a_service_outlives_the_job_that_deployed_it(head: RayHead, tmp_path: Path) -> None:
    """Code that goes away is refused. The replica is killed after the job has ended, and another one finds the code."""
    save_checkpoint(tmp_path / "checkpoint", checkpoint_of("static"))
    packaged = run(head, "cluster", "package", str(tmp_path / "code.zip"))
    assert packaged.returncode == 0, packaged.stderr
    where = re.search(r"--working-dir (\S+)", packaged.stdout)
    assert where
    refused = run(head, "serving", "deploy", str(tmp_path / "checkpoint"), "--working-dir", ".")
    assert refused.returncode == 2
    assert "a folder of this machine" in refused.stderr
    [port] = find_free_ports(1)
    at = ("--address", head.dashboard_url)
    deploy = ["deploy", str(tmp_path / "checkpoint"), *at, "--port", str(port), "--working-dir", where[1]]
    done = run(head, "cluster", "submit", *at, "--module", "serving", "--", *deploy)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCEEDED" in run(head, "cluster", "status", *at).stdout
    body = json.dumps({"inputs": "word1"}).encode()
    assert call(f"http://127.0.0.1:{port}/predict", body)[0] == 200
    [replica] = replicas(head)
    os.kill(replica, signal.SIGKILL)
    wait_for(lambda: replicas(head) not in ([], [replica]), "another replica")
    wait_for(lambda: answers(port, body), "an answer of the other replica")


def answers(port: int, body: bytes) -> bool:
    try:
        return call(f"http://127.0.0.1:{port}/predict", body)[0] == 200
    except (OSError, ValueError):
        time.sleep(0.5)
        return False


def replicas(head: RayHead) -> list[int]:
    """Return the process ids of the cluster's replicas."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                told = (entry / "cmdline").read_bytes()
                environ = (entry / "environ").read_bytes()
            except OSError:
                continue
            if told.startswith(b"ray::ServeReplica") and head.environment["RAY_TMPDIR"].encode() in environ:
                found.append(int(entry.name))
    return found
