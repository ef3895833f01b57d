"""Connection to Ray: embedded, or at an explicit address; and Ctrl-C while Ray's signal handlers are installed."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import ray
from ray._private import ray_constants
from ray.exceptions import RuntimeEnvSetupError

from benchmarks.ray_head import RayHead
from cluster import UsageError, connection, first_line, to_single_line
from cluster.connection import (
    EMBEDDED_ENVIRONMENT,
    PRESTART_VARIABLE,
    START_TIMEOUTS,
    UV_RUN_VARIABLE,
    AddressError,
    ClusterConnectionError,
    call_in_background,
    connect,
    parse_address,
    preserve_sigint_handler,
    resolve_address,
    set_ray_environment,
)
from cluster.console.output import collect_result, collects_result
from cluster.machine import find_free_ports, is_own_address
from cluster.package import CODE_FOLDER, REPOSITORY
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


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("head:6379", ("head:6379", "node", "head", 6379)),
        (" [fe80::1]:6379 ", ("[fe80::1]:6379", "node", "fe80::1", 6379)),
        ("http://10.0.0.1:8265/", ("http://10.0.0.1:8265", "dashboard", "10.0.0.1", 8265)),
        ("https://[::1]", ("https://[::1]", "dashboard", "::1", None)),
        ("ray://head:10001", ("ray://head:10001", "client", "head", 10001)),
        ("auto", ("auto", "auto", "", None)),
    ],
)
def test_an_address_has_a_kind_a_host_and_a_port(text: str, expected: tuple[object, ...]) -> None:
    """The host of an IPv6 address has no brackets; blanks and a slash at the end are dropped."""
    address = parse_address(text)
    assert (address.text, address.kind, address.host, address.port) == expected


@pytest.mark.parametrize("text", ["head", ":6379", "::1:6379", "head:port", "grpc://head:1", "://head:1", "ray://head"])
def test_an_address_of_an_unknown_format_is_an_error_that_lists_the_formats(text: str) -> None:
    """It is raised before any connection."""
    with pytest.raises(AddressError, match=r"is not the address .*; write HOST:6379, \[IPv6\]:6379, http://"):
        parse_address(text)
    with pytest.raises(AddressError), connect(text):
        pass


def test_an_http_address_is_an_error_that_names_submit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dashboard runs jobs. Ray's own message would end at "either:"."""
    monkeypatch.setenv("RAY_ADDRESS", "http://10.0.0.1:8265")
    message = (
        r"http://10.0.0.1:8265 is the address of a dashboard.*finetune-cnn submit --address http://10.0.0.1:8265 --"
    )
    with pytest.raises(ClusterConnectionError, match=message), connect():
        pass


def test_an_ipv6_address_without_a_listener_is_an_error() -> None:
    """The address is parsed, so the error is that of the connection."""
    message = r"the Ray cluster at \[::1\]:9: .*(refused|assign|unreachable)"
    with pytest.raises(ClusterConnectionError, match=message), connect("[::1]:9"):
        pass
    if socket.has_ipv6:
        assert not is_own_address("2001:db8::1")


@pytest.mark.parametrize(("value", "expected"), [("", None), ("local", None), (" ", None), ("head:1 ", "head:1")])
def test_without_an_address_ray_is_embedded(value: str, expected: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """So it is with `local`, as for Ray's own commands."""
    monkeypatch.setenv("RAY_ADDRESS", value)
    assert resolve_address() == expected


# A process with the command line of `uv run`: Ray searches the parents of a driver for one.
UV_RUN = "import subprocess, sys; sys.exit(subprocess.run(sys.argv[1:]).returncode)"


def run_under_uv(folder: Path, script: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a folder below a process that looks like `uv run`."""
    (folder / "run").write_text(UV_RUN)
    return subprocess.run(
        ["uv", "run", sys.executable, "-c", script],
        executable=sys.executable,
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(REPOSITORY), "HOME": str(folder), "RAY_TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


UV_SCRIPT = """
from ray._private.worker import _maybe_modify_runtime_env as modify
from cluster.connection import set_ray_environment
print("before", modify({}, False).get("working_dir"))
set_ray_environment()
print("after", modify({}, False))
"""


def test_under_uv_run_the_current_folder_is_not_sent(tmp_path: Path) -> None:
    """Ray would send it, with all data in it, also for an embedded Ray."""
    result = run_under_uv(tmp_path, UV_SCRIPT)
    assert result.stdout == f"before {tmp_path}\nafter {{}}\n", result.stderr


def test_the_user_can_let_ray_use_uv(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that is set is not changed."""
    monkeypatch.setattr(ray_constants, "RAY_ENABLE_UV_RUN_RUNTIME_ENV", True)
    monkeypatch.setenv(UV_RUN_VARIABLE, "1")
    set_ray_environment()
    assert ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV
    monkeypatch.delenv(UV_RUN_VARIABLE)
    set_ray_environment()
    assert not ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("\n first \nsecond"), "first"),
        (ValueError("To fix this, either:\n - unset it"), "To fix this, either: - unset it"),
        (ValueError(""), "ValueError"),
        (
            RuntimeEnvSetupError("Could not create the actor.\nTraceback:\n  x\nERROR: No matching distribution for a"),
            "Failed to set up runtime environment: ERROR: No matching distribution for a",
        ),
    ],
)
def test_an_error_in_one_line_has_its_reason(error: Exception, expected: str) -> None:
    """A line that only announces the reason is completed by it."""
    assert first_line(error) == expected


