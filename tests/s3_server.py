"""An S3 server on loopback (moto) with fault injection: delays, error statuses, interrupted transfers.

with run_s3_server() as server:
    command = run([...], env=os.environ | server.environment)   # storage=s3://bucket/runs
    server.fault = respond_unavailable                           # or any other Fault
"""

import socket
import threading
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

BUCKET = "bucket"

# Called with a request's method and path. True: close the connection in the middle of the request body; a number:
# respond with this HTTP status; None: handle the request. It may sleep.
Fault = Callable[[str, str], bool | int | None]


@dataclass
class S3Server:
    """A running server. endpoint: its URL; requests: (method, path) of all requests so far; bytes_received: by them."""

    endpoint: str = ""
    fault: Fault | None = None
    requests: list[tuple[str, str]] = field(default_factory=list)
    bytes_received: int = 0

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables that make pyarrow use the server."""
        return {
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_EC2_METADATA_DISABLED": "true",
        }


def respond_unavailable(method: str, path: str) -> int:
    """Fault: respond with 503 to every request."""
    return 503


@contextmanager
def run_s3_server() -> Iterator[S3Server]:
    """Context manager: a running server with an empty bucket `bucket`."""
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class QuietHandler(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"

        def log(self, *_: Any) -> None:
            pass

    server = S3Server()
    application = _FaultInjector(DomainDispatcherApplication(create_backend_app), server)
    http_server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=QuietHandler)
    thread = threading.Thread(target=http_server.serve_forever, daemon=True)
    thread.start()
    try:
        server.endpoint = f"http://127.0.0.1:{http_server.server_port}"
        request = urllib.request.Request(f"{server.endpoint}/{BUCKET}", method="PUT")
        urllib.request.urlopen(request, timeout=30).close()
        yield server
    finally:
        http_server.shutdown()
        thread.join(timeout=10)
        http_server.server_close()


class _FaultInjector:
    """WSGI middleware in front of moto."""

    def __init__(self, application: Any, server: S3Server) -> None:
        self.application = application
        self.server = server

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        self.server.requests.append((method, path))
        # pyarrow sends chunks, whose total length is in a header of its own.
        length = environ.get("HTTP_X_AMZ_DECODED_CONTENT_LENGTH") or environ.get("CONTENT_LENGTH") or 0
        self.server.bytes_received += int(length)
        outcome = self.server.fault(method, path) if self.server.fault else None
        if outcome is None:
            return self.application(environ, start_response)
        if outcome is True:
            _read_half(environ)
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            start_response("500 Broken off", [("Content-Length", "0"), ("Connection", "close")])  # never sent
            return [b""]
        start_response(f"{outcome} Fault", [("Content-Length", "0"), ("Connection", "close")])
        return [b""]


def _read_half(environ: dict[str, Any]) -> None:
    environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0) // 2)
