"""The client retries what may succeed later, and reports everything else at once."""

import gzip
import json
import ssl
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
from urllib3.exceptions import MaxRetryError, SSLError
from urllib3.util.ssl_match_hostname import CertificateError

from cluster.machine import find_free_ports
from jobs.inference.classifier import Classifier
from jobs.model.checkpoint import save_checkpoint
from serving import client as client_module
from serving.client import Client, ServiceError
from tests.support.asgi import make_replica, serve_replica
from tests.support.checkpoints import checkpoint_of

LABELS = [{"label": "a", "score": 1.0}]


class BusyHandler(BaseHTTPRequestHandler):
    """Responds with the planned statuses of its server, None for a broken connection, then with 200."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        server = self.server
        server.requests.append((self.path, self.headers.get("content-encoding"), body))
        server.keys.append(self.headers.get("authorization"))
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
def server() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), BusyHandler) as busy:
        busy.plan, busy.keys, busy.retry_after, busy.content = [], [], "1", b""
        busy.requests = []
        threading.Thread(target=busy.serve_forever, daemon=True).start()
        yield busy
        busy.shutdown()


class Clock:
    """Clock of the client that advances only when the client sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.sleeps: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    replacement = Clock()
    monkeypatch.setattr(
        client_module, "time", SimpleNamespace(monotonic=replacement.monotonic, sleep=replacement.sleep)
    )
    return replacement


def make_client(server: ThreadingHTTPServer, key: str | None = None, retry_timeout_s: float = 60) -> Client:
    return Client(f"http://127.0.0.1:{server.server_port}/", key, retry_timeout_s=retry_timeout_s)


def test_temporary_failures_are_retried(server: ThreadingHTTPServer, clock: Clock) -> None:
    """A broken connection, HAProxy's 500, and shed load; the key is sent each time."""
    server.plan = [None, 500, 503, 200]
    assert make_client(server, "secret").classify("x") == LABELS
    assert server.keys == ["Bearer secret"] * 4


def test_the_wait_doubles_and_retry_after_is_added(server: ThreadingHTTPServer, clock: Clock) -> None:
    """The wait grows from 0.1 s to 5 s, plus or minus half of it."""
    server.plan = [500] * 8 + [503]
    assert make_client(server).classify("x") == LABELS
    for sleep, backoff in zip(clock.sleeps, [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5, 5], strict=False):
        assert 0.5 * backoff <= sleep <= 1.5 * backoff
    assert 1 + 2.5 <= clock.sleeps[8] <= 1 + 7.5


def test_the_wait_is_random(server: ThreadingHTTPServer, clock: Clock) -> None:
    """Clients whose requests were shed together do not return together."""
    client = make_client(server)
    for _ in range(20):
        server.plan = [503]
        client.classify("x")
    assert len(set(clock.sleeps)) == 20
    assert max(clock.sleeps) - min(clock.sleeps) > 0.02


def test_other_failures_are_reported_at_once(server: ThreadingHTTPServer, clock: Clock) -> None:
    """The error contains the status and the service's reason."""
    server.plan = [422]
    with pytest.raises(ServiceError, match="422: no") as caught:
        make_client(server).classify(["x"], top_k=0)
    assert caught.value.status == 422
    assert len(server.keys) == 1
    assert not clock.sleeps


def test_shed_load_is_reported_when_the_retry_timeout_is_over(server: ThreadingHTTPServer, clock: Clock) -> None:
    """The last attempt is made exactly at that time."""
    server.plan = [503] * 100
    with pytest.raises(ServiceError) as caught:
        make_client(server, retry_timeout_s=20).classify("x")
    assert caught.value.status == 503
    assert clock.now == pytest.approx(20)
    assert len(server.keys) == len(clock.sleeps) + 1 > 3


def test_retry_after_does_not_extend_the_retry_timeout(server: ThreadingHTTPServer, clock: Clock) -> None:
    """The last attempt is made earlier than Retry-After requests."""
    server.plan, server.retry_after = [503], "3600"
    assert make_client(server, retry_timeout_s=1).classify("x") == LABELS
    assert clock.sleeps == [1]


def test_a_service_that_cannot_be_reached_is_reported(clock: Clock) -> None:
    """The error is raised when the retry timeout is over."""
    [port] = find_free_ports(1)
    with pytest.raises(ServiceError, match="does not respond"):
        Client(f"http://127.0.0.1:{port}", retry_timeout_s=1).classify("x")
    assert clock.now == pytest.approx(1)


@pytest.mark.parametrize(
    "url",
    [
        "localhost:8000",
        "127.0.0.1:8000",
        "",
        "http://",
        "http:///tickets",
        "http://h:80a",
        "http://h:99999",
        "http://a b",
    ],
)
def test_an_invalid_url_is_an_error_at_once(url: str) -> None:
    with pytest.raises(ServiceError, match="is not the URL of a service"):
        Client(url)


@pytest.mark.parametrize(
    "key", ["secret\nkey", "secret key", "secret-schl\u00fcssel", "secret-\u043a\u043b", "secret\x00"]
)
def test_an_invalid_key_is_an_error_that_does_not_contain_it(key: str) -> None:
    with pytest.raises(ServiceError, match="the API key contains white space") as caught:
        Client("http://127.0.0.1:8000", key)
    assert "secret" not in str(caught.value)


