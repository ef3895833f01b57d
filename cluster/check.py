"""Check of a cluster: each node compared with the caller, and findings with a remedy."""

import contextlib
import importlib.metadata
import os
import platform
import shutil
import socket
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError

from cluster import UsageError, auth, first_line, format_count
from cluster.connection import ClusterConnectionError
from cluster.machine import inspect_gpus, read_gpu_driver
from cluster.ray_private import find_runtime_env_folder, is_token_auth_enabled
from cluster.resources import Node, describe_task_error, list_nodes, run_on_node
from cluster.storage import StorageError, join, read_text, remove_file, write_text

PACKAGES = ("ray", "torch")
RESPONSE_TIMEOUT_S = 60
MIN_FREE_BYTES = 5 << 30
MAX_CLOCK_SKEW_S = 2.0


@dataclass(frozen=True)
class Finding:
    """Result of one check. level: ok, warning (jobs can run) or error; location: a node or the cluster."""

    level: str
    location: str
    message: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.level:7}  {self.location}: {self.message}{f'; {self.remedy}' if self.remedy else ''}"


@dataclass(frozen=True)
class NodeReport:
    """State of a node.

    versions: by package; free_bytes: in Ray's session folder; gpus: number that the driver lists; clock: seconds
    since 1970; token_file_mode: permission bits, None without a file; storage_error: None if the node can read and
    write the storage; job_folder: identity of the folder in which it unpacks the code of jobs, empty without Ray;
    gpu_problem: why torch uses no GPU, and what to do; empty if it uses them, or if there is none.
    """

    host: str
    versions: dict[str, str]
    free_bytes: int
    gpus: int
    clock: float
    token_file_mode: int | None
    storage_error: str | None = None
    job_folder: str = ""
    gpu_problem: str = ""


