"""Ray jobs: submission, log, exit code, list and stop, on a real cluster; and error messages without one."""

import getpass
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import unittest.mock
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import requests
from ray.exceptions import RpcError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient, JobType
from ray.runtime_env import RuntimeEnv
from ray.train.v2._internal.execution.worker_group.placement_group_handle import DefaultPlacementGroupHandle

from benchmarks.ray_head import RayHead
from cluster import UsageError, ray_jobs
from cluster.__main__ import main
from cluster.machine import find_free_ports
from cluster.package import PACKAGE_DATA, REPOSITORY, PackageError, list_requirements, map_files
from cluster.ray_jobs import (
    SubmissionError,
    build_runtime_env,
    create_client,
    get_job,
    latest_job_id,
    list_jobs,
    read_log,
    resolve_dashboard_url,
    stop_job,
)
from tests.support.commands import run_command
from tests.support.ray_jobs import make_job

JOB_MODULE = """
import sys, time
print("arguments", sys.argv[1:])
time.sleep(float(sys.argv[2]) if sys.argv[1] == "sleep" else 0)
sys.exit(int(sys.argv[1]) if sys.argv[1] != "sleep" else 5)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkout whose command exits with its first argument, or sleeps."""
    (tmp_path / "finetune_cnn.py").write_text(JOB_MODULE)
    (tmp_path / "secrets.yaml").write_text("password: x\n")
    (tmp_path / "my.yaml").write_text("name: x\n")
    return tmp_path


@pytest.fixture
def run_cluster(
    ray_head: RayHead, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str, str]]:
    """Run `python -m cluster` in this process against the head; returns exit code, output and errors."""
    for name in ("HOME", "RAY_AUTH_MODE"):
        monkeypatch.setenv(name, ray_head.environment[name])
    monkeypatch.setenv("RAY_DASHBOARD_ADDRESS", ray_head.dashboard_url)

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(arguments)
        return code, *capsys.readouterr()

    return run


@pytest.mark.ray
@pytest.mark.slow
def test_a_jobs_log_is_followed_and_its_exit_code_returned(ray_head: RayHead, folder: Path) -> None:
    """The command prints what it uploads, then the log, and no messages of Ray's client."""
    (folder / "rows.csv").write_text("label,text\n")
    options = ("--address", ray_head.dashboard_url, "--working-dir", str(folder), "--include", "rows.csv", "--")
    words = ("7", "my.yaml", "model.embedding=rand x")
    result = run_command("python", "-m", "cluster", "submit", *options, *words, env=ray_head.environment)
    assert result.returncode == 7, result.stderr
    assert "uploading 3 files" in result.stdout
    assert "arguments ['7', 'my.yaml', 'model.embedding=rand x']" in result.stdout
    assert re.search(r"failed with exit code 7; its log: finetune-cnn job logs \S+ --address http", result.stdout)
    assert "INFO" not in result.stderr


@pytest.mark.ray
@pytest.mark.slow
def test_a_detached_job_is_found_again(run_cluster: Callable[..., tuple[int, str, str]], folder: Path) -> None:
    """State, list, log to the end, and exit code; without an id, commands use the latest job."""
    code, out, err = run_cluster("submit", "--working-dir", str(folder), "--detach", "--", "sleep", "4")
    assert code == 0, err
    submitted = re.search(r"submitted (\S+); to follow it later: finetune-cnn job logs \S+ --follow", out)
    assert submitted
    job = submitted[1]
    _, status, _ = run_cluster("status")
    assert f"job      {job}" in status
    assert re.search("state    (PENDING|RUNNING)", status)
    code, log, err = run_cluster("logs", job, "--follow")
    assert code == 5, err
    assert "arguments ['sleep', '4']" in log
    assert "arguments ['sleep', '4']" in run_cluster("logs")[1]
    assert "exit     5" in run_cluster("status", job)[1]
    assert re.search(
        rf"^{job}  \S+ +sleep +FAILED .*python -m finetune_cnn sleep 4$", run_cluster("list")[1], re.MULTILINE
    )
    assert "has ended already" in run_cluster("stop", job)[1]
    code, _, err = run_cluster("logs", "nobody")
    assert code == 2
    assert "the cluster has no job nobody" in err


