"""Deployment that responds with a constant: the cost of Ray Serve itself, for benchmarks/serving.py."""

from ray import serve
from starlette.types import Receive, Scope, Send

RESPONSE = b'[{"label": "neg", "score": 0.5615953887559232}, {"label": "pos", "score": 0.4384046112440767}]'


@serve.deployment(name="Noop")
@serve.ingress()
class NoopReplica:
    """An ASGI deployment of the same kind as the classifier's."""

    def __serve_build_asgi_app__(self) -> "NoopApplication":
        return NoopApplication()


class NoopApplication:
    """Reads the request body and responds."""

    routes = ()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            while (await receive())["type"] != "lifespan.shutdown":
                await send({"type": "lifespan.startup.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        while (await receive()).get("more_body"):
            pass
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(RESPONSE))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": RESPONSE})
