"""Connection to Ray: embedded, or at an explicit address; and Ctrl-C while Ray's signal handlers are installed."""

import signal
import sys

import pytest

from benchmarks.ray_head import RayHead, find_free_ports
from cluster.connection import ClusterConnectionError, connect, preserve_sigint_handler
from tests.support.commands import run_command

SCRIPT = """
from cluster.connection import connect
with connect():
    import ray
    from jobs.datasets.tokenizer import tokenize
    with connect():
        pass
    assert ray.is_initialized(), "an inner connect must not end the outer one"
    print(ray.get_runtime_context().gcs_address, ray.get(ray.remote(tokenize).remote("a task")))
assert not ray.is_initialized()
"""


@pytest.mark.ray
@pytest.mark.slow
def test_the_address_selects_the_cluster(ray_head: RayHead) -> None:
    """RAY_ADDRESS is used, and the code is sent; without it an embedded Ray starts, even if another Ray runs."""
    port = ray_head.address.rpartition(":")[2]
    result = run_command("python", "-c", SCRIPT, env=ray_head.environment)
    assert f":{port} ['a', 'task']" in result.stdout, result.stderr
    environment = {key: value for key, value in ray_head.environment.items() if key != "RAY_ADDRESS"}
    result = run_command("python", "-c", SCRIPT, env=environment)
    assert "['a', 'task']" in result.stdout, result.stderr
    assert f":{port} " not in result.stdout


def test_an_address_without_a_listener_is_an_error() -> None:
    """The error contains the address and is raised without a wait."""
    [port] = find_free_ports(1)
    with pytest.raises(ClusterConnectionError, match=f"127.0.0.1:{port}"), connect(f"127.0.0.1:{port}"):
        pass


def test_an_exit_in_a_signal_handler_is_an_interruption() -> None:
    """Afterwards the previous handler is installed again."""
    previous = signal.getsignal(signal.SIGINT)

    def fit() -> None:
        with preserve_sigint_handler():
            signal.signal(signal.SIGINT, lambda *_: sys.exit(0))
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        fit()
    assert signal.getsignal(signal.SIGINT) == previous


def test_a_handler_that_reinstalls_the_previous_one_is_detected() -> None:
    """Ray Tune's handler does this on Ctrl-C; its fit() then returns."""
    previous = signal.getsignal(signal.SIGINT)
    with preserve_sigint_handler() as interrupted:
        signal.signal(signal.SIGINT, lambda *_: signal.signal(signal.SIGINT, previous))
        assert not interrupted()
        signal.raise_signal(signal.SIGINT)
        assert interrupted()


def test_a_return_and_other_errors_are_unchanged() -> None:
    """Only SystemExit becomes an interruption."""
    with preserve_sigint_handler():
        pass
    with pytest.raises(ValueError, match="mine"), preserve_sigint_handler():
        raise ValueError("mine")
