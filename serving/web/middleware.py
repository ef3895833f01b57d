"""ASGI middleware before Ray Serve's own handling of a request, named to Ray by serving/deployment/haproxy.py.

Ray decodes some headers as UTF-8 and returns 500 if that fails, and it watches each request for a client that
disconnects, which costs more than a classification. So headers that are not ASCII are removed (the service uses none),
and the watch is turned off: a response that takes a fraction of a millisecond need not be cancelled.
"""

from time import perf_counter

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

ARRIVAL_KEY = "serving.arrived"  # in a scope: time of `perf_counter`, in seconds, when the request reached the replica
MAX_REQUEST_ID_LENGTH = 200
_REMOVED = {b"x-request-timeout-seconds", b"x-request-disconnect-disabled"}
_WATCH_DISABLED = (b"x-request-disconnect-disabled", b"?1")


class HeaderFilter:
    """Passes requests to an application with only those headers that Ray can read."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope[ARRIVAL_KEY] = perf_counter()
            scope["headers"] = [
                (name, value)
                for name, value in scope["headers"]
                if value.isascii()
                and name.isascii()
                and name not in _REMOVED
                and (name != b"x-request-id" or 0 < len(value) <= MAX_REQUEST_ID_LENGTH)
            ]
            scope["headers"].append(_WATCH_DISABLED)
        await self._app(scope, receive, send)


def middlewares() -> list[Middleware]:
    """Return the middleware of each process that receives requests."""
    return [Middleware(HeaderFilter)]
