"""Connection to Ray: the cluster at an address, or an embedded Ray on this machine.

The address comes from `--address`, else from `RAY_ADDRESS`, as for Ray's own commands. Without one, an embedded Ray
starts here and ends with the command. Ray's default of attaching to any cluster on the machine is never used.
"""

import contextlib
import contextvars
import logging
import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

import ray

from cluster import UsageError, auth, first_line
from cluster.machine import is_own_address, set_variables
from cluster.package import CODE_FOLDER, build_package, is_installed
from cluster.ray_private import JOB_VARIABLE, call_node_service, set_uv_run_hook

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 10

ADDRESS_FORMATS = "HOST:6379, [IPv6]:6379, http://HOST:8265, ray://HOST:10001, or auto"

ReturnType = TypeVar("ReturnType")

AddressKind = Literal["node", "dashboard", "client", "auto"]
_KINDS_BY_SCHEME: dict[str, AddressKind] = {
    "": "node", "ray": "client", "http": "dashboard", "https": "dashboard",
}  # fmt: skip

UV_RUN_VARIABLE = "RAY_ENABLE_UV_RUN_RUNTIME_ENV"
PRESTART_VARIABLE = "RAY_prestart_worker_first_driver"

# Interval in which a slow start of an embedded Ray is logged, and the time-outs of its processes. With Ray's own, 30 to
# 60 s, it would fail on a busy machine. The raylet has 30 s, which cannot be changed.
START_NOTICE_S = 20.0
START_TIMEOUTS = {
    "RAY_gcs_server_port_wait_time_s": "300",
    "RAY_raylet_start_wait_time_s": "300",
    "RAY_agent_register_timeout_ms": "300000",
    "RAY_worker_register_timeout_seconds": "300",
}
# The watcher polls for nodes that a cloud is about to take back.
EMBEDDED_ENVIRONMENT = START_TIMEOUTS | {"RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0"}

# Ray and Ray Train read these when Ray starts or when a run starts.
RAY_ENVIRONMENT = {
    # ray.train.report() blocks until the controller polls: 2 s by default, 0.1 s with this.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",
    # Tune would print a frame around each search, even with verbose=0.
    "RAY_AIR_NEW_OUTPUT": "0",
    # Ray would report each command to its developers.
    "RAY_USAGE_STATS_ENABLED": "0",
    # Under `uv run` Ray would send the current folder, data included, to the workers, and start each with `uv run`.
    UV_RUN_VARIABLE: "0",
}


class ClusterConnectionError(UsageError):
    """The Ray cluster at the given address cannot be reached."""


class AddressError(UsageError):
    """An address of a cluster has none of the formats, or the wrong one."""


@dataclass(frozen=True)
class ClusterAddress:
    """A parsed address.

    text: as Ray takes it. kind: `node` for HOST:PORT of the head, which only drivers on its nodes can use; `dashboard`
    for http:// and https://, which accept jobs and services; `client` for ray://; `auto` for any cluster of this
    machine. host: without the brackets of an IPv6 address. port: None in a URL of a dashboard without one.
    """

    text: str
    kind: AddressKind
    host: str = ""
    port: int | None = None


