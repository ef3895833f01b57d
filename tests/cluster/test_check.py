"""`python -m cluster check`: what is said of a node, of one cluster on this machine, and of separate hosts."""

import dataclasses
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.ray_head import RayHead, start_ray_head
from cluster.check import MIN_FREE_BYTES, NodeReport, _clock, evaluate_node, inspect_node, installed_versions
from cluster.package import REPOSITORY

GOOD = NodeReport(
    host="one",
    versions={"python": "3.11.7", "ray": "2.60.0", "torch": "2.13.0"},
    free_bytes=100 << 30,
    gpus=1,
    clock=1000.0,
    token_file_mode=0o600,
)


def found(node: NodeReport, gpus: int = 1, **caller: str) -> list[tuple[str, str]]:
    return [
        (each.level, each.message)
        for each in evaluate_node("one", node, gpus, GOOD.versions | caller, "s3://bucket/runs")
    ]


def test_a_good_node_is_one_line() -> None:
    """With what it has."""
    [(level, what)] = found(GOOD)
    assert level == "ok"
    assert what == "python 3.11.7, ray 2.60.0, torch 2.13.0, 1 GPUs, 100 GiB free, sees s3://bucket/runs"


@pytest.mark.parametrize(
    ("change", "level", "what"),
    [
        ({"versions": GOOD.versions | {"python": "3.11.2"}}, "warning", "python is 3.11.2, here it is 3.11.7"),
        ({"versions": GOOD.versions | {"python": "3.12.7"}}, "error", "python is 3.12.7"),
        ({"versions": GOOD.versions | {"ray": "2.59.0"}}, "error", "ray is 2.59.0, here it is 2.60.0"),
        ({"versions": GOOD.versions | {"torch": "none"}}, "error", "torch is none"),
        ({"storage_error": "/runs: cannot be read"}, "error", "does not see the storage: /runs: cannot be read"),
        ({"gpus": 0}, "warning", "Ray counts 1 GPUs, the driver 0"),
        ({"gpus": 2}, "warning", "Ray counts 1 GPUs, the driver 2"),
        ({"free_bytes": MIN_FREE_BYTES - (1 << 29)}, "warning", "4.5 GiB free"),
        ({"token_file_mode": 0o644}, "warning", "token's file can be read by others (644)"),
    ],
)
def test_what_is_wrong_with_a_node_is_one_finding(change: dict, level: str, what: str) -> None:
    """Of its level, in its words, with what to do."""
    node = dataclasses.replace(GOOD, **change)
    [finding] = evaluate_node("one", node, 1, GOOD.versions, "s3://bucket/runs")
    assert (finding.level, finding.location) == (level, "one")
    assert what in finding.message
    assert finding.remedy
    assert str(finding).startswith(f"{level} ")


def test_a_clock_is_wrong_only_where_it_cannot_be_right() -> None:
    """However long the answer took."""
    assert not _clock("one", GOOD, 900.0, 1100.0)
    assert not _clock("one", GOOD, 1001.0, 1002.0)
    assert "at least 50 s off" in _clock("one", GOOD, 1050.0, 1100.0)[0].message
    assert "at least 50 s off" in _clock("one", GOOD, 900.0, 950.0)[0].message


def test_a_look_at_this_machine(tmp_path: Path) -> None:
    """It reads the marker, writes, and leaves nothing."""
    (tmp_path / "marker").write_text("")
    node = inspect_node(str(tmp_path), "marker")
    assert node.storage_error is None
    assert node.versions == installed_versions()
    assert abs(node.clock - time.time()) < 60
    assert [path.name for path in tmp_path.iterdir()] == ["marker"]
    assert "marker" in (inspect_node(str(tmp_path / "other"), "marker").storage_error or "")


@pytest.fixture(scope="module")
def head():
    with start_ray_head() as started:
        yield started


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("by", ["dashboard", "address"])
def test_a_cluster_is_checked_from_inside_and_as_a_driver(head: RayHead, tmp_path: Path, by: str) -> None:
    """Through the dashboard, where the findings come as a job's log, and at Ray's own port."""
    command = [sys.executable, "-m", "cluster", "check", "--storage", str(tmp_path), "--address", getattr(head, by)]
    done = subprocess.run(
        command, cwd=REPOSITORY, env=head.environment, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"sees {tmp_path}" in done.stdout
    assert "warning  cluster of 1 node: takes commands from everybody" in done.stdout
    assert not list(tmp_path.iterdir())
