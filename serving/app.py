"""The classifier as a Ray Serve deployment. Serve configurations name it as `serving.app:build`.

It is a plain ASGI application, since parsing and routing by a framework would cost more than the model. The
checkpoint's path stands in `user_config`, which Serve changes without replacing the replicas.
"""

import asyncio
import json
import logging
from time import perf_counter
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from starlette.types import Receive, Scope, Send

from cluster import UsageError
from serving import accepted, body, keys, models, page, table
from serving.explanation import Reasons
from serving.metrics import PERIOD_S, Metrics
from serving.middleware import ARRIVED
from serving.models import Models
from serving.openapi import describe
from serving.protocol import Limits, RequestError, error, parse
from serving.protocol import Request as Question
from serving.turn import Turn

# A checkpoint that was refused is looked at again after so many periods of the metrics.
RETRY_PERIODS = 5

METHODS = {
    "/": ("GET", "POST"),
    "/predict": ("POST",),
    "/info": ("GET",),
    "/health": ("GET",),
    "/openapi.json": ("GET",),
}
OPEN = ("/health", "/openapi.json")  # and the page: they need no key

logger = logging.getLogger("ray.serve")

Headers = list[tuple[bytes, bytes]]


class Arguments(BaseModel):
    """The application's `args` in a Serve configuration.

    table_bytes: memory for the words of each checkpoint, a candidate's too; a node's replicas share it.
    """

    model_config = ConfigDict(extra="forbid")

    limits: Limits = Limits()
    table_bytes: int = Field(table.BYTES, ge=0)


def build(args: Arguments) -> serve.Application:
    """Return the application; its deployment is called `Classifier`."""
    return Service.bind(args.model_dump())


