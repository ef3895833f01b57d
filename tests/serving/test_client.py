"""Our client waits and asks again."""

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from serving.client import Client, ServiceError
from tests.ray_head import free_ports

LABELS = [{"label": "a", "score": 1.0}]


class Busy(BaseHTTPRequestHandler):
    """Sheds, breaks off and answers, as its server's list says; notes when it was asked."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        server = self.server
        server.asked.append((time.monotonic(), self.headers.get("authorization")))
        status = server.plan.pop(0) if server.plan else 200
        if status is None:
            self.close_connection = True
            return
        body = json.dumps(LABELS if status == 200 else {"error": "no"}).encode()
        self.send_response(status)
        if status == 503:
            self.send_header("Retry-After", "1")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def busy() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Busy) as server:
        server.plan, server.asked = [], []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_what_passes_is_waited_for(busy: ThreadingHTTPServer) -> None:
    """A connection that breaks, HAProxy's 500, and load that is shed, for as long as it is told to wait."""
    busy.plan = [None, 500, 503, 200]
    client = Client(f"http://127.0.0.1:{busy.server_port}/", "secret")
    assert client.classify("x") == LABELS
    assert len(busy.asked) == 4
    assert busy.asked[3][0] - busy.asked[2][0] >= 1
    assert {key for _, key in busy.asked} == {"Bearer secret"}


def test_what_does_not_pass_is_told_at_once(busy: ThreadingHTTPServer) -> None:
    """With the status, and the service's reason."""
    busy.plan = [422]
    with pytest.raises(ServiceError, match="422: no") as caught:
        Client(f"http://127.0.0.1:{busy.server_port}").classify(["x"], top_k=0)
    assert caught.value.status == 422
    assert len(busy.asked) == 1


def test_after_so_many_tries_it_gives_up(busy: ThreadingHTTPServer) -> None:
    """With what came last."""
    busy.plan = [500] * 5
    with pytest.raises(ServiceError) as caught:
        Client(f"http://127.0.0.1:{busy.server_port}", retries=2).classify("x")
    assert caught.value.status == 500
    assert len(busy.asked) == 3
    [port] = free_ports(1)
    with pytest.raises(ServiceError, match="does not answer"):
        Client(f"http://127.0.0.1:{port}", retries=1).classify("x")
