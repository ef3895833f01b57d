"""A service that should ask for a key is asked whether it does."""

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.ray_head import find_free_ports
from jobs.model.checkpoint import save_checkpoint
from serving.deployment import reachability as exposure
from serving.web import api_keys as keys
from tests.serving.asgi_client import make_replica, serve_replica
from tests.support.checkpoints import checkpoint_of

KEY = "k" * 20


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "c"
    save_checkpoint(folder, checkpoint_of("rand"))
    return folder


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys in this shell, and little patience."""
    monkeypatch.setenv(keys.KEYS_VARIABLE, KEY)
    monkeypatch.delenv(keys.KEYS_FILE_VARIABLE, raising=False)
    monkeypatch.setattr(exposure, "PROBE_TIMEOUT_S", 1)


Check = Callable[..., list[str]]


@pytest.fixture
def looked(messages: list[str]) -> Check:
    """Check a service and return the messages that this logs."""

    def check(url: str, machine: str = "127.0.0.1") -> list[str]:
        messages.clear()
        exposure.require_key_protection(url, machine, "Stop it.")
        return list(messages)

    return check


def test_a_service_that_asks_for_a_key_is_passed_in_silence(saved: Path, looked: Check) -> None:
    """Also where it listens on every interface, as which nobody reaches it."""
    with serve_replica(make_replica({"checkpoint": str(saved)})) as url:
        assert looked(url + "/") == []
        assert looked(url.replace("127.0.0.1", "0.0.0.0")) == []


def test_an_open_service_is_refused_where_keys_are_set_here(
    saved: Path, monkeypatch: pytest.MonkeyPatch, looked: Check
) -> None:
    """In the environment or by a file, which need not be on this machine; without either nothing is asked."""
    monkeypatch.delenv(keys.KEYS_VARIABLE)
    with serve_replica(make_replica({"checkpoint": str(saved)})) as url:
        assert looked(url) == []
        for name, value in ((keys.KEYS_VARIABLE, KEY), (keys.KEYS_FILE_VARIABLE, "/not/here")):
            with monkeypatch.context() as patch:
                patch.setenv(name, value)
                with pytest.raises(
                    exposure.UnprotectedServiceError, match=r"asks for no key.*environment of Ray's nodes.*Stop it\."
                ):
                    looked(url)


def test_what_cannot_be_reached_from_here_is_said(saved: Path, looked: Check) -> None:
    """Nothing listens, something else does, or the address is another machine's loopback."""
    [port] = find_free_ports(1)
    [told] = looked(f"http://127.0.0.1:{port}/")
    assert "cannot be seen from here" in told
    with serve_replica(make_replica({"checkpoint": str(saved)})) as url:
        assert looked(url + "/elsewhere") == [told]
        assert looked(url, "10.0.0.1") == [told]


def test_an_address_of_ipv6_stands_in_brackets() -> None:
    """And every interface is reached as the machine is."""
    assert exposure.build_service_url("::1", 8000, "/") == "http://[::1]:8000/"
    assert (
        exposure.resolve_reachable_url(exposure.build_service_url("::", 8000, "/"), "10.0.0.1")
        == "http://10.0.0.1:8000/"
    )
    assert exposure.resolve_reachable_url(exposure.build_service_url("127.0.0.1", 8000), "10.0.0.1") is None
