"""The classifier as a Ray Serve deployment. Serve configurations name it as `serving.app:build`.

The checkpoint's path stands in `user_config`, which Serve changes without replacing the replicas.
"""

import json
from typing import Any

from pydantic import BaseModel, ConfigDict
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

from jobs import checkpoint
from serving import protocol
from serving.classifier import Classifier
from serving.protocol import Limits, RequestError

# Of a body that is too long, so much is read and thrown away for the client to hear why; then the connection ends.
DISCARDED_BYTES = 64 << 20

METHODS = {"/": ("POST",), "/predict": ("POST",), "/info": ("GET",), "/health": ("GET",)}


class Arguments(BaseModel):
    """The application's `args` in a Serve configuration."""

    model_config = ConfigDict(extra="forbid")

    limits: Limits = Limits()


def build(args: Arguments) -> serve.Application:
    """Return the application; its deployment is called `Classifier`."""
    return Service.bind(args.limits.model_dump())


@serve.deployment(name="Classifier")
class Service:
    """Answers HTTP requests with one checkpoint."""

    def __init__(self, limits: dict[str, int]) -> None:
        self._limits = Limits.model_validate(limits)
        self._classifier: Classifier | None = None
        self._asked_for = ""
        self._info: dict[str, Any] = {}

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Load the checkpoint that `user_config` names; on an error the one before goes on serving."""
        path = user_config["checkpoint"]
        if path == self._asked_for:
            return
        where = checkpoint.locate(path)
        loaded = checkpoint.read(where)
        self._classifier = Classifier(loaded)
        self._asked_for = path
        self._info = {
            "checkpoint": where,
            "name": loaded.experiment.name,
            "labels": loaded.labels,
            "model": loaded.experiment.model.model_dump(),
            "vocabulary": len(loaded.words),
            "metrics": loaded.metrics,
        }

    async def __call__(self, request: Request) -> Response:
        path = request.url.path.rstrip("/") or "/"
        try:
            allowed = METHODS.get(path)
            if allowed is None:
                raise RequestError(404, f"there is no {path}; there are {', '.join(METHODS)}")
            if request.method not in allowed:
                message = protocol.error(f"{path} takes {' and '.join(allowed)}")
                return _json(message, 405, {"Allow": ", ".join(allowed)})
            if path == "/health":
                return _json(b'{"status": "ok"}')
            if path == "/info":
                return _json(json.dumps(self._info).encode())
            return _json(self._classify(await _body(request, self._limits), flat=path == "/predict"))
        except RequestError as error:
            return _json(protocol.error(str(error)), error.status)

    def _classify(self, body: bytes, *, flat: bool) -> bytes:
        asked = protocol.parse(body, self._limits)
        classifier = self._classifier
        assert classifier is not None, "Serve calls reconfigure before the first request"
        return protocol.answer(asked, classifier.scores(asked.texts), classifier.labels, flat=flat)


async def _body(request: Request, limits: Limits) -> bytes:
    """Return the body, or refuse it once it is read to its end: an answer before that can be lost to the client."""
    body, size = bytearray(), 0
    async for chunk in request.stream():
        size += len(chunk)
        if size <= limits.max_body_bytes:
            body += chunk
        elif size > DISCARDED_BYTES:
            break
    if size > limits.max_body_bytes:
        raise RequestError(413, f"the body is longer than {limits.max_body_bytes} bytes")
    return bytes(body)


def _json(body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(body, status, headers, media_type="application/json")
