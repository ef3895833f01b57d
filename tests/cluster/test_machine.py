"""Processors, ports and listeners of this machine."""

import os
import socket
from pathlib import Path

import pytest

from cluster.machine import count_cpus, find_free_ports, find_listener


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu.max": "200000 100000"}, 2),
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu.max": "max 100000"}, 8),
        ({"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 8),
        ({}, 8),
    ],
)
def test_the_quota_of_a_cgroup_limits_the_processors(
    files: dict[str, str], expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both versions of cgroups, with and without a quota; a part of a processor counts as one."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    assert count_cpus(tmp_path) == expected


def test_the_affinity_limits_the_processors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {5})
    assert count_cpus(tmp_path) == 1


def test_the_listener_of_a_port_is_found() -> None:
    """It is this process; nothing listens on a free port."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        listener = find_listener(server.getsockname()[1])
    assert listener is not None
    assert listener.pid == os.getpid()
    assert listener.name
    assert listener.parent
    [port] = find_free_ports(1)
    assert find_listener(port) is None
