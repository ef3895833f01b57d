"""A cluster of separate hosts: findings of `check`, and access to its ports without the token."""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from cluster.check import installed_versions
from cluster.package import REPOSITORY
from tests.host_network import Host, HostNetwork

pytestmark = [pytest.mark.root, pytest.mark.ray, pytest.mark.slow]

# Requests without a token to ports of a host: for the jobs over HTTP, for the nodes over gRPC.
REQUESTS_WITHOUT_TOKEN = """
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
responses_by_port = {}
for port in ports:
    responses = []
    for path in ("/api/jobs/", "/api/job_agent/jobs/", "/logs", "/get_or_create_runtime_env", "/"):
        try:
            with urllib.request.urlopen(f"http://{host}:{port}{path}", timeout=5) as response:
                responses.append(f"{path} {response.status}")
        except urllib.error.HTTPError as error:
            responses.append(f"{path} {error.code}")
        except Exception as error:
            responses.append(f"{path} {type(error).__name__}")
    with grpc.insecure_channel(f"{host}:{port}") as channel:
        for stub, call, request in CALLS:
            try:
                getattr(stub(channel), call)(request, timeout=5)
                responses.append(f"{call} OK")
            except grpc.RpcError as error:
                responses.append(f"{call} {error.code().name}")
    responses_by_port[port] = responses
print(json.dumps(responses_by_port))
"""


class Cluster:
    """Three hosts: a head and a worker with Ray, and a laptop without."""

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
    """Run `python -m <arguments>` on a host; return exit code, output and duration in seconds."""
    start = time.monotonic()
    result = host.run("python", "-m", *arguments, cwd=REPOSITORY, env=env, check=False, timeout=200)
    return result.returncode, result.stdout, time.monotonic() - start


def test_check_finds_the_problems_of_separate_hosts(cluster: Cluster) -> None:
    """`check` works on a node and through the dashboard; elsewhere the error says that only nodes can attach."""
    storage = f"{cluster.net.shared}/runs"
    code, output, _ = run(cluster.laptop, "cluster", "check", "--address", cluster.address)
    assert code == 2
    assert "this machine is not a node of the Ray cluster" in output
    code, output, _ = run(cluster.one, "cluster", "check", "--address", cluster.address, "--storage", storage)
    assert code == 0, output
    assert f"ok       head ({cluster.head.address})" in output
    assert f"ok       one ({cluster.one.address})" in output
    assert "cluster of 2 nodes: token authentication is enabled" in output
    cluster.one.run("mkdir", "-p", storage)
    cluster.one.run("mount", "-t", "tmpfs", "tmpfs", storage)  # as if the shared file system were not mounted
    cluster.one.run("chmod", "644", ".ray/auth_token")
    caller = json.dumps(installed_versions() | {"torch": "2.11.0"})
    options = ("--address", "http://127.0.0.1:8265", "--storage", storage)
    try:
        code, output, _ = run(cluster.head, "cluster", "check", *options, "--caller", caller)
    finally:
        cluster.one.run("umount", storage)
        cluster.one.run("chmod", "600", ".ray/auth_token")
    assert code == 1, output
    assert f"error    one ({cluster.one.address}): cannot access the storage: {storage}/.check-" in output
    assert output.count("torch is 2.13.0, here it is 2.11.0; install 2.11.0 there") == 2
    assert f"warning  one ({cluster.one.address}): others can read its token file (mode 644)" in output


def test_no_port_gives_access_without_the_token(cluster: Cluster) -> None:
    """Ports open to other hosts respond with nothing but metrics; the dashboard's is not open to them."""
    for host in (cluster.head, cluster.one):
        listening = host.run("ss", "-ltnH").stdout.split("\n")
        addresses = [line.split()[3] for line in listening if line.strip()]
        ports = sorted(
            {
                int(address.rpartition(":")[2])
                for address in addresses
                if not address.startswith(("127.", "[::ffff:127."))
            }
        )
        assert ports
        assert 8265 not in ports
        output = cluster.laptop.run(
            "python", "-c", REQUESTS_WITHOUT_TOKEN, host.address, json.dumps(ports), timeout=200
        ).stdout
        responses_by_port: dict[str, list[str]] = json.loads(output.splitlines()[-1])
        print(json.dumps(responses_by_port, indent=1))
        for port, responses in responses_by_port.items():
            accepted = [response for response in responses if response.endswith((" 200", " OK"))]
            assert not accepted or _is_metrics(cluster.laptop, host, port), (host.name, port, responses)


def _is_metrics(laptop: Host, host: Host, port: str) -> bool:
    """Return whether a port serves Prometheus's text format."""
    script = f"import urllib.request as u; print(u.urlopen('http://{host.address}:{port}/', timeout=5).read()[:200])"
    return "# HELP" in laptop.run("python", "-c", script, check=False).stdout


@pytest.mark.parametrize("token", [None, "wrong"], ids=["no token", "wrong token"])
def test_without_the_token_a_job_is_neither_submitted_nor_read(cluster: Cluster, token: str | None) -> None:
    """For a driver, a job and a log there is an error of one line with the remedy."""
    env: dict[str, Any] = {"RAY_AUTH_MODE": None, "HOME": "/run", "RAY_AUTH_TOKEN": token}
    message = "rejects the token" if token else "requires a token, and there is none"
    dashboard = ("--address", "http://127.0.0.1:8265")
    for host, arguments in (
        (cluster.laptop, ("jobs", "train", "experiments/tickets.yaml", "--address", cluster.address)),
        (cluster.head, ("cluster", "submit", *dashboard, "--", "show")),
        (cluster.head, ("cluster", "logs", *dashboard)),
    ):
        code, output, seconds = run(host, *arguments, env=env)
        assert code == 2, output
        assert message in output
        assert "~/.ray/auth_token" in output
        assert "Traceback" not in output
        print(f"{arguments[:2]} {seconds:.1f} s")
