"""Runs in an S3-compatible store: trained, measured and served from there, through faults of the server."""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.ray_head import find_free_ports
from cluster.package import REPOSITORY
from tests.s3_server import BUCKET, S3Server, run_s3_server
from tests.support.http import call

pytestmark = [pytest.mark.ray, pytest.mark.slow]

ROOT = f"s3://{BUCKET}/runs"
SETTINGS = ["model.embedding=rand", "train.epochs=4", "train.patience=4", "name=run", f"storage={ROOT}"]


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with run_s3_server() as found:
        yield found


@pytest.fixture
def environment(server: S3Server, ray_environment: dict[str, str], tmp_path: Path) -> dict[str, str]:
    return ray_environment | server.environment | {"HOME": str(tmp_path)}


def run(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=250, check=False,
    )  # fmt: skip


def test_a_run_goes_through_faults_and_is_named_only_when_whole(server: S3Server, environment: dict[str, str]) -> None:
    """A store that refuses from the third checkpoint on ends the run with no best.json: nothing is served.

    The same command goes on from the last checkpoint, while answers are slow and transfers break off. What is best
    is named after all of it has arrived; then it is measured, and served.
    """
    weights = 0

    def outage(method: str, path: str) -> int | None:
        nonlocal weights
        weights += method == "PUT" and path.endswith("weights.safetensors")
        return 403 if weights > 2 else None  # as when a key expires; pyarrow does not try again for long seconds

    server.fault = outage
    found = run(environment, "jobs", "train", "experiments/tickets.yaml", *SETTINGS)
    server.fault = None
    assert found.returncode == 2, found.stdout + found.stderr
    assert "epoch   2" in found.stdout
    assert "Traceback" not in found.stderr, found.stderr
    found = run(environment, "serving", "config", f"{ROOT}/run")
    assert found.returncode == 2
    assert "holds neither a checkpoint nor a best.json" in found.stderr

    breaks = iter([True, 503, True])

    def trouble(method: str, path: str) -> bool | int | None:
        time.sleep(0.02)
        return next(breaks, None) if method == "PUT" and path.endswith(".safetensors") else None

    server.requests.clear()
    server.fault = trouble
    found = run(environment, "jobs", "train", "experiments/tickets.yaml", *SETTINGS)
    server.fault = None
    assert found.returncode == 0, found.stdout + found.stderr
    assert re.search("going on after epoch [12]$", found.stdout, re.MULTILINE), found.stdout
    assert next(breaks, None) is None
    written = [path for method, path in server.requests if method in ("PUT", "POST")]
    first_named = next(number for number, path in enumerate(written) if path.endswith("best.json"))
    assert not [path for path in written[first_named:] if path.endswith(".safetensors")]
    found = run(environment, "jobs", "evaluate", f"{ROOT}/run")
    assert found.returncode == 0, found.stderr
    assert "on 27 rows" in found.stdout
    assert any(path.endswith("report/report.md") for method, path in server.requests if method == "PUT")
    _check_service(environment)


def _check_service(environment: dict[str, str]) -> None:
    """The service reads the checkpoint from the store."""
    [port] = find_free_ports(1)
    command = [sys.executable, "-m", "serving", "run", f"{ROOT}/run", "--port", str(port)]
    with subprocess.Popen(
        command, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout
        told = []
        for line in process.stdout:
            told.append(line)
            if line.startswith("serving at"):
                break
        else:
            raise AssertionError("".join(told))
        status, answer = call(f"http://127.0.0.1:{port}/predict", json.dumps({"inputs": "my invoice"}).encode())
        _, info = call(f"http://127.0.0.1:{port}/info")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=90)
    assert status == 200
    assert {each["label"] for each in answer} == {"billing", "delivery", "technical"}
    assert info["checkpoint"].startswith(f"{ROOT}/run/")


def test_a_search_lies_in_the_store(environment: dict[str, str]) -> None:
    """Its trials' checkpoints, best.json and best.yaml."""
    small = ["tune.space={model.dropout: {grid: [0.1, 0.5]}}", "tune.samples=1", "tune.epochs=1"]
    found = run(environment, "jobs", "tune", "experiments/tickets.yaml", *SETTINGS, "name=search", *small)
    assert found.returncode == 0, found.stdout + found.stderr
    found = run(environment, "serving", "config", f"{ROOT}/search")
    assert found.returncode == 0, found.stderr
    assert f"checkpoint: {ROOT}/search/" in found.stdout