def test_white_space_around_url_and_key_is_removed(server: ThreadingHTTPServer) -> None:
    """A key from a file ends with a line break; one of white space only counts as none."""
    url = f" http://127.0.0.1:{server.server_port}/ \n"
    for key in ("secret\n", " \n"):
        assert Client(url, key, retry_timeout_s=0).classify("x") == LABELS
    assert server.keys == ["Bearer secret", None]


def test_a_service_without_tls_is_an_error_at_once(server: ThreadingHTTPServer, clock: Clock) -> None:
    with pytest.raises(ServiceError, match=r"cannot be called: .*WRONG_VERSION_NUMBER"):
        Client(f"https://127.0.0.1:{server.server_port}").classify("x")
    assert not clock.sleeps


def test_a_host_that_is_no_name_is_an_error_at_once(clock: Clock) -> None:
    with pytest.raises(ServiceError, match="label empty or too long"):
        Client("http://a..b").classify("x")
    assert not clock.sleeps


@pytest.mark.parametrize(
    ("cause", "is_permanent"),
    [(ssl.SSLCertVerificationError(1, "self-signed certificate"), True), (CertificateError("other host"), True),
     (ssl.SSLEOFError(8, "EOF occurred"), False)],
)  # fmt: skip
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_rejected_certificate_is_not_retried(
    server: ThreadingHTTPServer, clock: Clock, monkeypatch: pytest.MonkeyPatch, cause: Exception, is_permanent: bool,
    wrapped: bool,
) -> None:  # fmt: skip
    """A connection that ends while TLS starts is retried: the proxy restarts."""
    client = make_client(server, retry_timeout_s=1)
    error: Exception = SSLError(cause)
    if wrapped:
        error = MaxRetryError(client._pool.connection_from_url("https://h"), "/", error)
    monkeypatch.setattr(client._pool, "request", Mock(side_effect=error))
    with pytest.raises(ServiceError, match=str(cause.args[-1])):
        client.classify("x")
    assert bool(clock.sleeps) != is_permanent


def test_the_response_of_another_service_is_reported(server: ThreadingHTTPServer) -> None:
    """The response is a 200 that is not JSON."""
    server.content = b"<html>"
    with pytest.raises(ServiceError, match="200: <html>"):
        make_client(server).classify("x")


def test_an_invalid_retry_after_is_ignored(server: ThreadingHTTPServer, clock: Clock) -> None:
    """Only the backoff is waited for."""
    server.plan, server.retry_after = [503], "soon"
    assert make_client(server).classify("x") == LABELS
    [sleep] = clock.sleeps
    assert 0.05 <= sleep <= 0.15


def test_long_bodies_are_compressed_on_request(server: ThreadingHTTPServer) -> None:
    """Short ones never: they fit into a packet. A repeated request has the same body."""
    url = f"http://127.0.0.1:{server.server_port}"
    texts = ["a text"] * 200
    for compress, inputs, encoding in ((False, texts, None), (True, texts, "gzip"), (True, ["x"], None)):
        server.plan = [500, 200] if encoding else [200]
        assert Client(url, compress=compress).classify(inputs, top_k=1) == LABELS
        path, actual, body = server.requests[-1]
        assert (path, actual) == ("/predict", encoding)
        content = gzip.decompress(body) if encoding else body
        assert json.loads(content) == {"inputs": inputs, "parameters": {"top_k": 1}}
    assert len(server.requests) == 4


def test_a_client_may_ask_for_abstention(tmp_path: Path) -> None:
    """A text whose score is below the threshold has no label, but scores; without a threshold it is an error."""
    checkpoint = checkpoint_of("rand")
    texts = [f"word{number}" for number in range(9)]
    scores = Classifier(checkpoint).predict_proba(texts).max(axis=1)
    threshold = float(np.sort(scores)[3:5].mean())  # four are below
    abstention = {"thresholds": {"retention": threshold, "precision": None}}
    save_checkpoint(tmp_path / "c", replace(checkpoint, metrics={"epoch": 1, "abstention": abstention}))
    with serve_replica(make_replica({"checkpoint": str(tmp_path / "c")})) as url:
        client = Client(url)
        results = client.classify(texts, abstain=True)
        assert results == client.classify(texts, abstain="retention")
        best = [rows[0]["label"] for rows in client.classify(texts)]
        with pytest.raises(ServiceError, match=r"409: .*no threshold for 'precision'"):
            client.classify(texts, abstain="precision")
    expected = [label if score >= threshold else None for label, score in zip(best, scores, strict=True)]
    assert [result["label"] for result in results] == expected
    assert expected.count(None) == 4
    assert [result["scores"][0]["label"] for result in results] == best


def test_a_further_model_is_named_in_the_path(server: ThreadingHTTPServer) -> None:
    make_client(server).classify("x", model="a b/c")
    assert server.requests[-1][0] == "/models/a%20b%2Fc/predict"
