"""What stands before Ray Serve's own handling of a request. Ray finds it by the settings of
serving/deployment/haproxy.py.

Ray decodes some headers as UTF-8 and answers 500 where they are not, and it watches each request for a client that
hangs up, which costs more than a classification. So headers that are not ASCII are dropped (none of ours are), and
the watch is switched off: what is answered in a fraction of a millisecond need not be cancelled.
"""

from time import perf_counter

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

ARRIVAL_KEY = "serving.arrived"  # in a scope: seconds on the clock perf_counter when the request reached the replica
MAX_REQUEST_ID_LENGTH = 200
_DROPPED = {b"x-request-timeout-seconds", b"x-request-disconnect-disabled"}
_UNWATCHED = (b"x-request-disconnect-disabled", b"?1")


class HeaderFilter:
    """Passes requests on with headers that Ray can read."""

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
                and name not in _DROPPED
                and (name != b"x-request-id" or 0 < len(value) <= MAX_REQUEST_ID_LENGTH)
            ]
            scope["headers"].append(_UNWATCHED)
        await self._app(scope, receive, send)


def middlewares() -> list[Middleware]:
    """Return what Ray puts before its own handling, in each process that takes requests."""
    return [Middleware(HeaderFilter)]