def test_a_long_error_on_one_line_keeps_its_end() -> None:
    """Ray's messages end with the reason, after a traceback."""
    message = "runtime_env setup failed:\n" + 300 * "  File x\n" + "ERROR: No matching distribution found for a==1"
    line = to_single_line(message)
    assert line.startswith("runtime_env setup failed: File x")
    assert line.endswith("ERROR: No matching distribution found for a==1")
    assert len(line) < 520
    assert to_single_line("a\n b") == "a b"


@pytest.mark.parametrize(("prestart", "value"), [(False, "0"), (True, "1")])
def test_a_slow_start_is_logged_and_waited_for(
    prestart: bool, value: str, monkeypatch: pytest.MonkeyPatch, messages: list[str]
) -> None:
    """Ray's processes have longer time-outs than by default, and start workers in advance only on request."""
    environment: dict[str, str] = {}
    threads = set(threading.enumerate())

    def start(**options: object) -> None:
        environment.update(os.environ)
        while not any("still starting" in line for line in messages):
            time.sleep(0.01)

    monkeypatch.setattr(ray, "init", start)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(connection, "START_NOTICE_S", 0.01)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    for name in ("PYTHONPATH", PRESTART_VARIABLE, *EMBEDDED_ENVIRONMENT):  # the connection sets them
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    with connect(prestart_workers=prestart):
        assert re.search(r"^Ray is still starting after 0 s; the machine is busy$", "\n".join(messages), re.MULTILINE)
        assert "PYTHONPATH" not in os.environ  # another connection would add another copy
    assert environment.get("PYTHONPATH", str(CODE_FOLDER)) == str(CODE_FOLDER)
    assert environment[PRESTART_VARIABLE] == value
    assert environment.items() >= EMBEDDED_ENVIRONMENT.items()
    assert not os.environ.keys() & {PRESTART_VARIABLE, *EMBEDDED_ENVIRONMENT}  # a Ray of the program has its own
    for thread in set(threading.enumerate()) - threads:
        thread.join(timeout=10)
        assert not thread.is_alive()  # nothing is logged once Ray has started


def test_the_raylet_knows_the_variables_of_the_start() -> None:
    """Ray documents none of them."""
    raylet = Path(ray.__file__).parent / "core" / "src" / "ray" / "raylet" / "raylet"
    names = {PRESTART_VARIABLE, *START_TIMEOUTS} - {"RAY_gcs_server_port_wait_time_s"}  # Ray's Python code reads it
    content = raylet.read_bytes()
    assert [name for name in names if name.encode() not in content] == []
    assert "RAY_gcs_server_port_wait_time_s" in Path(ray.__file__).with_name("_private").joinpath("node.py").read_text()


def test_a_call_in_the_background_returns_or_raises() -> None:
    """It runs at once, in a thread that does not keep the process from ending."""
    threads: list[threading.Thread] = []

    def fail() -> None:
        threads.append(threading.current_thread())
        raise UsageError("no such file")

    assert call_in_background(lambda: 3).result(timeout=10) == 3
    with collect_result():
        assert call_in_background(collects_result).result(timeout=10)
    with pytest.raises(UsageError, match="no such file"):
        call_in_background(fail).result(timeout=10)
    assert threads[0].daemon


def test_an_error_of_the_start_has_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """For example, of a runtime environment."""

    def fail(**options: object) -> None:
        raise RuntimeEnvSetupError("Traceback:\n  x\nOSError: the disk is full")

    monkeypatch.setattr(ray, "init", fail)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("PYTHONPATH", "")  # the connection changes it
    message = r"embedded Ray: Failed to set .*: OSError: the disk is full$"
    with pytest.raises(ClusterConnectionError, match=message), connect():
        pass
