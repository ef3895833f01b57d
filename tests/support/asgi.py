"""The service's application without Ray: called directly, or behind a web server in this process."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from cluster.machine import find_free_ports
from serving.app import ApplicationArguments, Replica
from serving.deployment.server import RunningService
from serving.web.middleware import HeaderFilter

START_TIMEOUT_S = 30


def make_replica(user_config: dict[str, Any], **arguments: Any) -> Replica:
    """Return a replica that has loaded a checkpoint."""
    replica = Replica(ApplicationArguments.model_validate(arguments).model_dump())
    configure(replica, user_config)
    return replica


def configure(replica: Replica, user_config: dict[str, Any]) -> None:
    """Give a replica a `user_config`, as Serve does."""

    asyncio.run(replica.reconfigure(user_config))  # which also ends the export of metrics


def send_request(
    replica: Replica, path: str, body: bytes | list[bytes] | None = None, method: str | None = None, **headers: str
) -> tuple[int, dict[str, str], Any]:
    """Return status, headers and content of a response; a list is sent in pieces, and the body does not end."""
    pieces = list(body) if isinstance(body, list) else [body or b""]
    messages: list[dict] = []

    async def receive() -> dict:
        if not pieces:
            await asyncio.sleep(30)
        piece = pieces.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(pieces) or isinstance(body, list)}

    async def send(message: dict) -> None:
        messages.append(message)

    scope = {
        "type": "http",
        "method": method or ("GET" if body is None else "POST"),
        "path": path,
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers.items()],
    }
    asyncio.run(HeaderFilter(replica.__serve_build_asgi_app__())(scope, receive, send))
    start, content = messages
    response_headers = {name.decode(): value.decode() for name, value in start["headers"]}
    assert start["status"] == 204 or int(response_headers["content-length"]) == len(content["body"])
    is_json = response_headers.get("content-type") == "application/json"
    return start["status"], response_headers, json.loads(content["body"]) if is_json else content["body"].decode()


@contextmanager
def serve_replica(replica: Replica) -> Iterator[str]:
    """Context manager: the URL of the application behind a web server in this process."""
    [port] = find_free_ports(1)
    server = uvicorn.Server(
        uvicorn.Config(
            HeaderFilter(replica.__serve_build_asgi_app__()), host="127.0.0.1", port=port, log_level="error", ws="none"
        )
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + START_TIMEOUT_S
    while not server.started:
        assert thread.is_alive(), "the web server ended"
        assert time.monotonic() < deadline, f"the web server did not start within {START_TIMEOUT_S} s"
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(30)


@contextmanager
def start_without_ray(configuration: dict[str, Any], address: None) -> Iterator[RunningService]:
    """Context manager in place of `start_service`: the application runs behind a web server in this process."""
    application = configuration["applications"][0]
    with serve_replica(make_replica(application["deployments"][0]["user_config"], **application["args"])) as url:
        yield RunningService(url, embedded=False)
