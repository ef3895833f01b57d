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
from cluster.storage import StorageError, delete, join, read_text, write_text

PACKAGES = ("ray", "torch")
ANSWER_TIMEOUT_S = 60
LEAST_FREE_BYTES = 5 << 30
LARGEST_CLOCK_DIFFERENCE_S = 2.0


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. level: ok, warning (work may go on) or error; to_do: what mends it."""

    level: str
    where: str
    what: str
    to_do: str = ""

    def __str__(self) -> str:
        return f"{self.level:7}  {self.where}: {self.what}{f'; {self.to_do}' if self.to_do else ''}"


@dataclass(frozen=True)
class Node:
    """What a node says of itself. gpus: those that its driver shows; visible: whether it sees the storage, and why not;
    clock: seconds since 1970."""

    host: str
    versions: dict[str, str]
    free_bytes: int
    gpus: int
    clock: float
    token_mode: int | None
    unseen: str | None = None
    seconds: float = field(default=0.0, compare=False)


def versions() -> dict[str, str]:
    """Return the versions of Python, Ray and torch here; `none` for what is not installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package).partition("+")[0]
        except importlib.metadata.PackageNotFoundError:
            found[package] = "none"
    return found


def look(storage: str | None, marker: str) -> Node:
    """Return what this node is like; it leaves a file of its own in the storage beside the marker."""
    start = time.time()
    unseen = None
    host = socket.gethostname()
    if storage:
        try:
            read_text(join(storage, marker))
            write_text(join(storage, f"{marker}-{host}-{os.getpid()}"), host)
            delete(join(storage, f"{marker}-{host}-{os.getpid()}"))
        except UsageError as error:
            unseen = str(error)
    mode = None
    with contextlib.suppress(OSError):
        mode = stat.S_IMODE(token.file().stat().st_mode)
    return Node(
        host=host,
        versions=versions(),
        free_bytes=shutil.disk_usage(os.environ.get("RAY_TMPDIR", "/tmp")).free,
        gpus=_gpus(),
        clock=start,
        token_mode=mode,
        unseen=unseen,
        seconds=time.time() - start,
    )


def _gpus() -> int:
    """Return how many GPUs the driver of NVIDIA shows; none where there is no driver."""
    if shutil.which("nvidia-smi") is None:
        return 0
    listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, timeout=30, check=False)
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())


def check(storage: str | None, caller: dict[str, str]) -> list[Finding]:
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
            told: Node = ray.get(answer, timeout=ANSWER_TIMEOUT_S)
        except ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
            to_do = "look into its logs, or take it out of the cluster"
            findings.append(Finding("error", where, f"no answer: {reason}", to_do))
            continue
        findings += judge(where, told, int(node["Resources"].get("GPU", 0)), caller, storage)
        findings += _clock(where, told, sent, time.time())
    if storage:
        with contextlib.suppress(StorageError):
            delete(join(storage, marker))
    return findings + _whole(alive, storage)


def _ask(node: dict[str, Any], storage: str | None, marker: str) -> Any:
    """Return the future answer of one node."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    task = ray.remote(look).options(num_cpus=0, scheduling_strategy=there, max_retries=0)
    return task.remote(storage, marker)


def judge(where: str, node: Node, gpus: int, caller: dict[str, str], storage: str | None) -> list[Finding]:
    """Return what is to be said of a node that answered. gpus: those that Ray knows of."""
    found = []
    for name, wanted in caller.items():
        has = node.versions.get(name, "none")
        if has != wanted:
            # Ray and pickled code need the same minor version of Python.
            level = "warning" if name == "python" and has.rpartition(".")[0] == wanted.rpartition(".")[0] else "error"
            to_do = f"install {wanted} there (requirements.lock), or have {has} here"
            found.append(Finding(level, where, f"{name} is {has}, here it is {wanted}", to_do))
    if node.unseen:
        to_do = "use a shared file system mounted on every node, or an object store that every node may write"
        found.append(Finding("error", where, f"does not see the storage: {node.unseen}", to_do))
    if node.gpus != gpus:
        to_do = "start Ray there with --num-gpus, or install the driver" if node.gpus else "nvidia-smi shows none there"
        found.append(Finding("warning", where, f"Ray counts {gpus} GPUs, the driver {node.gpus}", to_do))
    if node.free_bytes < LEAST_FREE_BYTES:
        free = f"{node.free_bytes / (1 << 30):.1f} GiB free in Ray's folder"
        found.append(Finding("warning", where, free, "Ray stops working on a full disk: make room"))
    if node.token_mode is not None and node.token_mode & 0o077:
        what = f"its token's file can be read by others ({node.token_mode:o})"
        found.append(Finding("warning", where, what, "chmod 600 ~/.ray/auth_token"))
    if not found:
        had = ", ".join(f"{name} {version}" for name, version in node.versions.items())
        sees = f", sees {storage}" if storage else ""
        free = f"{node.free_bytes / (1 << 30):.0f} GiB free"
        found.append(Finding("ok", where, f"{had}, {node.gpus} GPUs, {free}{sees}"))
    return found


def _clock(where: str, node: Node, sent: float, received: float) -> list[Finding]:
    """Return a finding if the node's clock cannot have been right between the question and the answer."""
    off = max(sent - node.clock, node.clock - received)
    if off <= LARGEST_CLOCK_DIFFERENCE_S:
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
