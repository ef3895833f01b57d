"""Processors, GPUs, ports and listeners of this machine."""

import os
import socket
from contextlib import suppress
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from cluster import machine
from cluster.machine import (
    GpuState,
    count_cpus,
    find_free_ports,
    find_listener,
    inspect_gpus,
    read_gpu_driver,
    set_variables,
)


@pytest.mark.parametrize("fails", [False, True])
def test_variables_have_their_earlier_values_at_the_end(fails: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Defaults are only of those that are not set; those set inside are restored too."""
    for name, value in {"A_SET": "1", "A_DEFAULT": "2"}.items():
        monkeypatch.setenv(name, value)
    for name in ("A_NEW", "A_NEW_DEFAULT"):
        monkeypatch.delenv(name, raising=False)
    before = dict(os.environ)
    with suppress(ValueError), set_variables({"A_SET": "3", "A_NEW": "4"}, {"A_DEFAULT": "5", "A_NEW_DEFAULT": "6"}):
        changed = {"A_SET": "3", "A_NEW": "4", "A_NEW_DEFAULT": "6"}
        assert dict(os.environ) == before | changed
        os.environ["A_NEW"] = os.environ["A_DEFAULT"] = "7"
        if fails:
            raise ValueError
    assert dict(os.environ) == before


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


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A driver's command that lists two GPUs."""
    path = tmp_path / "nvidia-smi"
    path.write_text("#!/bin/sh\nprintf '570.133.20\\n570.133.20\\n'\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return path


def test_the_driver_lists_its_version_and_its_gpus(nvidia_smi: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that fails, or none, has no GPUs."""
    assert read_gpu_driver() == ("570.133.20", 2)
    nvidia_smi.write_text("#!/bin/sh\necho Failed to initialize NVML: Driver/library version mismatch\nexit 18\n")
    assert read_gpu_driver() == ("", 0)
    monkeypatch.setenv("PATH", "")
    assert read_gpu_driver() == ("", 0)


def test_a_gpu_is_not_usable_by_a_torch_without_cuda(nvidia_smi: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch itself is called, unless it is built for CUDA here."""
    if torch.version.cuda is not None:
        monkeypatch.setattr(
            torch.cuda, "init", Mock(side_effect=AssertionError("Torch not compiled with CUDA enabled"))
        )
        monkeypatch.setattr(torch.version, "cuda", None)
    state = inspect_gpus()
    version = torch.__version__.partition("+")[0]
    assert state == GpuState(2, "570.133.20", version, "", "Torch not compiled with CUDA enabled")
    assert state.problem == f"torch {version} is built without CUDA; install a build for CUDA there"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (None, ""),
        (RuntimeError("CUDA error: out of memory\nCompile with ..."), ""),
        (RuntimeError("The driver is too old (found version 12080). Please update."), "The driver is too old (found"),
        (
            RuntimeError("CUDA error: no kernel image is available\nCUDA kernel errors ..."),
            "CUDA error: no kernel image",
        ),
    ],
)
def test_a_gpu_is_usable_if_torch_computes_on_it(
    error: Exception | None, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU whose memory is full at the moment is usable."""

    def compute(*arguments: object, **options: object) -> torch.Tensor:
        if error:
            raise error
        return torch.zeros(1)

    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr(torch, "ones", compute)
    state = inspect_gpus()
    assert state.error.startswith(message)
    assert bool(state.error) is bool(message)
    assert "\n" not in state.error


def test_a_problem_of_a_gpu_states_what_to_do() -> None:
    """CUDA's major version determines the oldest driver."""
    old = GpuState(1, "570.133.20", "2.13.0", "13.0", "The NVIDIA driver on your system is too old")
    assert old.problem == (
        "torch 2.13.0 is built for CUDA 13.0, which needs driver 580 or newer, not 570.133.20; "
        "update the driver, or install a build of torch for an older CUDA there"
    )
    assert GpuState(1, "570.133.20", "2.13.0", "12.6").problem == ""
    other = GpuState(1, "570.133.20", "2.13.0", "12.6", "CUDA error: no kernel image is available")
    assert other.problem.startswith("CUDA error: no kernel image is available (torch 2.13.0 for CUDA 12.6, driver 570")
    assert GpuState(error="No module named 'torch'; install torch there").problem.endswith("; install torch there")


def test_free_ports_are_no_ports_of_outgoing_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process's connection could take one of those before it is used. Ports in use are not returned."""
    first, last = machine._read_ephemeral_range()
    ports = find_free_ports(20)
    assert len(set(ports)) == 20
    assert not [port for port in ports if first <= port <= last]
    with socket.create_server(("127.0.0.1", 0)) as outgoing, socket.create_connection(outgoing.getsockname()) as client:
        assert first <= client.getsockname()[1] <= last
    with socket.create_server(("", ports[0])):
        monkeypatch.setattr(machine, "_PORTS", ports[:2])
        assert find_free_ports(1) == [ports[1]]
        assert len({*find_free_ports(3), *ports[:2]}) == 4


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
