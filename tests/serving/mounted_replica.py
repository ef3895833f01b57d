"""A replica under a path, without Ray."""

from starlette.types import ASGIApp, Receive, Scope, Send

from serving.app import Replica


class MountedReplica:
    """A replica whose application responds under a path, as Serve calls that of a route prefix."""

    def __init__(self, replica: Replica, root_path: str) -> None:
        self._replica, self._root_path = replica, root_path

    def __serve_build_asgi_app__(self) -> ASGIApp:
        application = self._replica.__serve_build_asgi_app__()

        async def call(scope: Scope, receive: Receive, send: Send) -> None:
            await application({**scope, "root_path": self._root_path}, receive, send)

        return call