@pytest.mark.ray
@pytest.mark.slow
def test_ctrl_c_asks_whether_to_stop_the_job(
    ray_head: RayHead, run_cluster: Callable[..., tuple[int, str, str]], folder: Path
) -> None:
    """With `n` the job continues; `logs --follow` asks again, and `y` stops it."""

    def interrupt(*arguments: str, answer: str) -> str:
        terminal, stdin = os.openpty()
        command = [sys.executable, "-m", "cluster", *arguments, "--address", ray_head.dashboard_url]
        if arguments[0] == "submit":
            command += ["--working-dir", str(folder), "--", "sleep", "600"]
        with subprocess.Popen(
            command, cwd=REPOSITORY, env=ray_head.environment, stdin=stdin, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout
            for line in process.stdout:
                if line.startswith("arguments"):
                    break
            process.send_signal(signal.SIGINT)
            os.write(terminal, f"{answer}\n".encode())
            output = process.stdout.read()
            assert process.wait(timeout=90) == 130
        os.close(terminal)
        os.close(stdin)
        return output

    output = interrupt("submit", answer="n")
    assert "too? [y/N]" in output
    assert "continues; to stop it: finetune-cnn job stop" in output
    assert "RUNNING" in run_cluster("status")[1]
    assert "was stopped" in interrupt("logs", "--follow", answer="y")
    assert "STOPPED" in run_cluster("status")[1]


@pytest.mark.ray
@pytest.mark.slow
def test_stop_ends_a_job(run_cluster: Callable[..., tuple[int, str, str]], folder: Path) -> None:
    """It returns once the job has ended."""
    run_cluster("submit", "--working-dir", str(folder), "--detach", "--", "sleep", "600")
    assert run_cluster("stop")[1].splitlines()[-1].endswith("was stopped")
    assert "STOPPED" in run_cluster("status")[1]


@pytest.mark.ray
@pytest.mark.slow
def test_quiet_prints_the_log_of_the_job_only(run_cluster: Callable[..., tuple[int, str, str]], folder: Path) -> None:
    """tests/test_documentation.py submits a training with a csv that is sent along."""
    code, out, err = run_cluster("submit", "--quiet", "--working-dir", str(folder), "--", "0")
    assert (code, err) == (0, ""), out
    assert "arguments ['0']" in out
    assert "uploading" not in out
    assert "submitted" not in out


def test_a_job_can_install_packages(tmp_path: Path) -> None:
    """The requirements are passed in the format of Ray's runtime environment."""
    code = tmp_path / "code.zip"
    code.touch()
    requirements = list_requirements(REPOSITORY)
    environment = build_runtime_env(code, requirements)
    assert RuntimeEnv(**environment)["pip"]["packages"] == requirements
    assert "pip" not in build_runtime_env(code, [])


def test_ray_train_does_not_count_an_installation_as_the_start_of_workers() -> None:
    """Workers have a minute for their resources only; otherwise `submit --install` would retry forever (ray#60376)."""
    group = unittest.mock.Mock()
    assert DefaultPlacementGroupHandle(group).wait(60)
    group.wait.assert_called_once_with(60)
    group.ready.assert_not_called()  # a task, which would wait for the installation


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder of a command, with experiments, a csv and a secret; another experiment is next to it."""
    folder = tmp_path / "work"
    for name in ("work/my.yaml", "work/configs/my.yaml", "work/rows.csv", "work/keys.yaml", "other.yaml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    monkeypatch.chdir(folder)
    return folder


def test_experiments_and_included_files_are_relative_to_the_current_folder(work: Path) -> None:
    """Only named files are sent; settings with a path are unchanged, because data is in the storage."""
    arguments = ["train", "configs/my.yaml", "storage=/shared/a.yaml", "data.train=rows.csv"]
    words, files = map_files(Path(), arguments, ["rows.csv"])
    assert words == arguments
    assert files == [("configs/my.yaml", Path("configs/my.yaml")), ("rows.csv", Path("rows.csv"))]
    assert map_files(Path(), [str(work / "my.yaml")], [])[0] == ["my.yaml"]
    assert map_files(Path(), ["cross-validate", "--folds", "5", "--out=none.yaml"], [])[1] == []


def test_an_experiment_of_another_folder_is_sent_under_its_name(work: Path) -> None:
    """The argument of the job is that name."""
    words, files = map_files(Path(), ["train", "../other.yaml"], [])
    assert words == ["train", "other.yaml"]
    assert [(name, path.resolve()) for name, path in files] == [("other.yaml", work.parent / "other.yaml")]


@pytest.mark.parametrize(
    ("arguments", "include", "message"),
    [
        (["train", "none.yaml"], [], "none.yaml: no such file in /"),
        (["train"], ["none.csv"], "none.csv: no such file in /"),
        (["train"], ["../other.yaml"], "../other.yaml: is outside /.*run the command in a folder that contains"),
    ],
)
@pytest.mark.usefixtures("work")
def test_a_file_that_the_job_would_not_find_is_an_error(arguments: list[str], include: list[str], message: str) -> None:
    with pytest.raises(PackageError, match=message):
        map_files(Path(), arguments, include)


class RecordingClient:
    """A client that unpacks the submitted code into a folder, and records the job's command."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.entrypoint = ""
        self.metadata: dict[str, str] = {}

    def submit_job(self, entrypoint: str, runtime_env: dict[str, Any], metadata: dict[str, str]) -> str:
        self.entrypoint, self.metadata = entrypoint, metadata
        shutil.unpack_archive(runtime_env["working_dir"], self.folder)
        return "raysubmit_x"


@pytest.mark.usefixtures("work")
def test_submit_sends_the_installed_code_and_the_experiment_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No other file of the current folder, whatever its suffix; the command works in the unpacked folder."""
    client = RecordingClient(tmp_path / "unpacked")
    monkeypatch.setattr(ray_jobs, "create_client", lambda url: client)
    words = ("submit", "--address", "http://h:8265", "--detach", "--", "show", "configs/my.yaml", "name=x y")
    assert main([*words[:4], "--dry-run", "--json", *words[4:]]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert client.entrypoint == ""
    assert main(words) == 0
    assert client.entrypoint == "python -m finetune_cnn show configs/my.yaml 'name=x y'"
    assert client.metadata == {"owner": getpass.getuser(), "verb": "show"}
    assert "submitted raysubmit_x; to follow it later: finetune-cnn job logs raysubmit_x" in capsys.readouterr().out
    names = {path.relative_to(client.folder).as_posix() for path in client.folder.rglob("*") if path.is_file()}
    assert {file["path"]: file["bytes"] for file in plan["reads"]} == {
        name: (client.folder / name).stat().st_size for name in names
    }
    assert plan["starts"] == {"cluster": "http://h:8265", "job": client.entrypoint, "packages_to_install": 0}
    others = {name for name in names if not name.endswith(".py")}
    assert others == {"configs/my.yaml", *PACKAGE_DATA}
    assert {name.split("/")[0] for name in names - others} == {"cluster", "jobs", "serving", "finetune_cnn.py"}
    result = run_command("python", "-m", "finetune_cnn", "show", "seed=3", cwd=client.folder)
    assert "seed: 3" in result.stdout, result.stderr


def test_an_unreachable_cluster_is_one_line() -> None:
    """No traceback, no long wait."""
    [port] = find_free_ports(1)
    start = time.monotonic()
    result = run_command("python", "-m", "cluster", "submit", "--address", f"http://127.0.0.1:{port}", "--", "show")
    assert result.returncode == 2
    assert f"cannot reach the cluster at http://127.0.0.1:{port}" in result.stderr
    assert "Traceback" not in result.stderr
    assert time.monotonic() - start < 30


GCS_TIMEOUT = RpcError("Timed out while waiting for GCS to become available.\nSee the logs.")


@pytest.mark.parametrize("kind", ["job", "serve"])
def test_an_error_inside_ray_is_one_line(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's own exceptions, such as a head whose GCS does not respond, are usage errors too."""

    def fail(url: str) -> None:
        raise GCS_TIMEOUT

    monkeypatch.setattr(ray_jobs, "JobSubmissionClient", fail)
    monkeypatch.setattr(ray_jobs, "create_serve_client", fail)
    message = r"^cannot reach the cluster at http://h:8265: Timed out while waiting for GCS .* See the logs\.$"
    with pytest.raises(SubmissionError, match=message):
        create_client("http://h:8265", kind)


class FailingClient:
    """A client whose every method raises an exception of Ray's."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def fail(*arguments: Any) -> None:
            raise GCS_TIMEOUT

        return fail


@pytest.mark.parametrize(
    "call",
    [
        latest_job_id,
        list_jobs,
        lambda client: get_job(client, "a"),
        lambda client: read_log(client, "a"),
        lambda client: stop_job(client, "a"),
        lambda client: ray_jobs.follow_log(client, "a", ""),
    ],
)
def test_a_head_that_dies_between_two_calls_is_one_line(call: Callable[[Any], Any]) -> None:
    """Every call to the client raises a one-line error."""
    with pytest.raises(SubmissionError, match="Timed out while waiting for GCS"):
        call(FailingClient())


@pytest.mark.parametrize(
    ("status", "message"),
    [(404, "the cluster has no job raysubmit_404; see"), (500, "raysubmit_404: Request failed with status code 500")],
)
def test_only_the_status_404_says_that_there_is_no_job(status: int, message: str) -> None:
    """The id of a job may contain 404, and the text of another error `does not exist`."""
    client = JobSubmissionClient.__new__(JobSubmissionClient)
    response = unittest.mock.Mock(status_code=status, text="raysubmit_404: the log folder does not exist")
    client._do_request = unittest.mock.Mock(return_value=response)  # type: ignore[method-assign]
    with pytest.raises(SubmissionError, match=message):
        get_job(client, "raysubmit_404")


@pytest.mark.parametrize(
    "error",
    [
        aiohttp.ServerDisconnectedError(),
        aiohttp.ClientPayloadError("cut"),
        TimeoutError("timed out"),
        requests.exceptions.ChunkedEncodingError("cut"),
    ],
)
def test_a_lost_connection_is_one_line_with_the_next_command(error: Exception) -> None:
    """Whichever library of Ray's client raises the error."""

    class Client:
        async def tail_job_logs(self, job: str) -> AsyncIterator[str]:
            yield "line"
            raise error

        def get_job_logs(self, job: str) -> str:
            raise error

    client: Any = Client()
    lines: list[str] = []
    with pytest.raises(SubmissionError, match=r"lost the connection to a: .*finetune-cnn job status a --address x"):
        ray_jobs.follow_log(client, "a", "--address x", lines.append)
    assert lines == ["line"]
    with pytest.raises(SubmissionError, match="the log of a cannot be read: "):
        read_log(client, "a")


def test_a_log_that_ends_before_its_job_is_no_failure_of_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection was closed; the state of the job may follow its log a little later."""
    monkeypatch.setattr(ray_jobs, "FINAL_STATE_TIMEOUT_S", 0.1)
    states = [JobStatus.RUNNING]

    class Client:
        async def tail_job_logs(self, job: str) -> AsyncIterator[str]:
            yield "line"

        def get_job_info(self, job: str) -> JobDetails:
            return make_job("a", states.pop() if len(states) > 1 else states[0], 100)

    client: Any = Client()
    with pytest.raises(SubmissionError, match="lost the connection to a: its log ended before the job; for its state"):
        ray_jobs.follow_log(client, "a", "")
    states[:] = [JobStatus.SUCCEEDED, JobStatus.RUNNING]
    assert ray_jobs.follow_log(client, "a", "") == 0


class JobList:
    def __init__(self, *jobs: JobDetails) -> None:
        self.list_jobs = lambda: jobs


def test_submitted_jobs_are_listed_the_oldest_first() -> None:
    """A driver that was not submitted is not among them."""
    driver = JobDetails(type=JobType.DRIVER, job_id="1", status=JobStatus.RUNNING, entrypoint="x")
    jobs = [
        make_job("new", JobStatus.RUNNING, 9000),
        driver,
        make_job("older", JobStatus.FAILED, 2000),
        make_job("first", JobStatus.PENDING, None),
    ]
    client: Any = JobList(*jobs)
    assert [job.submission_id for job in list_jobs(client)] == ["first", "older", "new"]
    assert latest_job_id(client) == "new"
    empty: Any = JobList(driver)
    with pytest.raises(SubmissionError, match="the cluster has no jobs"):
        latest_job_id(empty)


def test_without_an_address_the_error_names_the_options(monkeypatch: pytest.MonkeyPatch) -> None:
    """No cluster is ever guessed."""
    monkeypatch.delenv("RAY_DASHBOARD_ADDRESS", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(SubmissionError, match="RAY_DASHBOARD_ADDRESS"):
        resolve_dashboard_url()
    with pytest.raises(SubmissionError, match=r"write http://HOST:8265"):
        resolve_dashboard_url("10.0.0.1:6379")
    assert resolve_dashboard_url("http://10.0.0.1:8265/") == "http://10.0.0.1:8265"
    assert resolve_dashboard_url("https://[::1]:8265") == "https://[::1]:8265"
    monkeypatch.setenv("RAY_ADDRESS", "http://h:8265")
    assert resolve_dashboard_url() == "http://h:8265"
    monkeypatch.setenv("RAY_DASHBOARD_ADDRESS", "10.0.0.2")
    with pytest.raises(UsageError, match=r"'10.0.0.2' is not the address .* http://HOST:8265"):
        resolve_dashboard_url()
