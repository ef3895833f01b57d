"""This machine: usable processors and GPUs, free ports, who listens on a port; variables and parent of this process."""

import itertools
import os
import random
import shutil
import socket
import subprocess
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from cluster import first_line

# Oldest driver by CUDA's major version: table 1 of "Minor Version Compatibility", NVIDIA.
MIN_DRIVERS = {"11": 450, "12": 525, "13": 580}

# Between the ports of Ray's workers and those of Serve's replicas.
_PORTS = range(20_000, 30_000)
_CGROUPS = Path("/sys/fs/cgroup")
_LISTEN = "0A"  # state of a socket in /proc/net/tcp


@contextmanager
def set_variables(variables: Mapping[str, str], defaults: Mapping[str, str] = {}) -> Iterator[None]:
    """Context manager: variables of this process's environment have these values, and their earlier ones at the end.

    Args:
        defaults: values of variables that are not set.
    """
    earlier = {name: os.environ.get(name) for name in (*variables, *defaults)}
    try:
        for name, value in defaults.items():
            os.environ.setdefault(name, value)
        os.environ.update(variables)
        yield
    finally:
        for name, before in earlier.items():
            os.environ.pop(name, None)
            if before is not None:
                os.environ[name] = before


def end_with_parent() -> None:
    """Let this process, started with multiprocessing, end at once when its parent has ended."""
    import multiprocessing  # `--help` does without it

    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait_for_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait_for_parent, daemon=True).start()


def count_cpus(cgroups: Path = _CGROUPS) -> int:
    """Return how many processors this process may use: by its affinity and by the quota of its cgroup, at least 1.

    `os.cpu_count()` counts those of the machine, also in a container that may use two of them.
    """
    quotas = (quota for folder in _cgroup_folders(cgroups) if (quota := _read_quota(folder)) is not None)
    return max(1, min(len(os.sched_getaffinity(0)), *(int(quota) for quota in quotas), 1 << 20))


def _cgroup_folders(cgroups: Path) -> Iterator[Path]:
    """Yield the cgroup folders whose limits apply, versions 1 and 2; in a container the first ones are its own."""
    yield from (cgroups, cgroups / "cpu")
    lines: list[str] = []
    with suppress(OSError):
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = cgroups / "cpu" if controllers else cgroups
        folder = top / path.lstrip("/")
        while folder != top and ".." not in folder.parts:
            yield folder
            folder = folder.parent


