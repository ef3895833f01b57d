"""One way to reach Ray: the cluster at an address, or an embedded one on this machine.

The address is given as Ray's own commands take it: `--address`, else `RAY_ADDRESS`; without
either, a Ray of our own starts here and ends with the command. Ray's habit of attaching to
whatever cluster it finds on the machine is never used.
"""

import contextlib
import logging
import os
import shutil
import socket
from collections.abc import Iterator

from cluster import UsageError, first_line
from cluster import auth as token
from cluster.package import REPOSITORY, build_package

CONNECT_TIMEOUT_S = 10

# Read by Ray when it is imported or when a run starts, so they are set before either.
RAY_ENVIRONMENT = {
    # ray.train.report() blocks until the controller polls: 2 s by default, 0.1 s with this.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",
    # Tune would print a frame around each search even when told to be quiet.
    "RAY_AIR_NEW_OUTPUT": "0",
    # Ray would report each command to its makers.
    "RAY_USAGE_STATS_ENABLED": "0",
}


class ClusterConnectionError(UsageError):
    """The Ray cluster at the given address could not be reached."""


def resolve_address(address: str | None = None) -> str | None:
    """Return the address of the cluster to use, or None for an embedded Ray."""
    return address or os.environ.get("RAY_ADDRESS") or None


@contextlib.contextmanager
def connect(
    address: str | None = None, *, num_cpus: int | None = None, quiet: bool = True, dashboard: bool = False
) -> Iterator[None]:
    """Hold a connection to Ray; inside another connection this does nothing.

    Args:
        address: a running cluster's address; by default `RAY_ADDRESS`, else an embedded Ray starts.
        num_cpus: logical CPUs of the embedded Ray; by default as many as the machine has.
        quiet: keep the workers' output out of the console (it stays in Ray's session folder).
        dashboard: start the dashboard (and with it the jobs and Serve REST APIs) of an embedded Ray.

    Raises:
        ConnectionFailed: no cluster answers at the address.
        TokenRefused: one does, and does not take the token.
    """
    for key, value in RAY_ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    address = resolve_address(address)
    known = token.enable_token_auth() if address else None
    import ray

    if ray.is_initialized():
        yield
        return
    package = None
    options: dict = {
        "log_to_driver": not quiet,
        "logging_level": logging.ERROR if quiet else logging.INFO,
        "configure_logging": True,
    }
    if address is None:
        if os.environ.get(token.AUTH_MODE_VARIABLE, "token").lower() == "token":
            token.ensure_token()  # Ray would write one that all can read
        # Watches for nodes that a cloud is about to take back; here there is none.
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
        options |= {"address": "local", "include_dashboard": dashboard, "num_cpus": num_cpus}
        # Workers of an embedded Ray find the three folders wherever the command was started. They
        # inherit the variable; a runtime environment would keep Ray from using processes it has ready.
        os.environ["PYTHONPATH"] = _python_path()
    else:
        _check_address(address, known)
        options["address"] = address
        # A job brought its working directory with it; any other driver sends the code along.
        if "RAY_JOB_CONFIG_JSON_ENV_VAR" not in os.environ:
            package = build_package()
            options["runtime_env"] = {"working_dir": str(package.path)}
    try:
        ray.init(**options)
    except Exception as error:  # Ray raises bare ones too, as when a machine is too busy to start it in time
        where = f"the Ray cluster at {address}" if address else "an embedded Ray"
        raise ClusterConnectionError(f"cannot reach {where}: {first_line(error)}") from error
    finally:
        if package is not None:
            shutil.rmtree(package.path.parent, ignore_errors=True)
    try:
        yield
    finally:
        ray.shutdown()


def _check_address(address: str, known: str | None) -> None:
    """Refuse a HOST:PORT where nothing listens, or another token is asked for; Ray would try for minutes."""
    if "://" in address or ":" not in address:
        return  # ray://, http:// and auto: Ray says what it makes of them
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT_S).close()
    except (OSError, ValueError) as error:
        raise ClusterConnectionError(f"cannot reach the Ray cluster at {address}: {error}") from error
    token.verify_token(address, known)
    if _is_elsewhere(address, known):
        raise ClusterConnectionError(
            f"this machine is no node of the Ray cluster at {address}, and only its nodes can attach to it; "
            "from elsewhere: python -m cluster submit --address http://HOST:8265 -- ..."
        )


def _is_elsewhere(address: str, known: str | None) -> bool:
    """Tell whether no node of the cluster has an address of this machine; Ray would look for a minute."""
    import grpc
    from ray.core.generated.gcs_service_pb2 import GetAllNodeInfoRequest
    from ray.core.generated.gcs_service_pb2_grpc import NodeInfoGcsServiceStub

    sent = [("authorization", f"Bearer {known}")] if known else []
    try:
        with grpc.insecure_channel(address) as channel:
            stub = NodeInfoGcsServiceStub(channel)
            told = stub.GetAllNodeInfo(GetAllNodeInfoRequest(), timeout=CONNECT_TIMEOUT_S, metadata=sent)
    except grpc.RpcError:
        return False  # Ray says what is wrong
    # A head that has only just started lists no node yet; Ray waits for it.
    nodes = [node.node_manager_address for node in told.node_info_list]
    return bool(nodes) and not any(map(_is_here, nodes))


def _is_here(host: str) -> bool:
    try:
        socket.create_server((host, 0)).close()
    except OSError:
        return False
    return True


def _python_path() -> str:
    inherited = os.environ.get("PYTHONPATH")
    return os.pathsep.join([str(REPOSITORY), *([inherited] if inherited else [])])
