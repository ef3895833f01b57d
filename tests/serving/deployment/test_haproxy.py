"""HAProxy's environment variables, and the command that prints them."""

import json
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from threading import Event, Semaphore, Thread

import pytest
import yaml

from cluster.machine import find_free_ports
from cluster.package import REPOSITORY
from serving.__main__ import main
from serving.deployment.haproxy import MAX_REQUESTS_PER_REPLICA, ProxyLimits, build_environment
from serving.web.body import TIMEOUT_S
from tests.support.haproxy import render_configuration, run_haproxy, validate_configuration


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="h", dir="/tmp") as parent:
        yield Path(parent, "x")


def test_a_shell_can_evaluate_the_output(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Values may have several lines; only the owner can access the folder."""
    assert main(["switches", "--folder", str(folder)]) == 0
    names = [f"RAY_SERVE_HAPROXY_{name}" for name in ("RETRY_ON", "BALANCE_ALGORITHM", "SOCKET_PATH")]
    script = 'eval "$(cat)"; printf %s ' + " ".join(f'"${name}"' for name in names)
    values = subprocess.run(
        ["sh", "-c", script], input=capsys.readouterr().out, capture_output=True, text=True, check=True, timeout=60
    ).stdout
    expected = build_environment(folder)
    assert values == "".join(expected[name] for name in names)
    assert values.endswith(str(folder / "admin.sock"))
    assert folder.stat().st_mode & 0o77 == 0
    folder.chmod(0o755)
    assert main(["switches", "--folder", str(folder)]) == 2
    assert str(folder) in capsys.readouterr().err


def test_a_file_or_a_link_is_refused_as_folder(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A link is refused even if its target is a good folder: its owner could change the target."""
    target = folder.with_name("y")
    folder.symlink_to(target)
    for _ in range(2):  # without a target, then with a good folder as target
        assert main(["switches", "--folder", str(folder)]) == 2
        output = capsys.readouterr()
        assert str(folder) in output.err
        assert "symbolic link" in output.err
        assert not output.out
        target.mkdir(mode=0o700, exist_ok=True)
    folder.unlink()
    folder.touch(0o600)
    assert main(["switches", "--folder", str(folder)]) == 2
    assert str(folder) in capsys.readouterr().err


def test_a_folder_whose_path_is_too_long_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """HAProxy would fail to start."""
    assert main(["switches", "--folder", "/tmp/" + "x" * 30]) == 2
    assert "too long" in capsys.readouterr().err


def test_a_folder_that_haproxy_would_misread_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Ray writes its path without quotes into HAProxy's configuration."""
    assert main(["switches", "--folder", f"{folder} y"]) == 2
    assert "unquoted" in capsys.readouterr().err
    assert not Path(f"{folder} y").exists()


def test_haproxy_has_the_limits_of_the_service_configuration() -> None:
    """With lower limits HAProxy would reject too early; with higher ones Ray would, which costs the replica time."""
    configuration = yaml.safe_load((REPOSITORY / "serving" / "service.yaml").read_text())
    deployment = configuration["applications"][0]["deployments"][0]
    assert deployment["max_ongoing_requests"] + deployment["max_queued_requests"] == MAX_REQUESTS_PER_REPLICA


def test_replicas_are_not_added_for_load_that_is_already_over() -> None:
    """The delays are not shorter than the period over which the load is averaged."""
    configuration = yaml.safe_load((REPOSITORY / "serving" / "service.yaml").read_text())
    scaling = configuration["applications"][0]["deployments"][0]["autoscaling_config"]
    assert scaling["look_back_period_s"] <= min(scaling["upscale_delay_s"], scaling["downscale_delay_s"])


def test_the_limits_of_haproxy_are_options(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Their defaults depend on the machine and on service.yaml."""
    options = ["--requests-per-replica", "77", "--max-connections", "999", "--threads", "5", "--hard-stop-s", "13"]
    assert main(["switches", "--folder", str(folder), *options]) == 0
    output = capsys.readouterr().out
    for line in ("NBTHREAD=5", "MAXCONN=999", "HARD_STOP_AFTER_S=13", "default-server maxconn 77"):
        assert line in output
    with pytest.raises(SystemExit):
        main(["switches", "--threads", "0"])
    assert "access-control" not in output
    assert main(["switches", "--folder", str(folder), "--cross-origin"]) == 0
    assert "hdr access-control-allow-origin *" in capsys.readouterr().out
    defaults = build_environment(folder)
    assert int(defaults["RAY_SERVE_HAPROXY_NBTHREAD"]) >= 2
    assert f"default-server maxconn {MAX_REQUESTS_PER_REPLICA}" in defaults["RAY_SERVE_HAPROXY_BALANCE_ALGORITHM"]


def test_a_request_arrives_before_a_replaced_haproxy_ends() -> None:
    """Its end would cut the request off, although the client is within the limit."""
    for seconds in (3, 12, 120):
        assert 0 < ProxyLimits(hard_stop_s=seconds).request_timeout_s <= min(seconds - 2, TIMEOUT_S)


@dataclass
class Proxy:
    """HAProxy's configuration as Ray writes it, with a limit of one request per replica and a second per request.

    without_lines: the same without our lines; port: of the service; replicas: their ports.
    """

    path: Path
    without_lines: Path
    port: int
    replicas: list[int]


@pytest.fixture(scope="module")
def proxy() -> Iterator[Proxy]:
    port, stats, metrics, *replicas = find_free_ports(5)
    with tempfile.TemporaryDirectory(prefix="h", dir="/tmp") as name:
        folder = Path(name)
        limits = ProxyLimits(requests_per_replica=1, hard_stop_s=3, cross_origin=True)
        render_configuration(folder, build_environment(folder, stats, metrics, limits=limits), port, replicas)
        yield Proxy(folder / "haproxy.cfg", folder / "without-lines.cfg", port, replicas)


class Replica(BaseHTTPRequestHandler):
    """Replica that passes Ray's health check; the server's `answer` returns whether it responds to a request."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._respond()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        if self.server.answer():  # type: ignore[attr-defined]
            self._respond()
        else:
            self.close_connection = True

    def _respond(self) -> None:
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *values: object) -> None:
        pass


@contextmanager
def run_replicas(proxy: Proxy, *answers: Callable[[], bool]) -> Iterator[None]:
    """Context manager: HAProxy with replicas."""
    with ExitStack() as stack:
        for port, answer in zip(proxy.replicas, answers, strict=True):
            server = stack.enter_context(ThreadingHTTPServer(("127.0.0.1", port), Replica))
            server.answer = answer  # type: ignore[attr-defined]
            thread = Thread(target=server.serve_forever, args=(0.05,))
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown)
        stack.enter_context(run_haproxy(proxy.path, proxy.port))
        yield