def _read_quota(folder: Path) -> float | None:
    """Return the number of processors of a cgroup's quota; None without one."""
    with suppress(OSError, ValueError):
        quota, period = (folder / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    with suppress(OSError, ValueError):
        limit = int((folder / "cpu.cfs_quota_us").read_text())
        return limit / int((folder / "cpu.cfs_period_us").read_text()) if limit > 0 else None
    return None


@dataclass(frozen=True)
class GpuState:
    """GPUs of a machine, according to NVIDIA's driver and to torch.

    count, driver: number of GPUs that the driver lists, and its version; 0 and empty without a driver. torch, cuda:
    version of torch, and of the CUDA that it is built for; empty if there is none. error: why torch computes on no GPU;
    empty if it does.
    """

    count: int = 0
    driver: str = ""
    torch: str = ""
    cuda: str = ""
    error: str = ""

    def __str__(self) -> str:
        build = f"for CUDA {self.cuda}" if self.cuda else "without CUDA"
        return f"torch {self.torch or 'none'} {build}, driver {self.driver or 'none'}"

    @property
    def problem(self) -> str:
        """Why torch computes on no GPU, and what to do about it; empty if it does."""
        if not self.error or not self.torch:
            return self.error
        if not self.cuda:
            return f"torch {self.torch} is built without CUDA; install a build for CUDA there"
        least = MIN_DRIVERS.get(self.cuda.partition(".")[0], 0)
        major = self.driver.partition(".")[0]
        if major.isdigit() and int(major) < least:
            return (
                f"torch {self.torch} is built for CUDA {self.cuda}, which needs driver {least} or newer, not "
                f"{self.driver}; update the driver, or install a build of torch for an older CUDA there"
            )
        return f"{self.error} ({self}); check the driver there, and whether this build of torch supports the GPU"


def read_gpu_driver() -> tuple[str, int]:
    """Return the version of NVIDIA's driver and the number of GPUs that it lists; empty and 0 without a driver."""
    if shutil.which("nvidia-smi") is None:
        return "", 0
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    versions: list[str] = []
    with suppress(subprocess.SubprocessError):  # the command failed, or the driver hangs
        versions = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.split()
    return (versions[0], len(versions)) if versions else ("", 0)


def inspect_gpus(driver_and_count: tuple[str, int] | None = None) -> GpuState:
    """Return the state of this machine's GPUs. If there is one, torch computes on it, which takes seconds.

    Args:
        driver_and_count: what `read_gpu_driver` returned, which takes half a minute if the driver hangs.
    """
    driver, count = driver_and_count or read_gpu_driver()
    try:
        import torch
    except ImportError as error:
        return GpuState(count, driver, error=f"{first_line(error)}; install torch there")
    message = ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the error states the same
        try:
            torch.cuda.init()  # type: ignore[no-untyped-call]  # torch does not annotate it
            torch.ones(1, device="cuda").add_(1).item()
        except Exception as error:  # AssertionError, RuntimeError, or a subclass that only newer versions have
            # A GPU whose memory other processes fill at the moment is usable.
            message = "" if "out of memory" in str(error) else first_line(error).partition(". ")[0]
    version = torch.__version__.partition("+")[0]
    return GpuState(count, driver, version, torch.version.cuda or torch.version.hip or "", message)


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens on an IPv4 or IPv6 address; OSError if it is used, or not of this machine."""
    return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)


def is_own_address(host: str) -> bool:
    """Return whether an IP address is one of this machine, so that a socket can listen on it."""
    try:
        listen(host, 0).close()
    except OSError:
        return False
    return True


def find_free_ports(count: int) -> list[int]:
    """Return ports that are free on every interface at the moment.

    Outgoing connections of other processes do not take them before they are used: the system has other ports for these.
    """
    first, last = _read_ephemeral_range()
    candidates = [port for port in _PORTS if not first <= port <= last]
    # Of the system, so that processes with the same seed do not choose the same ports.
    chosen = random.SystemRandom().sample(candidates, len(candidates))
    free: list[int] = []
    with ExitStack() as bound:
        for port in itertools.chain(chosen, itertools.repeat(0, count)):  # 0: any; if all others are in use
            if len(free) == count:
                break
            with suppress(OSError):
                free.append(bound.enter_context(socket.create_server(("", port))).getsockname()[1])
    return free


def _read_ephemeral_range() -> tuple[int, int]:
    """Return the first and the last port that the system gives to outgoing connections."""
    try:
        first, last = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    except OSError:
        return 49152, 65535  # of other systems
    return int(first), int(last)


@dataclass(frozen=True)
class Listener:
    """A process that listens on a port. name, parent: the names of its command and of its parent's."""

    pid: int
    name: str
    parent: str


def find_listener(port: int) -> Listener | None:
    """Return the process that listens on a TCP port; None if there is none, or it belongs to another user."""
    inodes = {f"socket:[{inode}]" for inode in _listening_inodes(port)}
    if not inodes:
        return None
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with suppress(OSError):
                if any(os.readlink(link) in inodes for link in (process / "fd").iterdir()):
                    parent = (process / "stat").read_text().rpartition(")")[2].split()[1]
                    return Listener(int(process.name), _read_name(process), _read_name(process.parent / parent))
    return None


def _read_name(process: Path) -> str:
    with suppress(OSError):
        return (process / "comm").read_text().strip()
    return ""


def _listening_inodes(port: int) -> Iterator[str]:
    for table in ("tcp", "tcp6"):
        lines: list[str] = []
        with suppress(OSError):
            lines = Path("/proc/net", table).read_text().splitlines()[1:]
        for line in lines:
            fields = line.split()
            if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                yield fields[9]
