"""Requests of web pages of other origins."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from cluster import UsageError
from serving.api_keys import KEYS_VARIABLE
from serving.app import Replica
from serving.web.cors import parse_origins
from tests.support.asgi import make_replica, send_request

BODY = b'{"inputs": "word1 word2"}'
ORIGIN = "https://example.com"
PREFLIGHT = {
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization, content-encoding, content-type",
}


def make_cors_replica(run_folder: Path, *origins: str) -> Replica:
    return make_replica({"checkpoint": str(run_folder)}, allowed_origins=list(origins))


def test_without_allowed_origins_there_are_no_headers(run_folder: Path) -> None:
    """OPTIONS is not accepted then."""
    replica = make_cors_replica(run_folder)
    status, headers, _ = send_request(replica, "/predict", BODY, origin=ORIGIN)
    assert (status, [name for name in headers if name.startswith("access-control")]) == (200, [])
    assert send_request(replica, "/predict", None, "OPTIONS", origin=ORIGIN, **PREFLIGHT)[0] == 405


@pytest.mark.parametrize(("allowed", "expected"), [(ORIGIN, ORIGIN), ("*", "*")])
def test_a_page_of_an_allowed_origin_may_read_responses(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch, allowed: str, expected: str
) -> None:
    """Its preflight request needs no API key; errors can be read too."""
    monkeypatch.setenv(KEYS_VARIABLE, "k" * 20)
    replica = make_cors_replica(run_folder, allowed)
    for path in ("/predict", "/info", "/models/x/predict"):
        status, headers, _ = send_request(replica, path, None, "OPTIONS", origin=ORIGIN, **PREFLIGHT)
        assert (status, headers["access-control-allow-origin"]) == (200, expected)
        assert "POST" in headers["access-control-allow-methods"]
        assert {"authorization", "content-encoding", "content-type"} <= {
            name.strip().lower() for name in headers["access-control-allow-headers"].split(",")
        }
    for authorization, expected_status in ((f"Bearer {'k' * 20}", 200), ("Bearer wrong", 401)):
        status, headers, _ = send_request(replica, "/predict", BODY, origin=ORIGIN, authorization=authorization)
        assert (status, headers["access-control-allow-origin"]) == (expected_status, expected)
        assert "X-Unknown-Words" in headers["access-control-expose-headers"]
        assert "access-control-allow-credentials" not in headers


def test_a_page_of_another_origin_may_not(run_folder: Path) -> None:
    """The response to other clients has no header for them, but says that it depends on the origin."""
    replica = make_cors_replica(run_folder, ORIGIN)
    for other in ("https://example.com.evil.org", "http://example.com", "null"):
        status, headers, _ = send_request(replica, "/predict", BODY, origin=other)
        assert (status, "access-control-allow-origin" in headers) == (200, False)
        status, headers, _ = send_request(replica, "/predict", None, "OPTIONS", origin=other, **PREFLIGHT)
        assert (status, "access-control-allow-origin" in headers) == (400, False)
    assert send_request(replica, "/predict", BODY)[1]["vary"] == "Origin"


def test_options_lists_the_methods_of_a_path(run_folder: Path) -> None:
    replica = make_cors_replica(run_folder, ORIGIN)
    for path, methods in (
        ("/predict", "POST, OPTIONS"),
        ("/", "GET, HEAD, POST, OPTIONS"),
        ("/models/x/predict", "POST, OPTIONS"),
    ):
        status, headers, _ = send_request(replica, path, None, "OPTIONS")
        assert (status, headers["allow"]) == (204, methods)
    assert send_request(replica, "/none", None, "OPTIONS")[0] == 404


@pytest.mark.parametrize(
    ("origin", "message"),
    [
        ("example.com", "'example.com' is no origin, such as https://example.com, or *"),
        ("https://example.com/", "'https://example.com/' is no origin"),
        ("https://Example.com", "'https://Example.com' is no origin"),
        ("https://a@b", "'https://a@b' is no origin"),
        ("", "'' is no origin"),
        ("https://a.b:x:y", "'https://a.b:x:y' is no origin"),
        ("https://a.b:99999", "'https://a.b:99999' is no origin"),
        ("https://example.com:443", "browsers leave out this port; write https://example.com"),
        ("http://[::1]:80", "browsers leave out this port; write http://[::1]"),
        ("https://*.example.com", "no host can have a *; write each origin, or * for all"),
        ("https://m\u00fcnchen.de", "browsers send the host in ASCII; write it as xn--..."),
    ],
)
def test_what_no_browser_sends_is_no_origin(run_folder: Path, origin: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_origins([origin])
    assert message in str(caught.value)
    with pytest.raises(ValidationError, match="allowed_origins"):
        make_cors_replica(run_folder, origin)


def test_an_origin_is_a_scheme_a_host_and_another_port_than_the_default(run_folder: Path) -> None:
    origins = (
        "http://localhost:3000", "http://[::1]:8080", "http://a.b:443", "https://xn--mnchen-3ya.de",
        "chrome-extension://abc", "*",
    )  # fmt: skip
    assert parse_origins(origins) == [*origins]
    make_cors_replica(run_folder, *origins)


@pytest.mark.parametrize("origins", ["https://example.com", "*", 5, {"https://example.com": None}])
def test_origins_are_a_list(origins: object) -> None:
    with pytest.raises(UsageError, match="allowed_origins: a list of origins is required"):
        parse_origins(origins)
