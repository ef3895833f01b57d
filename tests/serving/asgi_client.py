"""The service's application without Ray: called directly, or behind a web server of the test's own."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from benchmarks.ray_head import find_free_ports
from serving.app import ApplicationArguments, Replica
from serving.web.middleware import HeaderFilter


def make_replica(user_config: dict[str, Any], **arguments: Any) -> Replica:
    """Return a replica that has loaded a checkpoint."""
    made = Replica(ApplicationArguments.model_validate(arguments).model_dump())
    configure(made, user_config)
    return made


def configure(made: Replica, user_config: dict[str, Any]) -> None:
    """Give a replica a `user_config`, as Serve does."""

    async def run() -> None:
        await made.reconfigure(user_config)
        made.stop_reporting()

    asyncio.run(run())


def send_request(
    made: Replica, path: str, body: bytes | list[bytes] | None = None, method: str | None = None, **headers: str
) -> tuple[int, dict[str, str], Any]:
    """Return status, headers and what an answer holds; a body in a list comes in pieces, and stops after them."""
    pieces = body if isinstance(body, list) else [body or b""]
    sent: list[dict] = []

    async def run() -> None:
        left = list(pieces)

        async def receive() -> dict:
            if not left:
                await asyncio.sleep(30)
            piece = left.pop(0)
            return {"type": "http.request", "body": piece, "more_body": bool(left) or isinstance(body, list)}

        async def send(message: dict) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": method or ("GET" if body is None else "POST"),
            "path": path,
            "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers.items()],
        }
        await HeaderFilter(made.__serve_build_asgi_app__())(scope, receive, send)

    asyncio.run(run())
    start, content = sent
    found = {name.decode(): value.decode() for name, value in start["headers"]}
    assert int(found["content-length"]) == len(content["body"])
    is_json = found["content-type"] == "application/json"
    return start["status"], found, json.loads(content["body"]) if is_json else content["body"].decode()


@contextmanager
def serve_replica(made: Replica) -> Iterator[str]:
    """Hold the application behind a web server on this machine; what is held is its URL."""
    [port] = find_free_ports(1)
    server = uvicorn.Server(
        uvicorn.Config(
            HeaderFilter(made.__serve_build_asgi_app__()), host="127.0.0.1", port=port, log_level="error", ws="none"
        )
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(30)
