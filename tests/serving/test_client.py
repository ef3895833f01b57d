"""Our client waits and asks again."""

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise

import pytest

from benchmarks.ray_head import find_free_ports
from serving.client import Client, ServiceError

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
        body = server.content or json.dumps(LABELS if status == 200 else {"error": "no"}).encode()
        self.send_response(status)
        if status == 503:
            self.send_header("Retry-After", server.retry_after)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def busy() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Busy) as server:
        server.plan, server.asked, server.retry_after, server.content = [], [], "1", b""
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


def test_shed_load_is_asked_for_as_long_as_there_is_patience(busy: ThreadingHTTPServer) -> None:
    """However many tries that are, and not all at the very same time; then with what came last."""
    busy.plan = [503] * 100
    start = time.monotonic()
    with pytest.raises(ServiceError) as caught:
        Client(f"http://127.0.0.1:{busy.server_port}", retry_timeout_s=4).classify("x")
    assert caught.value.status == 503
    assert 4 <= time.monotonic() - start < 15
    moments = [moment for moment, _ in busy.asked]
    waits = [later - earlier for earlier, later in pairwise(moments)][:-1]  # the last ends with the patience
    assert len(waits) >= 2
    assert all(wait >= 1.05 for wait in waits)  # what the service asks for, and the backoff


def test_no_service_makes_it_wait_beyond_its_patience(busy: ThreadingHTTPServer) -> None:
    """It asks once more when that ends."""
    busy.plan, busy.retry_after = [503], "3600"
    start = time.monotonic()
    assert Client(f"http://127.0.0.1:{busy.server_port}", retry_timeout_s=1).classify("x") == LABELS
    assert 0.9 <= time.monotonic() - start < 20


def test_when_patience_ends_it_gives_up(busy: ThreadingHTTPServer) -> None:
    """With what came last."""
    busy.plan = [500] * 50
    with pytest.raises(ServiceError) as caught:
        Client(f"http://127.0.0.1:{busy.server_port}", retry_timeout_s=1).classify("x")
    assert caught.value.status == 500
    assert 3 <= len(busy.asked) < 12
    [port] = find_free_ports(1)
    with pytest.raises(ServiceError, match="does not answer"):
        Client(f"http://127.0.0.1:{port}", retry_timeout_s=1).classify("x")


def test_what_is_no_answer_of_the_service_is_told(busy: ThreadingHTTPServer) -> None:
    """A 200 of something else."""
    busy.content = b"<html>"
    with pytest.raises(ServiceError, match="200: <html>"):
        Client(f"http://127.0.0.1:{busy.server_port}").classify("x")


def test_a_time_to_wait_that_cannot_be_read_is_none(busy: ThreadingHTTPServer) -> None:
    """It is waited for as if nothing were said."""
    busy.plan, busy.retry_after = [503], "soon"
    assert Client(f"http://127.0.0.1:{busy.server_port}").classify("x") == LABELS
