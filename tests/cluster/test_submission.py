"""`python -m cluster submit`, against a real cluster."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.package import REPOSITORY
from cluster.submission import SubmissionFailed, dashboard
from tests.ray_head import RayHead, free_ports, ray_head

MAIN = """
import sys
print("arguments", sys.argv[1:])
sys.exit(int(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def head() -> Iterator[RayHead]:
    with ray_head() as found:
        yield found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs/__init__.py").touch()
    (tmp_path / "jobs/__main__.py").write_text(MAIN)
    (tmp_path / "my.yaml").write_text("name: x\n")
    return tmp_path


def submit(*arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cluster", "submit", *arguments]
    return subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.ray
@pytest.mark.slow
def test_a_job_is_followed_and_its_exit_code_passed_on(head: RayHead, folder: Path) -> None:
    """What is uploaded is said, the log comes through, and the exit code is the job's."""
    (folder / "rows.csv").write_text("label,text\n")
    at = ("--address", head.dashboard, "--working-dir", str(folder), "--include", "rows.csv", "--")
    good = submit(*at, "0", "my.yaml", "model.embedding=rand x", environment=head.environment)
    assert good.returncode == 0, good.stderr
    assert "uploading 4 files" in good.stdout
    assert "arguments ['0', 'my.yaml', 'model.embedding=rand x']" in good.stdout
    bad = submit(*at, "7", environment=head.environment)
    assert bad.returncode == 7, bad.stderr
    assert bad.stdout.splitlines()[-1].endswith("failed with exit code 7")
    assert "INFO" not in bad.stderr, "no chatter of the client's"


@pytest.mark.ray
@pytest.mark.slow
def test_detach_returns_at_once_with_the_id(head: RayHead, folder: Path) -> None:
    """The job goes on without us."""
    at = ("--address", head.dashboard, "--working-dir", str(folder), "--detach", "--")
    found = submit(*at, "3", environment=head.environment)
    assert found.returncode == 0
    assert "ray job logs" in found.stdout


def test_an_unreachable_cluster_is_one_line() -> None:
    """No traceback, no long wait."""
    [port] = free_ports(1)
    start = time.monotonic()
    found = submit("--address", f"http://127.0.0.1:{port}", "--", "show")
    assert found.returncode == 2
    assert f"cannot reach the cluster at http://127.0.0.1:{port}" in found.stderr
    assert "Traceback" not in found.stderr
    assert time.monotonic() - start < 30


def test_no_address_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster is never guessed."""
    monkeypatch.delenv("RAY_DASHBOARD_ADDRESS", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(SubmissionFailed, match="RAY_DASHBOARD_ADDRESS"):
        dashboard()
    with pytest.raises(SubmissionFailed, match=r"write http://HOST:8265"):
        dashboard("10.0.0.1:6379")
    assert dashboard("http://10.0.0.1:8265") == "http://10.0.0.1:8265"


@pytest.mark.ray
@pytest.mark.slow
def test_this_repository_trains_as_a_job(head: RayHead, tmp_path: Path) -> None:
    """With two workers, on a csv that goes along."""
    at = ("--address", head.dashboard, "--include", "experiments/tickets.csv", "--")
    settings = ("model.embedding=rand", "train.epochs=2", "train.workers=2", f"storage={tmp_path}")
    found = submit(*at, "train", "experiments/tickets.yaml", *settings, environment=head.environment)
    assert found.returncode == 0, found.stdout
    assert "epoch   2" in found.stdout
    assert (tmp_path / "tickets" / "best.json").exists()
