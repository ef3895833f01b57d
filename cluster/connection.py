"""Connection to Ray: the cluster at an address, or an embedded Ray on this machine.

The address comes from `--address`, else from `RAY_ADDRESS`, as for Ray's own commands. Without one, an embedded Ray
starts here and ends with the command. Ray's default of attaching to any cluster on the machine is never used.
"""

import contextlib
import logging
import os
import shutil
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import ray

from cluster import UsageError, auth, first_line
from cluster.package import CODE_FOLDER, build_package, is_installed

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 10

# Ray and Ray Train read these when Ray starts or when a run starts.
RAY_ENVIRONMENT = {
    # ray.train.report() blocks until the controller polls: 2 s by default, 0.1 s with this.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",
    # Tune would print a frame around each search, even with verbose=0.
    "RAY_AIR_NEW_OUTPUT": "0",
    # Ray would report each command to its developers.
    "RAY_USAGE_STATS_ENABLED": "0",
}


class ClusterConnectionError(UsageError):
    """The Ray cluster at the given address cannot be reached."""


def resolve_address(address: str | None = None) -> str | None:
    """Return the address of the cluster to use, or None for an embedded Ray."""
    return address or os.environ.get("RAY_ADDRESS") or None


@contextlib.contextmanager
def connect(
    address: str | None = None, *, num_cpus: int | None = None, quiet: bool = True, dashboard: bool = False
) -> Iterator[None]:
    """Context manager: this process is connected to Ray. Inside another connection it does nothing.

    Args:
        address: a running cluster's address; by default `RAY_ADDRESS`, else an embedded Ray starts.
        num_cpus: logical CPUs of the embedded Ray; by default those of the machine.
        quiet: do not print the workers' output (Ray's session folder has it).
        dashboard: start the dashboard of an embedded Ray, and with it the REST APIs of jobs and Serve.

    Raises:
        ClusterConnectionError: no cluster responds at the address.
        TokenError: the cluster rejects the token.
    """
    for key, value in RAY_ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    address = resolve_address(address)
    token = auth.enable_token_auth() if address else None
    if ray.is_initialized():
        yield
        return
    package = None
    options: dict[str, Any] = {
        "log_to_driver": not quiet,
        "logging_level": logging.ERROR if quiet else logging.INFO,
        "configure_logging": True,
    }
    if address is None:
        if os.environ.get(auth.AUTH_MODE_VARIABLE, "token").lower() == "token":
            auth.ensure_token()  # Ray would write a file that all can read
        # The watcher polls for nodes that a cloud is about to take back.
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
        options |= {"address": "local", "include_dashboard": dashboard, "num_cpus": num_cpus}
        if not is_installed():
            # Workers of an embedded Ray import a checkout's code wherever the command was started. They inherit the
            # variable; with a runtime environment Ray could not use the worker processes that it started in advance.
            os.environ["PYTHONPATH"] = _python_path()
    else:
        _check_address(address, token)
        options["address"] = address
        # A job's working directory has the code; any other driver sends it.
        if "RAY_JOB_CONFIG_JSON_ENV_VAR" not in os.environ:
            package = build_package()
            options["runtime_env"] = {"working_dir": str(package.path)}
    logger.info(f"connecting to the Ray cluster at {address}" if address else "starting Ray on this machine")
    try:
        ray.init(**options)
    except Exception as error:  # Ray raises bare ones too, for example if a busy machine does not start it in time
        target = f"the Ray cluster at {address}" if address else "an embedded Ray"
        raise ClusterConnectionError(f"cannot reach {target}: {first_line(error)}") from error
    finally:
        if package is not None:
            shutil.rmtree(package.path.parent, ignore_errors=True)
    try:
        yield
    finally:
        ray.shutdown()


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


def _check_address(address: str, token: str | None) -> None:
    """Raise if nothing listens at HOST:PORT, or if the token is rejected; Ray would retry for minutes."""
    if "://" in address or ":" not in address:
        return  # Ray itself checks ray://, http:// and auto
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT_S).close()
    except (OSError, ValueError) as error:
        raise ClusterConnectionError(f"cannot reach the Ray cluster at {address}: {error}") from error
    auth.verify_token(address, token)
    if _is_outside(address, token):
        raise ClusterConnectionError(
            f"this machine is not a node of the Ray cluster at {address}, and only its nodes can attach to it; "
            "from other machines: finetune-cnn submit --address http://HOST:8265 -- ..."
        )


def _is_outside(address: str, token: str | None) -> bool:
    """Return whether no node of the cluster has an address of this machine; Ray would search for a minute."""
    import grpc

    try:
        response = auth.call_node_service("GetAllNodeInfo", address, token, CONNECT_TIMEOUT_S)
    except grpc.RpcError:
        return False  # Ray's own error is more precise
    hosts = [node.node_manager_address for node in response.node_info_list]
    # A head that has just started lists no node yet; Ray waits for it.
    return bool(hosts) and not any(map(_is_local, hosts))


def _is_local(host: str) -> bool:
    try:
        socket.create_server((host, 0)).close()
    except OSError:
        return False
    return True


def _python_path() -> str:
    inherited = os.environ.get("PYTHONPATH")
    return os.pathsep.join([str(CODE_FOLDER), *([inherited] if inherited else [])])