def installed_versions() -> dict[str, str]:
    """Return the versions of Python, Ray and torch on this machine; `none` for what is not installed."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package).partition("+")[0]
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "none"
    return versions


def inspect_node(storage: str | None, marker: str, ray_gpus: int = 0) -> NodeReport:
    """Return the state of this node.

    Args:
        storage: folder in which the node reads the file `marker`, and writes and removes a file of its own.
        ray_gpus: number of GPUs of the node according to Ray.
    """
    clock = time.time()
    host = socket.gethostname()
    storage_error = None
    if storage:
        path = join(storage, f"{marker}-{host}-{os.getpid()}")
        try:
            read_text(join(storage, marker))
            write_text(path, host)
            remove_file(path)
        except UsageError as error:
            storage_error = str(error)
    token_file_mode = None
    with contextlib.suppress(OSError):
        token_file_mode = stat.S_IMODE(auth.token_path().stat().st_mode)
    driver, gpus = read_gpu_driver()
    return NodeReport(
        host=host,
        versions=installed_versions(),
        free_bytes=shutil.disk_usage(find_runtime_env_folder() or os.environ.get("RAY_TMPDIR", "/tmp")).free,
        gpus=gpus,
        clock=clock,
        token_file_mode=token_file_mode,
        storage_error=storage_error,
        job_folder=_identify_job_folder(host),
        gpu_problem=inspect_gpus((driver, gpus)).problem if gpus or ray_gpus else "",
    )


def check_cluster(storage: str | None, caller_versions: dict[str, str]) -> list[Finding]:
    """Return the findings on all nodes of the cluster that this process is connected to.

    Args:
        storage: folder of the runs; each node reads and writes there.
        caller_versions: versions on the caller's machine, from `installed_versions`.

    Raises:
        ClusterConnectionError: the head does not respond.
    """
    marker = f".check-{os.getpid()}-{time.time_ns()}"
    findings: list[Finding] = []
    if storage:
        try:
            write_text(join(storage, marker), "marker")
        except StorageError as error:
            findings.append(Finding("error", socket.gethostname(), str(error), "make the storage writable from here"))
            storage = None
    try:
        nodes = list_nodes()
        requests = [
            (node, run_on_node(node, inspect_node, storage, marker, _count_ray_gpus(node)), time.time())
            for node in nodes
        ]
        locations: dict[str, list[str]] = {}  # by the folder of jobs
        for node, reference, sent in requests:
            location = f"{node.host} ({node.address})"
            report = _receive_report(reference)
            if isinstance(report, str):
                remedy = "read its logs, or remove it from the cluster"
                findings.append(Finding("error", location, f"no response: {report}", remedy))
                continue
            findings += evaluate_node(
                location, report, _count_ray_gpus(node), caller_versions, storage
            ) + _evaluate_clock(location, report, sent, time.time())
            if report.job_folder:
                locations.setdefault(report.job_folder, []).append(location)
        findings += _find_shared_folders(locations)
    except RayError as error:
        raise ClusterConnectionError(f"lost the connection to the cluster: {first_line(error)}") from error
    finally:
        if storage:
            with contextlib.suppress(StorageError):
                remove_file(join(storage, marker))
    return findings + _evaluate_cluster(nodes, storage)


def evaluate_node(
    location: str, node: NodeReport, ray_gpus: int, caller_versions: dict[str, str], storage: str | None
) -> list[Finding]:
    """Return the findings on a node that responded; one of level `ok` if nothing is wrong.

    Args:
        ray_gpus: number of GPUs of the node according to Ray.
    """
    findings = list(_find_problems(location, node, ray_gpus, caller_versions))
    if findings:
        return findings
    versions = ", ".join(f"{name} {version}" for name, version in node.versions.items())
    suffix = f", sees {storage}" if storage else ""
    free = f"{node.free_bytes / (1 << 30):.0f} GiB free"
    return [Finding("ok", location, f"{versions}, {node.gpus} GPUs, {free}{suffix}")]


def _count_ray_gpus(node: Node) -> int:
    return int(node.resources.get("GPU", 0))


def _receive_report(reference: Any) -> NodeReport | str:
    """Return the report of a node, or the reason why there is none."""
    try:
        report: NodeReport = ray.get(reference, timeout=RESPONSE_TIMEOUT_S)
    except RayError as error:
        return describe_task_error(error)
    return report


def _identify_job_folder(host: str) -> str:
    """Return an identity of the folder in which this node unpacks the code of jobs; empty without Ray."""
    folder = find_runtime_env_folder()
    if folder is None:
        return ""
    status = os.stat(folder)
    return f"{host}:{status.st_dev}:{status.st_ino}"


def _find_shared_folders(locations: dict[str, list[str]]) -> Iterator[Finding]:
    """Yield a finding for nodes with the same folder of jobs: each deletes what the other has unpacked."""
    for nodes in locations.values():
        if len(nodes) > 1:
            message = "share the temporary folder of Ray, so jobs lose their code and their files of --include"
            yield Finding("error", " and ".join(nodes), message, "start each with a --temp-dir of its own")


def _find_problems(
    location: str, node: NodeReport, ray_gpus: int, caller_versions: dict[str, str]
) -> Iterator[Finding]:
    for name, expected in caller_versions.items():
        version = node.versions.get(name, "none")
        if version != expected:
            # Ray and pickled code need the same minor version of Python.
            same_minor = name == "python" and version.rpartition(".")[0] == expected.rpartition(".")[0]
            remedy = f"install {expected} there, or {version} here"
            message = f"{name} is {version}, here it is {expected}"
            yield Finding("warning" if same_minor else "error", location, message, remedy)
    if node.storage_error:
        remedy = "use a shared file system mounted on every node, or an object store that every node may write"
        yield Finding("error", location, f"cannot access the storage: {node.storage_error}", remedy)
    if node.gpus != ray_gpus:
        remedy = (
            "start Ray there with --num-gpus, or install the driver"
            if node.gpus
            else "check there why nvidia-smi lists no GPU"
        )
        yield Finding("warning", location, f"Ray counts {ray_gpus} GPUs, the driver {node.gpus}", remedy)
    if node.gpu_problem:
        message, _, remedy = node.gpu_problem.partition("; ")
        yield Finding("warning", location, f"torch cannot use its GPU: {message}", remedy)
    if node.free_bytes < MIN_FREE_BYTES:
        message = f"{node.free_bytes / (1 << 30):.1f} GiB free in Ray's folder"
        yield Finding("warning", location, message, "free some space: Ray stops on a full disk")
    if node.token_file_mode is not None and node.token_file_mode & 0o077:
        message = f"others can read its token file (mode {node.token_file_mode:o})"
        yield Finding("warning", location, message, "chmod 600 ~/.ray/auth_token")


def _evaluate_clock(location: str, node: NodeReport, sent: float, received: float) -> list[Finding]:
    """Return a finding if the node's clock was outside the time between request and response."""
    skew = max(sent - node.clock, node.clock - received)
    if skew <= MAX_CLOCK_SKEW_S:
        return []
    return [Finding("warning", location, f"its clock is at least {skew:.0f} s off", "run ntpd or chronyd there")]


def _evaluate_cluster(nodes: list[Node], storage: str | None) -> list[Finding]:
    """Return the findings on the cluster as a whole."""
    location = f"cluster of {format_count(len(nodes), 'node')}"
    findings = []
    if not is_token_auth_enabled():
        remedy = "start every node with RAY_AUTH_MODE=token and the same ~/.ray/auth_token"
        findings.append(Finding("warning", location, "anyone who reaches its ports can run code on it", remedy))
    if not any(node.resources.get("CPU") for node in nodes):
        findings.append(Finding("warning", location, "has no CPU for jobs yet", "jobs wait until a worker joins"))
    if storage is None:
        findings.append(Finding("warning", location, "storage was not checked", "pass --storage s3://bucket/runs"))
    return findings or [Finding("ok", location, "token authentication is enabled")]
