"""An S3 server on loopback (moto's) that can be slow, refuse, and break off in the middle of a transfer.

with s3() as store:
    command = run([...], env=os.environ | store.environment)   # storage=s3://bucket/runs
    store.fault = refuse                                        # or broken_off, or one of the test's own
"""

import socket
import threading
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

BUCKET = "bucket"

# Told a request's method and path, it says what happens to it: True breaks it off in the middle, a number is an
# HTTP status to answer with, None lets it pass. It may sleep.
Fault = Callable[[str, str], bool | int | None]


@dataclass
class S3Server:
    """A running server. endpoint: its URL; asked: (method, path) of each request so far."""

    endpoint: str = ""
    fault: Fault | None = None
    requests: list[tuple[str, str]] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """Variables with which pyarrow finds the server."""
        return {
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_EC2_METADATA_DISABLED": "true",
        }


def respond_unavailable(method: str, path: str) -> int:
    """Answer nothing but 503."""
    return 503


@contextmanager
def run_s3_server() -> Iterator[S3Server]:
    """Hold a server with an empty bucket `bucket`."""
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"

        def log(self, *_: Any) -> None:
            pass

    store = S3Server()
    application = _Faulty(DomainDispatcherApplication(create_backend_app), store)
    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=Quiet)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        store.endpoint = f"http://127.0.0.1:{server.server_port}"
        made = urllib.request.Request(f"{store.endpoint}/{BUCKET}", method="PUT")
        urllib.request.urlopen(made, timeout=30).close()
        yield store
    finally:
        server.shutdown()
        thread.join(timeout=10)
        server.server_close()


class _Faulty:
    """A WSGI application before moto's."""

    def __init__(self, application: Any, store: S3Server) -> None:
        self.application = application
        self.store = store

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        self.store.requests.append((method, path))
        outcome = self.store.fault(method, path) if self.store.fault else None
        if outcome is None:
            return self.application(environ, start_response)
        if outcome is True:
            _take_half(environ)
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            start_response("500 Broken off", [("Content-Length", "0"), ("Connection", "close")])  # nobody hears it
            return [b""]
        start_response(f"{outcome} Fault", [("Content-Length", "0"), ("Connection", "close")])
        return [b""]


def _take_half(environ: dict[str, Any]) -> None:
    environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0) // 2)