def connect(port: int) -> socket.socket:
    """Return a connection on which the headers of a request with two bytes have been sent."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=30)
    connection.sendall(b"POST /predict HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 2\r\n\r\n")
    return connection


def receive(connection: socket.socket) -> bytes:
    """Return all bytes until the connection is closed."""
    return b"".join(iter(lambda: connection.recv(1 << 16), b""))


def test_haproxy_accepts_the_configuration_of_ray(proxy: Proxy) -> None:
    """Ray writes the lines where they have their effect: after its own lines about the same, and once."""
    assert "Configuration file is valid" in validate_configuration(proxy.path)
    text = proxy.path.read_text()
    defaults = text[text.index("\ndefaults\n") : text.index("\nfrontend ")]
    for line in ("http-request 1s", "queue 200ms", "client 60s", "connect 5s", "http-keep-alive 90s"):
        assert defaults.count(f"\n    timeout {line}\n") == 1
        assert text.count(f"timeout {line.split()[0]}") == 1
    assert defaults.index("errorfile 503") < defaults.index("http-error status 503")
    for line in ("balance roundrobin", "retry-on conn-failure empty-response junk-response", "retries 20",
                 "option http-buffer-request", "default-server maxconn 1"):  # fmt: skip
        assert f"\n    {line}\n" in defaults
    assert "hard-stop-after 3s" in text
    assert "default-server maxconn" not in text.replace(defaults, "")


def test_ray_has_no_setting_for_the_lines_yet(proxy: Proxy) -> None:
    """When this fails, Ray writes such a line itself, or can: remove ours."""
    text = proxy.without_lines.read_text()
    for word in ("http-buffer-request", "timeout http-request", "timeout queue", "maxconn 1", "http-error"):
        assert word not in text
        assert word in proxy.path.read_text()
    for word in ("BUFFER_REQUEST", "TIMEOUT_HTTP_REQUEST", "TIMEOUT_QUEUE", "SERVER_MAXCONN", "ERROR_FILE"):
        assert word not in read_constants()


def test_haproxy_ends_slow_requests_and_rejects_those_beyond_the_limit(proxy: Proxy) -> None:
    """A rejection is a 503 with Retry-After and a reason in JSON, soon after the request has arrived."""
    running, ended = Semaphore(0), Event()

    def answer() -> bool:
        running.release()
        return ended.wait(30)

    with run_replicas(proxy, answer, answer), ExitStack() as stack:
        slow, *others = [stack.enter_context(connect(proxy.port)) for _ in range(4)]
        for connection in others[:2]:
            connection.sendall(b"{}")
            assert running.acquire(timeout=30)
        others[2].sendall(b"{}")
        others[2].settimeout(3)  # without a time-out of its own, requests wait in the queue for 5 s
        rejection = receive(others[2])
        assert rejection.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nretry-after: 1\r\n" in rejection
        assert b"\r\naccess-control-allow-origin: *\r\n" in rejection
        assert set(json.loads(rejection.partition(b"\r\n\r\n")[2])) == {"error"}
        assert receive(slow).startswith(b"HTTP/1.1 408 ")
        ended.set()
        for connection in others[:2]:
            assert receive(connection).startswith(b"HTTP/1.1 200 ")


def test_haproxy_sends_the_request_of_a_dead_replica_to_another(proxy: Proxy) -> None:
    """Also a request whose body arrives after its headers."""
    failures = []

    def fail() -> bool:
        failures.append(1)
        return False

    with run_replicas(proxy, fail, lambda: True):
        for _ in range(6):
            with connect(proxy.port) as connection:
                time.sleep(0.02)  # the headers are read on their own
                connection.sendall(b"{}")
                assert receive(connection).startswith(b"HTTP/1.1 200 ")
    assert len(failures) >= 3


def read_constants() -> str:
    """Return the source in which Ray Serve reads its environment."""
    package = find_spec("ray")
    assert package is not None
    assert package.origin is not None
    return Path(package.origin).with_name("serve").joinpath("_private", "constants.py").read_text()


def test_ray_reads_every_variable() -> None:
    """A renamed variable would have no effect."""
    text = read_constants()
    for name in build_environment(Path("/tmp/x")):
        assert f'"{name}"' in text, name


def test_replicas_listen_on_the_ports_that_the_security_guide_names() -> None:
    """Replicas are reachable at these ports without HAProxy."""
    import ray.serve._private.constants as constants

    first, last = (getattr(constants, f"RAY_SERVE_DIRECT_INGRESS_{end}_HTTP_PORT") for end in ("MIN", "MAX"))
    page = " ".join((REPOSITORY / "docs" / "guides" / "security.md").read_text().split())
    assert f"on a port of its own from {first} to {last}" in page
