"""Requests of web pages of other origins (CORS), and OPTIONS; only in services that allow origins."""

from collections.abc import Collection
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from cluster import UsageError
from serving.web.asgi import find_allowed_methods

# As a browser sends it: scheme, host in lower case, and port; or * for every origin.
Origin = Annotated[str, Field(pattern=r"^(\*|[a-z][a-z0-9+.-]*://[^/?#@\sA-Z]+)$")]

METHODS = ("GET", "HEAD", "POST")
REQUEST_HEADERS = ("Authorization", "Content-Encoding", "Content-Type", "X-Request-ID")
RESPONSE_HEADERS = ("Retry-After", "X-Checkpoint", "X-Request-ID", "X-Unknown-Words")
MAX_AGE_S = 600  # how long a browser may remember the response to its preflight request


def parse_origins(origins: Collection[str]) -> list[str]:
    """Return origins as a list; UsageError names a value that is none."""
    try:
        return TypeAdapter(list[Origin]).validate_python([*origins])
    except ValidationError as error:
        value = error.errors(include_url=False)[0]["input"]
        raise UsageError(f"allowed_origins: {value!r} is no origin, such as https://example.com, or *") from error


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
