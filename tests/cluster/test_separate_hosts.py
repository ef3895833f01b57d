"""A cluster of separate hosts: what `check` finds on them, and what a stranger on their network can do."""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from cluster.check import installed_versions
from cluster.package import REPOSITORY
from tests.host_network import Host, HostNetwork

pytestmark = [pytest.mark.root, pytest.mark.ray, pytest.mark.slow]

# Without a token: every port of a host that is not its loopback's, asked over HTTP for the jobs and over gRPC
# for the nodes.
STRANGER = """
import json, sys, urllib.error, urllib.request
import grpc
from ray.core.generated import core_worker_pb2 as worker, core_worker_pb2_grpc as worker_rpc
from ray.core.generated import gcs_service_pb2 as gcs, gcs_service_pb2_grpc as gcs_rpc
from ray.core.generated import node_manager_pb2 as manager, node_manager_pb2_grpc as manager_rpc
from ray.core.generated import ray_client_pb2 as client, ray_client_pb2_grpc as client_rpc
from ray.core.generated import reporter_pb2 as reporter, reporter_pb2_grpc as reporter_rpc
CALLS = [
    (gcs_rpc.NodeInfoGcsServiceStub, "GetAllNodeInfo", gcs.GetAllNodeInfoRequest()),
    (manager_rpc.NodeManagerServiceStub, "GetSystemConfig", manager.GetSystemConfigRequest()),
    (worker_rpc.CoreWorkerServiceStub, "GetCoreWorkerStats", worker.GetCoreWorkerStatsRequest()),
    (client_rpc.RayletDriverStub, "ClusterInfo", client.ClusterInfoRequest(type=1)),
    (reporter_rpc.LogServiceStub, "ListLogs", reporter.ListLogsRequest()),
]
host, ports = sys.argv[1], json.loads(sys.argv[2])
found = {}
for port in ports:
    answers = []
    for path in ("/api/jobs/", "/api/job_agent/jobs/", "/logs", "/get_or_create_runtime_env", "/"):
        try:
            with urllib.request.urlopen(f"http://{host}:{port}{path}", timeout=5) as answer:
                answers.append(f"{path} {answer.status}")
        except urllib.error.HTTPError as error:
            answers.append(f"{path} {error.code}")
        except Exception as error:
            answers.append(f"{path} {type(error).__name__}")
    with grpc.insecure_channel(f"{host}:{port}") as channel:
        for stub, call, request in CALLS:
            try:
                getattr(stub(channel), call)(request, timeout=5)
                answers.append(f"{call} OK")
            except grpc.RpcError as error:
                answers.append(f"{call} {error.code().name}")
    found[port] = answers
print(json.dumps(found))
"""


class Cluster:
    """Hosts with Ray on three of them. laptop: has no Ray running."""

    def __init__(self, net: HostNetwork) -> None:
        self.net = net
        self.laptop, self.head, self.one = net.hosts
        self.address = self.head.start_ray("--num-cpus=1")
        self.one.start_ray("--num-cpus=1", head_address=self.address)


@pytest.fixture(scope="module")
def cluster(host_network: type[HostNetwork]) -> Iterator[Cluster]:
    with host_network("laptop", "head", "one") as net:
        yield Cluster(net)


def run(host: Host, *arguments: str, env: dict[str, str | None] | None = None) -> tuple[int, str, float]:
    """Return exit code, output and seconds of a command of ours on a host."""
    start = time.monotonic()
    done = host.run("python", "-m", *arguments, cwd=REPOSITORY, env=env, check=False, timeout=200)
    return done.returncode, done.stdout, time.monotonic() - start


def test_check_finds_what_separate_hosts_have_wrong(cluster: Cluster) -> None:
    """On a node at Ray's port, and through the dashboard; elsewhere it says that only nodes attach."""
    storage = f"{cluster.net.shared}/runs"
    code, told, _ = run(cluster.laptop, "cluster", "check", "--address", cluster.address)
    assert code == 2
    assert "this machine is no node of the Ray cluster" in told
    code, told, _ = run(cluster.one, "cluster", "check", "--address", cluster.address, "--storage", storage)
    assert code == 0, told
    assert f"ok       head ({cluster.head.address})" in told
    assert f"ok       one ({cluster.one.address})" in told
    assert "cluster of 2 nodes: tokens are on" in told
    cluster.one.run("mkdir", "-p", storage)
    cluster.one.run("mount", "-t", "tmpfs", "tmpfs", storage)  # as where the shared file system is not mounted
    cluster.one.run("chmod", "644", ".ray/auth_token")
    caller = json.dumps(installed_versions() | {"torch": "2.11.0"})
    at = ("--address", "http://127.0.0.1:8265", "--storage", storage)
    try:
        code, told, _ = run(cluster.head, "cluster", "check", *at, "--caller", caller)
    finally:
        cluster.one.run("umount", storage)
        cluster.one.run("chmod", "600", ".ray/auth_token")
    assert code == 1, told
    assert f"error    one ({cluster.one.address}): does not see the storage: {storage}/.check-" in told
    assert told.count("torch is 2.13.0, here it is 2.11.0; install 2.11.0 there") == 2
    assert f"warning  one ({cluster.one.address}): its token's file can be read by others (644)" in told


def test_a_stranger_can_do_nothing(cluster: Cluster) -> None:
    """No port that others reach answers without the token, but with metrics; the dashboard's is not reached at all."""
    for host in (cluster.head, cluster.one):
        listening = host.run("ss", "-ltnH").stdout.split("\n")
        local = [line.split()[3] for line in listening if line.strip()]
        ports = sorted(
            {int(each.rpartition(":")[2]) for each in local if not each.startswith(("127.", "[::ffff:127."))}
        )
        assert ports
        assert 8265 not in ports
        told = cluster.laptop.run("python", "-c", STRANGER, host.address, json.dumps(ports), timeout=200).stdout
        answers: dict[str, list[str]] = json.loads(told.splitlines()[-1])
        print(json.dumps(answers, indent=1))
        for port, each in answers.items():
            opened = [answer for answer in each if answer.endswith((" 200", " OK"))]
            assert not opened or _is_metrics(cluster.laptop, host, port), (host.name, port, each)


def _is_metrics(laptop: Host, host: Host, port: str) -> bool:
    """Tell whether a port serves nothing but Prometheus's text, on any path."""
    script = f"import urllib.request as u; print(u.urlopen('http://{host.address}:{port}/', timeout=5).read()[:200])"
    return "# HELP" in laptop.run("python", "-c", script, check=False).stdout


@pytest.mark.parametrize("token", [None, "wrong"], ids=["no token", "wrong token"])
def test_without_the_token_a_job_is_neither_submitted_nor_read(cluster: Cluster, token: str | None) -> None:
    """Told in under five seconds, in a line, with what to do; as a driver, as a job, and asking for a log."""
    env: dict[str, Any] = {"RAY_AUTH_MODE": None, "HOME": "/run", "RAY_AUTH_TOKEN": token}
    said = "does not take the token that was sent" if token else "wants a token, and there is none"
    dashboard = ("--address", "http://127.0.0.1:8265")
    for host, arguments in (
        (cluster.laptop, ("jobs", "train", "experiments/tickets.yaml", "--address", cluster.address)),
        (cluster.head, ("cluster", "submit", *dashboard, "--", "show")),
        (cluster.head, ("cluster", "logs", *dashboard)),
    ):
        code, told, seconds = run(host, *arguments, env=env)
        assert code == 2, told
        assert said in told
        assert "~/.ray/auth_token" in told
        assert "Traceback" not in told
        print(f"{arguments[:2]} {seconds:.1f} s")
