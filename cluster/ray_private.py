"""Private and undocumented parts of Ray: all uses in the project, each with its reason and the public alternative.

Any release of Ray may change them. So no other module uses one, and tests/cluster/test_ray_private.py checks that the
installed Ray has each. They are imported where they are used: most commands need none.
"""

from typing import Any

# A job's driver has this variable; `ray.get_runtime_context()` does not tell whether a driver is a job's.
JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"
# Loggers of the clients for jobs and services, which log each upload and each closed socket. Ray's documentation names
# only the loggers `ray` and `ray.<library>`.
CLIENT_LOGGERS = ("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk")


def find_runtime_env_folder() -> str | None:
    """Return the folder in which this node unpacks the code of jobs, or None in a process without Ray.

    `ray.init()` returns the session's folder to a driver; a task has no public way to it.
    """
    from ray._private import worker

    module: Any = worker  # has no type information
    return None if module._global_node is None else str(module._global_node.get_runtime_env_dir_path())


def read_free_resources() -> dict[str, dict[str, float]]:
    """Return the unused resources of each living node by its id; a kind of which nothing is unused may be missing.

    The public `ray.available_resources()` returns only their sum, and the state API only the totals of each node.
    """
    from ray._private.state import available_resources_per_node

    resources: dict[str, dict[str, float]] = available_resources_per_node()  # type: ignore[no-untyped-call]
    return resources


def is_token_auth_enabled() -> bool:
    """Return whether the cluster that this process is connected to requires a token.

    There is no public alternative; the variable RAY_AUTH_MODE is that of this process only.
    """
    from ray._private.authentication.authentication_utils import is_token_auth_enabled

    return bool(is_token_auth_enabled())


def reload_token() -> None:
    """Let the Ray that is imported in this process read the token and RAY_AUTH_MODE again.

    Ray reads them when it is imported. The public alternative, to set them before, is the user's.
    """
    from ray import _raylet

    compiled: Any = _raylet  # has no type information
    compiled.Config.initialize("")
    compiled.AuthenticationTokenLoader.instance().reset_cache()


def set_uv_run_hook(enabled: bool) -> None:
    """Set whether Ray starts workers with `uv run` if this process runs under it.

    The public alternative, RAY_ENABLE_UV_RUN_RUNTIME_ENV, is read when Ray is imported.
    """
    from ray._private import ray_constants

    constants: Any = ray_constants  # has no type information
    constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV = enabled


def call_node_service(method: str, address: str, token: str | None, timeout_s: float) -> Any:
    """Return the response of a method without parameters of the head's NodeInfoGcsService at HOST:PORT.

    `ray.init(address)` would retry for minutes where nothing responds, and for twenty seconds with a wrong token.

    Raises:
        grpc.RpcError: the head does not respond within the timeout, or rejects the call.
    """
    import grpc
    from ray.core.generated import gcs_service_pb2 as messages
    from ray.core.generated.gcs_service_pb2_grpc import NodeInfoGcsServiceStub

    metadata = [("authorization", f"Bearer {token}")] if token else []
    request = getattr(messages, f"{method}Request")()
    with grpc.insecure_channel(address) as channel:
        stub: Any = NodeInfoGcsServiceStub(channel)  # type: ignore[no-untyped-call]  # generated code
        return getattr(stub, method)(request, timeout=timeout_s, metadata=metadata)


def create_serve_client(url: str) -> Any:
    """Return a client of the dashboard's REST API for services.

    The REST API is documented, this client of it is not. It sends the token and the cookies and headers of
    RAY_JOB_HEADERS as the public `JobSubmissionClient` does, which has no method for services.
    """
    from ray.dashboard.modules.serve.sdk import ServeSubmissionClient

    return ServeSubmissionClient(url)


def read_session_name(client: Any) -> str | None:
    """Return the name of a cluster's session, given a client of its dashboard; a restarted cluster has another one.

    `JobSubmissionClient.get_version()` reads the same response and returns only the version of Ray.
    """
    name: str | None = client._do_request("GET", "/api/version").json().get("session_name")
    return name


def read_serve_address() -> tuple[str, int]:
    """Return the HTTP host and port of the Serve that runs on the connected cluster.

    `serve.status()` does not contain it. The dashboard's REST API does, but not every cluster has a dashboard.
    """
    from ray.serve.context import _get_global_client

    client = _get_global_client()
    assert client is not None, "it raises an error where no controller runs"
    return client.http_config.host, client.http_config.port
