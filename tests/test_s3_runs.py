"""Runs in an S3-compatible store: training, evaluation, service and search, with faults of the server."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

import pytest

from cluster import auth
from cluster.package import REPOSITORY
from jobs.__main__ import main
from serving.client import Client
from tests.s3_server import BUCKET, S3Server, run_s3_server
from tests.support.services import run_service

pytestmark = [pytest.mark.ray, pytest.mark.slow]

ROOT = f"s3://{BUCKET}/runs"
EXPERIMENT = str(REPOSITORY / "experiments" / "tickets.yaml")
SETTINGS = [
    f"data.folder={REPOSITORY}",
    "model.embedding=rand",
    "train.epochs=4",
    "train.patience=4",
    f"storage={ROOT}",
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """An S3 server, and environment variables with which this process and its Ray processes use it."""
    folder = tempfile.mkdtemp(prefix="rt-", dir="/tmp")  # short: Ray creates sockets in it
    with run_s3_server() as server, pytest.MonkeyPatch.context() as patch:
        auth.ensure_token()
        environment = {
            "RAY_TMPDIR": folder,
            "HOME": str(tmp_path_factory.mktemp("home")),  # with the cache of what the store holds
            "RAY_AUTH_TOKEN_PATH": str(auth.token_path()),  # Ray in this process may have read the token already
        }
        for key, value in (server.environment | environment).items():
            patch.setenv(key, value)
        yield server
    shutil.rmtree(folder, ignore_errors=True)


def read_config(run: str) -> subprocess.CompletedProcess[str]:
    """Run `serving config` on a run in the store."""
    command = [sys.executable, "-m", "serving", "config", f"{ROOT}/{run}"]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False)


def test_a_run_survives_faults_and_is_published_only_when_complete(
    server: S3Server, capfd: pytest.CaptureFixture[str]
) -> None:
    """A store that refuses requests from the third checkpoint on ends the run without best.json: nothing is served.

    The same command resumes from the last checkpoint, with slow responses and interrupted transfers. best.json is
    written after all files of the checkpoint have arrived. Then the checkpoint is evaluated and served.
    """
    train = ["train", EXPERIMENT, *SETTINGS, "name=run"]
    weights = 0

    def refuse(method: str, path: str) -> int | None:
        nonlocal weights
        weights += method == "PUT" and path.endswith("weights.safetensors")
        return 403 if weights > 2 else None  # as when a key expires; pyarrow does not retry it

    server.fault = refuse
    code = main(train)
    server.fault = None
    output = capfd.readouterr()
    assert code == 2, output
    assert "epoch   2" in output.out
    assert "Traceback" not in output.err, output.err
    config = read_config("run")
    assert config.returncode == 2
    assert "contains neither a checkpoint nor a best.json" in config.stderr

    interruptions = iter([True, 503, True])

    def disturb(method: str, path: str) -> bool | int | None:
        time.sleep(0.02)
        return next(interruptions, None) if method == "PUT" and path.endswith(".safetensors") else None

    server.requests.clear()
    server.fault = disturb
    code = main(train)
    server.fault = None
    output = capfd.readouterr()
    assert code == 0, output
    assert re.search("after epoch [12]$", output.out, re.MULTILINE), output.out
    assert next(interruptions, None) is None
    written = [path for method, path in server.requests if method in ("PUT", "POST")]
    published = next(number for number, path in enumerate(written) if path.endswith("best.json"))
    assert not [path for path in written[published:] if path.endswith(".safetensors")]
    assert main(["evaluate", f"{ROOT}/run"]) == 0
    assert "on 27 rows" in capfd.readouterr().out
    assert any(path.endswith("report/report.md") for method, path in server.requests if method == "PUT")
    _check_service()


def _check_service() -> None:
    """The service reads the checkpoint from the store."""
    with run_service(f"{ROOT}/run", os.environ) as url:
        client = Client(url)
        labels, info = client.classify("my invoice"), client.info()
    assert {label["label"] for label in labels} == {"billing", "delivery", "technical"}
    assert info["checkpoint"].startswith(f"{ROOT}/run/")


def test_a_search_writes_its_trials_and_best_checkpoint_to_the_store(
    server: S3Server, capfd: pytest.CaptureFixture[str]
) -> None:
    small = ["tune.space={model.dropout: {grid: [0.1, 0.5]}}", "tune.samples=1", "tune.epochs=1"]
    code = main(["tune", EXPERIMENT, *SETTINGS, "name=search", *small])
    output = capfd.readouterr()
    assert code == 0, output
    trials = [path for method, path in server.requests if method == "PUT" and "/trials/" in path]
    assert any(path.endswith(".json") for path in trials)
    assert any(path.endswith("search/best.yaml") for method, path in server.requests if method == "PUT")
    config = read_config("search")
    assert config.returncode == 0, config.stderr
    assert f"checkpoint: {ROOT}/search/" in config.stdout
