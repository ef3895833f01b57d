"""`finetune-cnn check`: findings on a node's report, on this machine, and on a cluster of one node."""

import contextlib
import dataclasses
import json
import re
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import RpcError

from benchmarks.ray_head import RayHead
from cluster import check, connection
from cluster.__main__ import main
from cluster.check import (
    MIN_FREE_BYTES,
    NodeReport,
    _evaluate_clock,
    check_cluster,
    evaluate_node,
    inspect_node,
    installed_versions,
)
from cluster.connection import ClusterConnectionError
from tests.support.commands import run_command

REPORT = NodeReport(
    host="one",
    versions={"python": "3.11.7", "ray": "2.60.0", "torch": "2.13.0"},
    free_bytes=100 << 30,
    gpus=1,
    clock=1000.0,
    token_file_mode=0o600,
)


def test_a_good_node_is_one_finding() -> None:
    """The finding contains the versions and resources of the node."""
    [finding] = evaluate_node("one", REPORT, 1, REPORT.versions, "s3://bucket/runs")
    assert finding.level == "ok"
    assert finding.message == ("python 3.11.7, ray 2.60.0, torch 2.13.0, 1 GPUs, 100 GiB free, sees s3://bucket/runs")


@pytest.mark.parametrize(
    ("change", "level", "message"),
    [
        ({"versions": REPORT.versions | {"python": "3.11.2"}}, "warning", "python is 3.11.2, here it is 3.11.7"),
        ({"versions": REPORT.versions | {"python": "3.12.7"}}, "error", "python is 3.12.7"),
        ({"versions": REPORT.versions | {"ray": "2.59.0"}}, "error", "ray is 2.59.0, here it is 2.60.0"),
        ({"versions": REPORT.versions | {"torch": "none"}}, "error", "torch is none"),
        ({"storage_error": "/runs: cannot be read"}, "error", "cannot access the storage: /runs: cannot be read"),
        ({"gpus": 0}, "warning", "Ray counts 1 GPUs, the driver 0"),
        ({"gpus": 2}, "warning", "Ray counts 1 GPUs, the driver 2"),
        (
            {"gpu_problem": "torch 2.13.0 is built without CUDA; install a build for CUDA there"},
            "warning",
            "torch cannot use its GPU: torch 2.13.0 is built without CUDA",
        ),
        ({"free_bytes": MIN_FREE_BYTES - (1 << 29)}, "warning", "4.5 GiB free"),
        ({"token_file_mode": 0o644}, "warning", "others can read its token file (mode 644)"),
    ],
)
def test_a_problem_of_a_node_is_one_finding(change: dict[str, Any], level: str, message: str) -> None:
    """The finding has a level, a message and a remedy."""
    node = dataclasses.replace(REPORT, **change)
    [finding] = evaluate_node("one", node, 1, REPORT.versions, "s3://bucket/runs")
    assert (finding.level, finding.location) == (level, "one")
    assert message in finding.message
    assert finding.remedy
    assert str(finding).startswith(f"{level} ")
    assert str(finding).endswith(f"one: {finding.message}; {finding.remedy}")


def test_a_clock_is_wrong_only_outside_the_time_of_the_request() -> None:
    """A slow response alone does not make a clock wrong."""
    assert not _evaluate_clock("one", REPORT, 900.0, 1100.0)
    assert not _evaluate_clock("one", REPORT, 1001.0, 1002.0)
    assert "at least 50 s off" in _evaluate_clock("one", REPORT, 1050.0, 1100.0)[0].message
    assert "at least 50 s off" in _evaluate_clock("one", REPORT, 900.0, 950.0)[0].message


def test_inspecting_this_machine_leaves_no_files(tmp_path: Path) -> None:
    """The inspection reads the marker, and writes and removes a file of its own."""
    (tmp_path / "marker").write_text("")
    node = inspect_node(str(tmp_path), "marker")
    assert node.storage_error is None
    assert node.versions == installed_versions()
    assert abs(node.clock - time.time()) < 60
    assert [path.name for path in tmp_path.iterdir()] == ["marker"]
    assert "marker" in (inspect_node(str(tmp_path / "other"), "marker").storage_error or "")


