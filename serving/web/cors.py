"""Requests of web pages of other origins (CORS), and OPTIONS; only in services that allow origins."""

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Annotated

from pydantic import AfterValidator, TypeAdapter, ValidationError
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from cluster import UsageError
from serving.web.asgi import find_allowed_methods

_ORIGIN = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<host>[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::(?P<port>[1-9][0-9]{0,4}))?"
)
_DEFAULT_PORTS = {"http": "80", "https": "443"}


def _validate_origin(origin: str) -> str:
    """Return an origin as a browser sends it, or *; ValueError says what is wrong with another text."""
    if origin == "*":
        return origin
    match = _ORIGIN.fullmatch(origin)
    if match and match["port"] and _DEFAULT_PORTS.get(match["scheme"]) == match["port"]:
        raise ValueError(f"{origin!r}: browsers leave out this port; write {match['scheme']}://{match['host']}")
    if match and int(match["port"] or 0) < 1 << 16:
        return origin
    if "*" in origin:
        raise ValueError(f"{origin!r}: no host can have a *; write each origin, or * for all")
    if not origin.isascii():
        raise ValueError(f"{origin!r}: browsers send the host in ASCII; write it as xn--...")
    raise ValueError(f"{origin!r} is no origin, such as https://example.com, or *")


Origin = Annotated[str, AfterValidator(_validate_origin)]

METHODS = ("GET", "HEAD", "POST")
REQUEST_HEADERS = ("Authorization", "Content-Encoding", "Content-Type", "X-Request-ID")
RESPONSE_HEADERS = ("Retry-After", "X-Checkpoint", "X-Request-ID", "X-Unknown-Words")
MAX_AGE_S = 600  # how long a browser may remember the response to its preflight request


def parse_origins(origins: object) -> list[str]:
    """Return origins as a list; UsageError if they are no list, or names a value that is no origin."""
    if isinstance(origins, str | Mapping) or not isinstance(origins, Iterable):
        raise UsageError('allowed_origins: a list of origins is required, such as ["https://example.com"]')
    try:
        return TypeAdapter(list[Origin]).validate_python([*origins])
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        reason = problem.get("ctx", {}).get("error", f"{problem['input']!r} is no text")
        raise UsageError(f"allowed_origins: {reason}") from error


class CrossOriginApplication(CORSMiddleware):
    """An application whose responses pages of some origins may read.

    A page sends an API key in a header, never in a cookie, so no credentials of the browser are allowed.

    Args:
        app: the classifier's application.
        origins: allowed origins, or "*" for all.
    """

    routes = ()  # Ray looks for those of a framework

    def __init__(self, app: ASGIApp, origins: Collection[str]) -> None:
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=METHODS,
            allow_headers=REQUEST_HEADERS,
            expose_headers=RESPONSE_HEADERS,
            max_age=MAX_AGE_S,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond to a preflight request and to other OPTIONS; pass all other requests to the application."""
        is_options = scope["type"] == "http" and scope["method"] == "OPTIONS"
        if is_options and not any(name == b"access-control-request-method" for name, _ in scope["headers"]):
            allowed = find_allowed_methods(scope)
            if allowed is not None:
                headers = [(b"allow", ", ".join((*allowed, "OPTIONS")).encode())]
                await send({"type": "http.response.start", "status": 204, "headers": headers})
                await send({"type": "http.response.body", "body": b""})
                return
        await super().__call__(scope, receive, send)