def parse_address(text: str) -> ClusterAddress:
    """Return the parts of an address.

    Raises:
        AddressError: it has none of the formats.
    """
    text = text.strip().rstrip("/")
    if text == "auto":
        return ClusterAddress(text, "auto")
    scheme, mark, rest = text.rpartition("://")
    kind = _KINDS_BY_SCHEME.get(scheme)
    if kind is None or (mark and not scheme):
        raise AddressError(
            f"'{text}' is not the address of a Ray cluster: '{scheme}://' is unknown; write {ADDRESS_FORMATS}"
        )
    try:
        parts = urlsplit(f"//{rest}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise AddressError(f"'{text}' is not the address of a Ray cluster: {error}; write {ADDRESS_FORMATS}") from error
    if not host:
        raise AddressError(f"'{text}' is not the address of a Ray cluster: it has no host; write {ADDRESS_FORMATS}")
    if port is None and kind != "dashboard":
        raise AddressError(f"'{text}' is not the address of a Ray cluster: it has no port; write {ADDRESS_FORMATS}")
    return ClusterAddress(text, kind, host, port)


def resolve_address(address: str | None = None) -> str | None:
    """Return the address of the cluster to use, or None for an embedded Ray, which Ray itself calls `local`."""
    address = (address or os.environ.get("RAY_ADDRESS") or "").strip()
    return None if address in ("", "local") else address


def is_connected() -> bool:
    """Return whether this process is connected to Ray, by `connect` or by a user's own `ray.init`."""
    return ray.is_initialized()


@contextlib.contextmanager
def connect(
    address: str | None = None,
    *,
    num_cpus: int | None = None,
    quiet: bool = True,
    dashboard: bool = False,
    prestart_workers: bool = False,
) -> Iterator[None]:
    """Context manager: this process is connected to Ray. Inside another connection it does nothing.

    Args:
        address: a running cluster's address; by default `RAY_ADDRESS`, else an embedded Ray starts.
        num_cpus: logical CPUs of the embedded Ray; by default those of the machine.
        quiet: do not print the workers' output (Ray's session folder has it).
        dashboard: start the dashboard of an embedded Ray, and with it the REST APIs of jobs and Serve.
        prestart_workers: an embedded Ray starts a worker process per CPU at once. Only tasks and actors without
            environment variables of their own use them; those of Ray Train and Ray Tune have some.

    Raises:
        ClusterConnectionError: no cluster responds at the address.
        AddressError: the address has an unknown format.
        TokenError: the cluster rejects the token.
    """
    set_ray_environment()
    address = resolve_address(address)
    parsed = parse_address(address) if address else None
    token = auth.enable_token_auth() if address else None
    if ray.is_initialized():
        yield
        return
    if parsed is not None:
        _check_address(parsed, token)
    elif os.environ.get(auth.AUTH_MODE_VARIABLE, "token").lower() == "token":
        auth.ensure_token()  # Ray would write a file that all can read
    logger.info(f"connecting to the Ray cluster at {address}" if address else "starting Ray on this machine")
    logs: dict[str, Any] = {"log_to_driver": not quiet, "logging_level": logging.ERROR if quiet else logging.INFO}
    prestart = {} if parsed else {PRESTART_VARIABLE: "1" if prestart_workers else "0"}
    with set_variables(prestart, {} if parsed else EMBEDDED_ENVIRONMENT):
        with _prepare_driver(parsed) if parsed else _prepare_embedded(dashboard, num_cpus) as options:
            try:
                ray.init(configure_logging=True, **logs, **options)
            except Exception as error:  # also bare ones, for example if a busy machine does not start it in time
                target = f"the Ray cluster at {address}" if address else "an embedded Ray"
                raise ClusterConnectionError(f"cannot reach {target}: {first_line(error)}") from error
        try:
            yield
        finally:
            ray.shutdown()


@contextlib.contextmanager
def _prepare_driver(address: ClusterAddress) -> Iterator[dict[str, Any]]:
    """Context manager: yield the arguments of `ray.init` that connect to a cluster."""
    options: dict[str, Any] = {"address": address.text}
    if JOB_VARIABLE in os.environ:  # a job's working directory has the code; any other driver sends it
        yield options
        return
    package = build_package()
    try:
        yield options | {"runtime_env": {"working_dir": str(package.path)}}
    finally:
        shutil.rmtree(package.path.parent, ignore_errors=True)


@contextlib.contextmanager
def _prepare_embedded(dashboard: bool, num_cpus: int | None) -> Iterator[dict[str, Any]]:
    """Context manager: yield the arguments of `ray.init` that start an embedded Ray; arguments as of `connect`."""
    # Workers import a checkout's code wherever the command was started. They inherit the variable; with a runtime
    # environment Ray could not use worker processes that it started in advance.
    path = {} if is_installed() else {"PYTHONPATH": _python_path()}
    with _log_slow_start(), set_variables(path):
        yield {"address": "local", "include_dashboard": dashboard, "num_cpus": num_cpus}


@contextlib.contextmanager
def _log_slow_start() -> Iterator[None]:
    """Context manager: log every `START_NOTICE_S` that Ray has not started yet."""
    done = threading.Event()

    def log() -> None:
        start = time.monotonic()
        while not done.wait(START_NOTICE_S):
            logger.info(f"Ray is still starting after {time.monotonic() - start:.0f} s; the machine is busy")

    threading.Thread(target=log, daemon=True).start()
    try:
        yield
    finally:
        done.set()


def call_in_background(function: Callable[[], ReturnType]) -> "Future[ReturnType]":
    """Start a function in a thread, and return the future of its result.

    So work is done while Ray starts, which is mostly the start of other processes. `ray.init` itself stays in the main
    thread: Ray's processes end with the thread that started them. Ctrl-C does not wait for this thread.
    """
    future: Future[ReturnType] = Future()
    context = contextvars.copy_context()  # what the command reports, and whether it shows bars

    def run() -> None:
        try:
            future.set_result(context.run(function))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def set_ray_environment() -> None:
    """Set the variables of `RAY_ENVIRONMENT` that are not set."""
    for key, value in RAY_ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    # Ray read this one when it was imported.
    set_uv_run_hook(os.environ[UV_RUN_VARIABLE].lower() in ("1", "true"))


@contextlib.contextmanager
def preserve_sigint_handler() -> Iterator[Callable[[], bool]]:
    """Context manager: Ctrl-C raises KeyboardInterrupt during a fit() of Ray Train or Ray Tune, and afterwards.

    Both install signal handlers of their own and leave them installed. Train's handler calls `sys.exit(0)`, as if the
    run had succeeded. Tune's handler reinstalls the previous one; the yielded function returns whether it did, so
    whether Ctrl-C interrupted Tune's fit().
    """
    is_main_thread = threading.current_thread() is threading.main_thread()
    previous = signal.getsignal(signal.SIGINT)
    try:
        yield lambda: signal.getsignal(signal.SIGINT) == previous
    except SystemExit as error:
        raise KeyboardInterrupt from error
    finally:
        if is_main_thread:
            signal.signal(signal.SIGINT, previous)


def _check_address(address: ClusterAddress, token: str | None) -> None:
    """Raise if no cluster for drivers is at the address, or if it rejects the token; Ray would retry for minutes."""
    if address.kind == "auto":
        return
    if address.kind == "dashboard":
        raise ClusterConnectionError(
            f"{address.text} is the address of a dashboard, which runs jobs; to run this command as a job: "
            f"finetune-cnn submit --address {address.text} -- ...; on a node of the cluster, use HOST:6379 of its head"
        )
    try:
        socket.create_connection((address.host, address.port), timeout=CONNECT_TIMEOUT_S).close()
    except OSError as error:
        raise ClusterConnectionError(f"cannot reach the Ray cluster at {address.text}: {error}") from error
    if address.kind == "client":
        return
    auth.verify_token(address.text, token)
    if _is_outside(address.text, token):
        raise ClusterConnectionError(
            f"this machine is not a node of the Ray cluster at {address.text}, and only its nodes can attach to it; "
            "from other machines: finetune-cnn submit --address http://HOST:8265 -- ..."
        )


def _is_outside(address: str, token: str | None) -> bool:
    """Return whether no node of the cluster has an address of this machine; Ray would search for a minute."""
    import grpc

    try:
        response = call_node_service("GetAllNodeInfo", address, token, CONNECT_TIMEOUT_S)
    except grpc.RpcError:
        return False  # Ray's own error is more precise
    hosts = [node.node_manager_address for node in response.node_info_list]
    # A head that has just started lists no node yet; Ray waits for it.
    return bool(hosts) and not any(map(is_own_address, hosts))


def _python_path() -> str:
    inherited = os.environ.get("PYTHONPATH")
    return os.pathsep.join([str(CODE_FOLDER), *([inherited] if inherited else [])])