def test_the_free_space_is_that_of_the_session_of_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`ray start --temp-dir` puts it on another disk than RAY_TMPDIR, which counts without a running Ray."""
    folders: list[str] = []

    def record_usage(folder: str) -> Any:
        folders.append(folder)
        return SimpleNamespace(free=1)

    monkeypatch.setattr(check.shutil, "disk_usage", record_usage)
    monkeypatch.setenv("RAY_TMPDIR", "/elsewhere")
    for session in (str(tmp_path), None):
        monkeypatch.setattr(check, "find_runtime_env_folder", lambda session=session: session)
        assert inspect_node(None, "marker").free_bytes == 1
    assert folders == [str(tmp_path), "/elsewhere"]


def test_the_nodes_check_an_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `train` writes to; a relative one would be relative to the folder of each node's processes."""
    storages: list[str | None] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(connection, "connect", lambda address: contextlib.nullcontext())
    monkeypatch.setattr(check, "check_cluster", lambda storage, versions: storages.append(storage) or [])
    for arguments in (["--storage", "runs"], ["--storage", "s3://bucket/runs"], []):
        assert main(["check", "--address", "127.0.0.1:6379", *arguments]) == 0
    assert storages == [str(tmp_path / "runs"), "s3://bucket/runs", None]


def test_a_head_that_does_not_respond_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The marker is removed all the same."""

    def fail() -> None:
        raise RpcError("Timed out while waiting for GCS to become available.\nSee the logs.")

    monkeypatch.setattr(check, "list_nodes", fail)
    with pytest.raises(ClusterConnectionError, match=r"Timed out while waiting for GCS to become available\.$"):
        check_cluster(str(tmp_path), {})
    assert not list(tmp_path.iterdir())


def test_a_head_whose_python_lacks_ray_is_one_line() -> None:
    """-S: without the installed packages, as in a job on a head whose Ray has another Python."""
    result = run_command("python", "-S", "-m", "finetune_cnn", "check", env={"RAY_JOB_CONFIG_JSON_ENV_VAR": "{}"})
    assert result.returncode == 2
    assert re.fullmatch(r"error: the Python at \S+ lacks the package ray; a job runs .*--install\n", result.stderr)


def test_nodes_that_share_the_folder_of_jobs_are_one_error() -> None:
    """Folders are compared by host, device and inode."""
    [finding] = check._find_shared_folders(
        {"one:1:2": ["one (10.0.0.1)", "one (10.0.0.2)"], "one:1:3": ["one (10.0.0.3)"]}
    )
    assert str(finding).startswith("error    one (10.0.0.1) and one (10.0.0.2): share the temporary folder of Ray")
    assert "--temp-dir" in finding.remedy


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("attribute", ["dashboard_url", "address"])
def test_a_cluster_is_checked_by_a_job_and_by_a_driver(ray_head: RayHead, tmp_path: Path, attribute: str) -> None:
    """The log of a job contains the findings; at Ray's own port a driver prints them. Both do so with --quiet too.

    With --json, the findings are the result of the command in both cases.
    """
    address = getattr(ray_head, attribute)
    command = ("python", "-m", "cluster", "check", "--quiet", "--storage", str(tmp_path), "--address", address)
    result = run_command(*command, "--json", env=ray_head.environment)
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"sees {tmp_path}" in result.stderr
    assert "warning  cluster of 1 node: anyone who reaches its ports can run code on it" in result.stderr
    assert "submitted" not in result.stderr
    findings = json.loads(result.stdout)["findings"]
    assert [finding["level"] for finding in findings] == ["ok", "warning"]
    assert f"sees {tmp_path}" in findings[0]["message"]
    assert not list(tmp_path.iterdir())