class Replica:
    """Answers HTTP requests with one checkpoint, or with one and a candidate."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        self._arguments = Arguments.model_validate(arguments)
        self._limits = self._arguments.limits
        self._keys = keys.read()
        self.models: Models | None = None
        self._configuring = asyncio.Lock()
        self._wanted: dict[str, Any] = {}
        self._refused: str | None = None
        self._metrics = Metrics()
        self._turn = Turn()
        self._page, self._page_headers = page.read(), page.headers()
        self._description = json.dumps(describe(self._limits, keys=bool(self._keys))).encode()
        self._reporting: asyncio.Task | None = None

    def __serve_build_asgi_app__(self) -> "Application":
        return Application(self)

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Load what `user_config` names; on an error what was loaded before goes on serving, and `/info` says why."""
        async with self._configuring:
            self._wanted = user_config
            await self._configure()
        if self._reporting is None:
            self._reporting = asyncio.create_task(self._report())

    async def _configure(self) -> None:
        try:
            choice = models.choose(self._wanted)
            self.models = await self._loaded(choice)
            self._refused = None
            await asyncio.to_thread(accepted.remember, choice)
        except UsageError as refusal:
            if self.models is None:  # it starts only now
                before = await asyncio.to_thread(accepted.recall)
                if before is None:
                    raise
                try:
                    self.models = await self._loaded(before)
                except UsageError:  # gone too
                    raise refusal from None
            if str(refusal) != self._refused:
                self._refused = str(refusal)
                logger.error("the checkpoint was refused, the one before goes on serving: %s", refusal)
        self._metrics.refused(self._refused is not None)

    async def _loaded(self, choice: models.Choice) -> Models:
        return await asyncio.to_thread(models.load, choice, self.models, self._arguments.table_bytes)

    def stop_reporting(self) -> None:
        """Hand no more figures to Ray."""
        if self._reporting is not None:
            self._reporting.cancel()
            self._reporting = None

    async def _report(self) -> None:
        periods = 0
        while True:
            await asyncio.sleep(PERIOD_S)
            models = self.models
            served = () if models is None else (models.main, *((models.candidate,) if models.candidate else ()))
            self._metrics.flush({(each.name, tuple(each.classifier.labels)): each.counted() for each in served})
            periods += 1
            if self._refused is not None and periods % RETRY_PERIODS == 0:
                async with self._configuring:  # it may have been mended: Serve does not ask again for the same
                    await self._configure()

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request."""
        now = perf_counter()
        try:
            status, headers, told = await self._respond(scope, receive, now - (scope.get(ARRIVED) or now))
        except RequestError as refusal:
            status, headers, told = refusal.status, [_JSON], error(str(refusal))
            if status == 401:
                headers.append((b"www-authenticate", b"Bearer"))
            if status in (408, 413):
                headers.append((b"connection", b"close"))  # the rest of the body is not read
        headers.append((b"content-length", b"%d" % len(told)))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": told})
        self._metrics.answered(status)

    async def _respond(self, scope: Scope, receive: Receive, handed_over: float) -> tuple[int, Headers, bytes]:
        path, method = scope["path"].removeprefix(scope.get("root_path", "")), scope["method"]
        allowed = METHODS.get(path)
        if allowed is None:
            path = path.rstrip("/") or "/"
            allowed = METHODS.get(path)
        if allowed is None:
            raise RequestError(404, f"there is no {path[:200]}; there are {', '.join(METHODS)}")
        if method not in allowed:
            message = error(f"{path} takes {' and '.join(allowed)}")
            return 405, [_JSON, (b"allow", ", ".join(allowed).encode())], message
        if path == "/" and method == "GET":
            return 200, [*self._page_headers], self._page
        if self._keys and path not in OPEN and not self._keys.admit(_header(scope, b"authorization")):
            raise RequestError(401, "send a key of this service as `Authorization: Bearer KEY`")
        if method == "POST":
            content = await body.read(receive, self._limits.max_body_bytes)
            start = perf_counter()
            async with self._turn:
                self._metrics.waited(handed_over + perf_counter() - start)
                return self._classify(parse(content, self._limits), flat=path == "/predict")
        if path == "/info":
            return 200, [_JSON], json.dumps(self._info()).encode()
        return 200, [_JSON], self._description if path == "/openapi.json" else b'{"status": "ok"}'

    def _classify(self, question: Question, *, flat: bool) -> tuple[int, Headers, bytes]:
        models = self.models
        assert models is not None, "Serve calls reconfigure before the first request"
        if models.candidate is None:
            headers, model, shadow = [_JSON], models.main, None
        else:
            model, shadow = models.pick()
            headers = [_JSON, (b"x-checkpoint", model.name.encode())]
        best, scores = model.score(question)
        reasons = [Reasons(model.classifier, text) for text in question.texts] if question.explain else []
        told = model.labels.answer(question, scores, reasons, flat=flat)
        if shadow is not None:
            seen, _ = shadow.score(question)
            shadow.tally.shadowed += len(seen)
            shadow.tally.agreed += sum(one == other for one, other in zip(best, seen, strict=True))
        return 200, headers, told

    def _info(self) -> dict[str, Any]:
        assert self.models is not None
        candidate, choice = self.models.candidate, self.models.choice.candidate
        found = self.models.main.info | {"limits": self._limits.model_dump()}
        if candidate is not None and choice is not None:
            found["candidate"] = {"weight": choice.weight, "shadow": choice.shadow} | candidate.info
        if self._refused:
            found["refused"] = self._refused
        return found


class Application:
    """The ASGI application of a replica."""

    routes = ()  # Ray would look for a framework's

    def __init__(self, replica: Replica) -> None:
        self._replica = replica

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._replica.answer(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1000})
        else:
            while (await receive())["type"] != "lifespan.shutdown":
                await send({"type": "lifespan.startup.complete"})
            await send({"type": "lifespan.shutdown.complete"})


Service = serve.deployment(name="Classifier")(serve.ingress()(Replica))

_JSON = (b"content-type", b"application/json")


def _header(scope: Scope, wanted: bytes) -> bytes:
    return next((value for name, value in scope["headers"] if name == wanted), b"")
