"""Whether a cluster can do our work: each of its nodes beside whoever asks, one line a finding, with what to do."""

import contextlib
import importlib.metadata
import os
import platform
import shutil
import socket
import stat
import subprocess
import time
from dataclasses import dataclass, field
from typing import Any

from cluster import UsageError
from cluster import auth as token
from cluster.storage import StorageError, join, read_text, remove_file, write_text

PACKAGES = ("ray", "torch")
RESPONSE_TIMEOUT_S = 60
MIN_FREE_BYTES = 5 << 30
MAX_CLOCK_SKEW_S = 2.0


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. level: ok, warning (work may go on) or error; to_do: what mends it."""

    level: str
    location: str
    message: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.level:7}  {self.location}: {self.message}{f'; {self.remedy}' if self.remedy else ''}"


@dataclass(frozen=True)
class NodeReport:
    """What a node says of itself. gpus: those that its driver shows; visible: whether it sees the storage, and why not;
    clock: seconds since 1970."""

    host: str
    versions: dict[str, str]
    free_bytes: int
    gpus: int
    clock: float
    token_file_mode: int | None
    storage_error: str | None = None
    duration_s: float = field(default=0.0, compare=False)


def installed_versions() -> dict[str, str]:
    """Return the versions of Python, Ray and torch here; `none` for what is not installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package).partition("+")[0]
        except importlib.metadata.PackageNotFoundError:
            found[package] = "none"
    return found


def inspect_node(storage: str | None, marker: str) -> NodeReport:
    """Return what this node is like; it leaves a file of its own in the storage beside the marker."""
    start = time.time()
    unseen = None
    host = socket.gethostname()
    if storage:
        try:
            read_text(join(storage, marker))
            write_text(join(storage, f"{marker}-{host}-{os.getpid()}"), host)
            remove_file(join(storage, f"{marker}-{host}-{os.getpid()}"))
        except UsageError as error:
            unseen = str(error)
    mode = None
    with contextlib.suppress(OSError):
        mode = stat.S_IMODE(token.token_path().stat().st_mode)
    return NodeReport(
        host=host,
        versions=installed_versions(),
        free_bytes=shutil.disk_usage(os.environ.get("RAY_TMPDIR", "/tmp")).free,
        gpus=_gpus(),
        clock=start,
        token_file_mode=mode,
        storage_error=unseen,
        duration_s=time.time() - start,
    )


def _gpus() -> int:
    """Return how many GPUs the driver of NVIDIA shows; none where there is no driver."""
    if shutil.which("nvidia-smi") is None:
        return 0
    listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, timeout=30, check=False)
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())


def check_cluster(storage: str | None, caller_versions: dict[str, str]) -> list[Finding]:
    """Return what was found on all nodes of the cluster that this process is connected to.

    Args:
        storage: where runs are to lie; each node reads and writes there.
        caller: the versions of whoever asks, as `versions` returns them.
    """
    import ray

    marker = f".check-{os.getpid()}-{time.time_ns()}"
    findings: list[Finding] = []
    if storage:
        try:
            write_text(join(storage, marker), "seen")
        except StorageError as error:
            findings.append(Finding("error", socket.gethostname(), str(error), "storage must be writable from here"))
            storage = None
    alive = [node for node in ray.nodes() if node["Alive"]]
    asked = [(node, _ask(node, storage, marker), time.time()) for node in alive]
    for node, answer, sent in asked:
        where = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
        try:
            told: NodeReport = ray.get(answer, timeout=RESPONSE_TIMEOUT_S)
        except ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
            to_do = "look into its logs, or take it out of the cluster"
            findings.append(Finding("error", where, f"no answer: {reason}", to_do))
            continue
        findings += evaluate_node(where, told, int(node["Resources"].get("GPU", 0)), caller_versions, storage)
        findings += _clock(where, told, sent, time.time())
    if storage:
        with contextlib.suppress(StorageError):
            remove_file(join(storage, marker))
    return findings + _whole(alive, storage)


def _ask(node: dict[str, Any], storage: str | None, marker: str) -> Any:
    """Return the future answer of one node."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    task = ray.remote(inspect_node).options(num_cpus=0, scheduling_strategy=there, max_retries=0)
    return task.remote(storage, marker)


def evaluate_node(
    location: str, node: NodeReport, ray_gpus: int, caller_versions: dict[str, str], storage: str | None
) -> list[Finding]:
    """Return what is to be said of a node that answered. gpus: those that Ray knows of."""
    found = []
    for name, wanted in caller_versions.items():
        has = node.versions.get(name, "none")
        if has != wanted:
            # Ray and pickled code need the same minor version of Python.
            level = "warning" if name == "python" and has.rpartition(".")[0] == wanted.rpartition(".")[0] else "error"
            to_do = f"install {wanted} there (requirements.lock), or have {has} here"
            found.append(Finding(level, location, f"{name} is {has}, here it is {wanted}", to_do))
    if node.storage_error:
        to_do = "use a shared file system mounted on every node, or an object store that every node may write"
        found.append(Finding("error", location, f"does not see the storage: {node.storage_error}", to_do))
    if node.gpus != ray_gpus:
        to_do = "start Ray there with --num-gpus, or install the driver" if node.gpus else "nvidia-smi shows none there"
        found.append(Finding("warning", location, f"Ray counts {ray_gpus} GPUs, the driver {node.gpus}", to_do))
    if node.free_bytes < MIN_FREE_BYTES:
        free = f"{node.free_bytes / (1 << 30):.1f} GiB free in Ray's folder"
        found.append(Finding("warning", location, free, "Ray stops working on a full disk: make room"))
    if node.token_file_mode is not None and node.token_file_mode & 0o077:
        what = f"its token's file can be read by others ({node.token_file_mode:o})"
        found.append(Finding("warning", location, what, "chmod 600 ~/.ray/auth_token"))
    if not found:
        had = ", ".join(f"{name} {version}" for name, version in node.versions.items())
        sees = f", sees {storage}" if storage else ""
        free = f"{node.free_bytes / (1 << 30):.0f} GiB free"
        found.append(Finding("ok", location, f"{had}, {node.gpus} GPUs, {free}{sees}"))
    return found


def _clock(where: str, node: NodeReport, sent: float, received: float) -> list[Finding]:
    """Return a finding if the node's clock cannot have been right between the question and the answer."""
    off = max(sent - node.clock, node.clock - received)
    if off <= MAX_CLOCK_SKEW_S:
        return []
    return [Finding("warning", where, f"its clock is at least {off:.0f} s off", "run ntpd or chronyd there")]


def _whole(alive: list[dict[str, Any]], storage: str | None) -> list[Finding]:
    """Return what concerns the cluster as one."""
    from ray._private.authentication.authentication_utils import is_token_auth_enabled

    where = f"cluster of {len(alive)} node{'s' if len(alive) > 1 else ''}"
    found = []
    if not is_token_auth_enabled():
        to_do = "start every node with RAY_AUTH_MODE=token, with the same ~/.ray/auth_token"
        found.append(Finding("warning", where, "takes commands from everybody who reaches its ports", to_do))
    if not any(node["Resources"].get("CPU") for node in alive):
        found.append(Finding("warning", where, "has no CPU for work yet", "work waits until a worker has joined"))
    if storage is None:
        found.append(Finding("warning", where, "storage was not looked at", "name it: --storage s3://bucket/runs"))
    return found or [Finding("ok", where, "tokens are on")]
