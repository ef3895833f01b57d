"""How Ray is reached: embedded, or at an address that is asked for, never by chance."""

import subprocess
import sys
from collections.abc import Iterator

import pytest

from benchmarks.ray_head import RayHead, find_free_ports, start_ray_head
from cluster.connection import ClusterConnectionError, connect
from cluster.package import REPOSITORY

SCRIPT = """
from cluster.connection import connect
with connect():
    import ray
    from jobs.text import tokenize
    with connect():
        pass
    assert ray.is_initialized(), "an inner connect must not end the outer one"
    print("cpus", ray.cluster_resources()["CPU"], ray.get(ray.remote(tokenize).remote("a task")))
assert not ray.is_initialized()
"""


@pytest.fixture(scope="module")
def head() -> Iterator[RayHead]:
    with start_ray_head(num_cpus=3) as found:
        yield found


def run(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.ray
@pytest.mark.slow
def test_the_address_decides(head: RayHead) -> None:
    """With RAY_ADDRESS the cluster there, code sent along; without, a Ray of our own, though one is near."""
    found = run(head.environment)
    assert "cpus 3.0 ['a', 'task']" in found.stdout, found.stderr
    alone = {key: value for key, value in head.environment.items() if key != "RAY_ADDRESS"}
    found = run(alone)
    assert "['a', 'task']" in found.stdout, found.stderr
    assert "cpus 3.0" not in found.stdout


def test_an_address_where_nothing_listens_is_an_error() -> None:
    """With the address in it, at once."""
    [port] = find_free_ports(1)
    with pytest.raises(ClusterConnectionError, match=f"127.0.0.1:{port}"), connect(f"127.0.0.1:{port}"):
        pass
