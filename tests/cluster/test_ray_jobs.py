"""`python -m cluster submit`, against a real cluster."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.runtime_env import RuntimeEnv

from benchmarks.ray_head import RayHead, find_free_ports, start_ray_head
from cluster.package import REPOSITORY
from cluster.ray_jobs import SubmissionError, build_runtime_env, read_requirements, resolve_dashboard_url

MAIN = """
import sys, time
print("arguments", sys.argv[1:])
time.sleep(float(sys.argv[2]) if sys.argv[1] == "sleep" else 0)
sys.exit(int(sys.argv[1]) if sys.argv[1] != "sleep" else 5)
"""


@pytest.fixture(scope="module")
def head() -> Iterator[RayHead]:
    with start_ray_head() as found:
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
    at = ("--address", head.dashboard_url, "--working-dir", str(folder), "--include", "rows.csv", "--")
    good = submit(*at, "0", "my.yaml", "model.embedding=rand x", environment=head.environment)
    assert good.returncode == 0, good.stderr
    assert "uploading 4 files" in good.stdout
    assert "arguments ['0', 'my.yaml', 'model.embedding=rand x']" in good.stdout
    bad = submit(*at, "7", environment=head.environment)
    assert bad.returncode == 7, bad.stderr
    assert re.search(r"failed with exit code 7; its log: python -m cluster logs \S+ --address http", bad.stdout)
    assert "INFO" not in bad.stderr, "no chatter of the client's"


def cluster(head: RayHead, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a verb against the head."""
    command = [sys.executable, "-m", "cluster", *arguments, "--address", head.dashboard_url]
    return subprocess.run(
        command, cwd=REPOSITORY, env=head.environment, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.ray
@pytest.mark.slow
def test_a_detached_job_is_come_back_to(head: RayHead, folder: Path) -> None:
    """Its state, its place in the list, its log to the end, and its exit code; without an id the newest is meant."""
    at = ("--address", head.dashboard_url, "--working-dir", str(folder), "--detach", "--")
    found = submit(*at, "sleep", "4", environment=head.environment)
    assert found.returncode == 0, found.stderr
    told = re.search(r"submitted (\S+); come back to it: python -m cluster logs \S+ --follow", found.stdout)
    assert told
    status = cluster(head, "status")
    assert f"job      {told[1]}" in status.stdout, status.stderr
    assert re.search("state    (PENDING|RUNNING)", status.stdout)
    followed = cluster(head, "logs", told[1], "--follow")
    assert followed.returncode == 5, followed.stderr
    assert "arguments ['sleep', '4']" in followed.stdout
    assert "arguments ['sleep', '4']" in cluster(head, "logs").stdout
    assert "exit     5" in cluster(head, "status", told[1]).stdout
    assert re.search(rf"^{told[1]}  FAILED .*python -m jobs sleep 4$", cluster(head, "list").stdout, re.MULTILINE)
    assert "has ended already" in cluster(head, "stop", told[1]).stdout
    unknown = cluster(head, "logs", "nobody")
    assert unknown.returncode == 2
    assert "knows of no job nobody" in unknown.stderr


@pytest.mark.ray
@pytest.mark.slow
def test_ctrl_c_asks_whether_the_job_should_stop(head: RayHead, folder: Path) -> None:
    """No lets it go on; `logs --follow` asks again, and yes stops it."""
    at = ("--address", head.dashboard_url)

    def interrupted(*arguments: str, answer: str) -> str:
        ours, theirs = os.openpty()
        command = [sys.executable, "-m", "cluster", *arguments]
        with subprocess.Popen(
            command, cwd=REPOSITORY, env=head.environment, stdin=theirs, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout
            for line in process.stdout:
                if line.startswith("arguments"):
                    break
            process.send_signal(signal.SIGINT)
            os.write(ours, f"{answer}\n".encode())
            rest = process.stdout.read()
            assert process.wait(timeout=90) == 130
        os.close(ours)
        os.close(theirs)
        return rest

    rest = interrupted("submit", *at, "--working-dir", str(folder), "--", "sleep", "600", answer="n")
    assert "too? [y/N]" in rest
    assert "goes on; this stops it: python -m cluster stop" in rest
    assert "RUNNING" in cluster(head, "status").stdout
    assert "was stopped" in interrupted("logs", "--follow", *at, answer="y")
    assert "STOPPED" in cluster(head, "status").stdout


@pytest.mark.ray
@pytest.mark.slow
def test_stop_ends_a_job(head: RayHead, folder: Path) -> None:
    """And says so once it has."""
    at = ("--address", head.dashboard_url, "--working-dir", str(folder), "--detach", "--")
    submit(*at, "sleep", "600", environment=head.environment)
    assert cluster(head, "stop").stdout.splitlines()[-1].endswith("was stopped")
    assert "STOPPED" in cluster(head, "status").stdout


def test_a_job_can_bring_its_packages(folder: Path) -> None:
    """The pins of the lock file, as Ray takes them; a folder without one says so."""
    with pytest.raises(SubmissionError, match=r"requirements\.lock: --install needs this file"):
        read_requirements(folder)
    pins = read_requirements(REPOSITORY)
    assert any(re.fullmatch("ray==[0-9.]+", pin) for pin in pins)
    code = folder / "code.zip"
    code.touch()
    environment = build_runtime_env(code, pins)
    assert RuntimeEnv(**environment)["pip"]["packages"] == pins
    assert "pip" not in build_runtime_env(code, [])


def test_an_unreachable_cluster_is_one_line() -> None:
    """No traceback, no long wait."""
    [port] = find_free_ports(1)
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
    with pytest.raises(SubmissionError, match="RAY_DASHBOARD_ADDRESS"):
        resolve_dashboard_url()
    with pytest.raises(SubmissionError, match=r"write http://HOST:8265"):
        resolve_dashboard_url("10.0.0.1:6379")
    assert resolve_dashboard_url("http://10.0.0.1:8265") == "http://10.0.0.1:8265"


@pytest.mark.ray
@pytest.mark.slow
def test_this_repository_trains_as_a_job(head: RayHead, tmp_path: Path) -> None:
    """With two workers, on a csv that goes along."""
    at = ("--address", head.dashboard_url, "--include", "experiments/tickets.csv", "--")
    settings = ("model.embedding=rand", "train.epochs=2", "train.workers=2", f"storage={tmp_path}")
    found = submit(*at, "train", "experiments/tickets.yaml", *settings, environment=head.environment)
    assert found.returncode == 0, found.stdout
    assert "epoch   2" in found.stdout
    assert (tmp_path / "tickets" / "best.json").exists()
