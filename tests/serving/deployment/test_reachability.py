"""Checks of a service that should require a key."""

from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.machine import find_free_ports
from serving.api_keys import KEYS_FILE_VARIABLE, KEYS_VARIABLE
from serving.deployment import reachability
from serving.deployment.reachability import (
    UnprotectedServiceError,
    build_service_url,
    describe_access,
    require_key_protection,
    resolve_reachable_url,
)
from tests.support.asgi import make_replica, serve_replica

KEY = "k" * 20


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys in this shell, and a short probe."""
    monkeypatch.setenv(KEYS_VARIABLE, KEY)
    monkeypatch.delenv(KEYS_FILE_VARIABLE, raising=False)
    monkeypatch.setattr(reachability, "PROBE_TIMEOUT_S", 1)


Check = Callable[..., list[str]]


@pytest.fixture
def check(messages: list[str]) -> Check:
    """Check a service and return the messages that are logged."""

    def check_service(url: str, machine: str | None = "127.0.0.1") -> list[str]:
        messages.clear()
        require_key_protection(url, machine, "Stop it.")
        return list(messages)

    return check_service


def test_a_service_that_requires_a_key_passes_without_a_message(run_folder: Path, check: Check) -> None:
    """The service may listen on every interface, which is not an address that clients use."""
    with serve_replica(make_replica({"checkpoint": str(run_folder)})) as url:
        assert check(url + "/") == []
        assert check(url.replace("127.0.0.1", "0.0.0.0")) == []


def test_an_open_service_is_an_error_if_keys_are_configured_here(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch, check: Check
) -> None:
    """Keys are in the environment or a file, which need not be on this machine; without either nothing is checked."""
    monkeypatch.delenv(KEYS_VARIABLE)
    with serve_replica(make_replica({"checkpoint": str(run_folder)})) as url:
        assert check(url) == []
        for name, value in ((KEYS_VARIABLE, KEY), (KEYS_FILE_VARIABLE, "/not/here")):
            with monkeypatch.context() as patch:
                patch.setenv(name, value)
                with pytest.raises(
                    UnprotectedServiceError, match=r"requires no API key.*environment of Ray's nodes.*Stop it\."
                ):
                    check(url)


def test_a_service_that_cannot_be_checked_is_logged(run_folder: Path, check: Check) -> None:
    """Nothing listens, another service does, or the address is the loopback of another machine or an unknown one."""
    [port] = find_free_ports(1)
    [message] = check(f"http://127.0.0.1:{port}/")
    assert "cannot check from here" in message
    with serve_replica(make_replica({"checkpoint": str(run_folder)})) as url:
        assert check(url + "/elsewhere") == [message]
        assert check(url, "10.0.0.1") == [message]
        assert check(url, None) == [message]


def test_urls_have_ipv6_addresses_in_brackets_and_a_reachable_host() -> None:
    """A service that listens on every interface is reached at the machine's address."""
    assert build_service_url("::1", 8000, "/") == "http://[::1]:8000/"
    assert resolve_reachable_url(build_service_url("::", 8000, "/"), "10.0.0.1") == "http://10.0.0.1:8000/"
    assert resolve_reachable_url(build_service_url("127.0.0.1", 8000), "10.0.0.1") is None


def test_without_a_machine_only_an_address_of_its_own_is_reachable() -> None:
    """A service on the loopback interface, or on every one, would be looked for on this machine."""
    for host in ("127.0.0.1", "localhost", "::1", "0.0.0.0", "::"):
        assert resolve_reachable_url(build_service_url(host, 8000), None) is None
    assert resolve_reachable_url(build_service_url("10.0.0.2", 8000), None) == "http://10.0.0.2:8000"


def test_a_start_describes_who_can_reach_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    """The description names the ports that HAProxy opens on every interface."""
    monkeypatch.setenv("RAY_SERVE_HAPROXY_STATS_PORT", "1234")
    monkeypatch.setenv("RAY_SERVE_HAPROXY_METRICS_PORT", "5678")
    assert describe_access("127.0.0.1").startswith("open to this machine only, with an API key")
    assert "1234 and 5678 of every interface" in describe_access("127.0.0.1")
    monkeypatch.delenv(KEYS_VARIABLE)
    assert "everyone who can reach 0.0.0.0, without an API key" in describe_access("0.0.0.0")
