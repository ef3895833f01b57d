"""HTTP requests answered with what a replica has loaded, as a plain ASGI application: to have a framework parse and
route them would cost more than the model.
"""

import json
from time import perf_counter
from typing import Any, Protocol

from starlette.types import Receive, Scope, Send

from jobs.inference.explanation import Explainer
from serving.web import api_keys as keys
from serving.web import page
from serving.web.admission import AdmissionQueue
from serving.web.body import BodyReader
from serving.web.metrics import ReplicaMetrics
from serving.web.middleware import ARRIVAL_KEY
from serving.web.openapi import build_openapi
from serving.web.protocol import Limits, RequestError, encode_error, parse_request
from serving.web.served_models import ServedModels

ALLOWED_METHODS = {
    "/": ("GET", "POST"),
    "/predict": ("POST",),
    "/info": ("GET",),
    "/health": ("GET",),
    "/openapi.json": ("GET",),
}
PUBLIC_ROUTES = (("/", "GET"), ("/health", "GET"), ("/openapi.json", "GET"))  # they need no key

Headers = list[tuple[bytes, bytes]]


class ReplicaState(Protocol):
    """What a replica has loaded. refused: why what it was asked to load last is not among it."""

    models: ServedModels | None
    load_error: str | None
    metrics: ReplicaMetrics


class ClassifierApplication:
    """The ASGI application of a replica.

    Raises:
        KeysError: the keys that the environment asks for cannot be read.
    """

    routes = ()  # Ray would look for a framework's

    def __init__(self, loaded: ReplicaState, limits: Limits) -> None:
        self._loaded, self._limits = loaded, limits
        self._keys = keys.load_api_keys()
        self._bodies, self._turn = BodyReader(limits.max_body_bytes), AdmissionQueue()
        self._page, self._page_headers = page.load_page(), page.build_headers()
        self._description = json.dumps(build_openapi(limits, require_key=bool(self._keys))).encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request; all that most need is awaited here, since each further coroutine takes time."""
        if scope["type"] != "http":
            await _without_http(scope, receive, send)
            return
        began = perf_counter()
        status, headers, told = 200, [_JSON], None
        try:
            flat = self._route(scope)
            if flat is None:
                headers, told = self._tell(scope)
            else:
                content = await self._bodies.read(receive, began)
                handed_over = began - scope.get(ARRIVAL_KEY, began)
                at_once = self._turn.try_admit()  # for as long as a plain question takes
                if at_once:
                    told = self._answer(content, handed_over, flat=flat)
                if told is None:
                    since = perf_counter()
                    async with self._turn:
                        waited = handed_over + perf_counter() - since
                        if not at_once:
                            told = self._answer(content, waited, flat=flat)
                        if told is None:
                            headers, told = self._classify(content, waited, flat=flat)
        except RequestError as refusal:
            status, headers, told = refusal.status, [_JSON, *refusal.headers], encode_error(str(refusal))
            if status in (408, 413):
                headers.append((b"connection", b"close"))  # the rest of the body is not read
        headers.append((b"content-length", b"%d" % len(told)))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": told})
        self._loaded.metrics.count_response(status)

    def _route(self, scope: Scope) -> bool | None:
        """Return whether texts are asked about with `/predict`, or with `/`; None where nothing is to be classified.

        Raises:
            RequestError: 404, 405, 401.
        """
        path, method = _path(scope), scope["method"]
        allowed = ALLOWED_METHODS.get(path)
        if allowed is None:
            raise RequestError(404, f"there is no {path[:200]}; there are {', '.join(ALLOWED_METHODS)}")
        if method not in allowed:
            told = (b"allow", ", ".join(allowed).encode())
            raise RequestError(405, f"{path} takes {' and '.join(allowed)}", told)
        if (
            self._keys
            and (path, method) not in PUBLIC_ROUTES
            and not self._keys.authorizes(_header(scope, b"authorization"))
        ):
            told = (b"www-authenticate", b"Bearer")
            raise RequestError(401, "send a key of this service as `Authorization: Bearer KEY`", told)
        return path == "/predict" if method == "POST" else None

    def _tell(self, scope: Scope) -> tuple[Headers, bytes]:
        """Return the answer to a GET."""
        path = _path(scope)
        if path == "/":
            return [*self._page_headers], self._page
        if path == "/info":
            return [_JSON], json.dumps(self._info()).encode()
        return [_JSON], self._description if path == "/openapi.json" else b'{"status": "ok"}'

    def _answer(self, content: bytes, waited: float, *, flat: bool) -> bytes | None:
        """Return the answer to a plain question (serving.web.fast_path); None if it has to be parsed.

        Args:
            waited: seconds until now.
        """
        models = self._loaded.models
        assert models is not None, "Serve calls reconfigure before the first request"
        if models.candidate is not None:
            return None
        told = models.primary.try_fast_path(content, flat=flat)
        if told is not None:
            self._loaded.metrics.observe_queue_wait(waited)
        return told

    def _classify(self, content: bytes, waited: float, *, flat: bool) -> tuple[Headers, bytes]:
        """Return the answer to any question."""
        self._loaded.metrics.observe_queue_wait(waited)
        question = parse_request(content, self._limits)
        models = self._loaded.models
        assert models is not None
        if models.candidate is None:
            headers, model, shadow = [_JSON], models.primary, None
        else:
            model, shadow = models.select()
            headers = [_JSON, (b"x-checkpoint", model.name.encode())]
        best, scores = model.score(question)
        reasons = [Explainer(model.classifier, text) for text in question.texts] if question.explain else []
        told = model.response_encoder.encode(question, scores, reasons, flat=flat)
        if shadow is not None:
            seen, _ = shadow.score(question)
            shadow.counters.shadow_texts += len(seen)
            shadow.counters.shadow_agreements += sum(one == other for one, other in zip(best, seen, strict=True))
        return headers, told

    def _info(self) -> dict[str, Any]:
        assert self._loaded.models is not None
        candidate, choice = self._loaded.models.candidate, self._loaded.models.user_config.candidate
        found = self._loaded.models.primary.info | {"limits": self._limits.model_dump()}
        if candidate is not None and choice is not None:
            found["candidate"] = {"weight": choice.weight, "shadow": choice.shadow} | candidate.info
        if self._loaded.load_error:
            found["refused"] = self._loaded.load_error
        return found


async def _without_http(scope: Scope, receive: Receive, send: Send) -> None:
    """Begin and end with the server, and close what is no HTTP."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1000})
        return
    while (await receive())["type"] != "lifespan.shutdown":
        await send({"type": "lifespan.startup.complete"})
    await send({"type": "lifespan.shutdown.complete"})


_JSON = (b"content-type", b"application/json")


def _path(scope: Scope) -> str:
    path = scope["path"].removeprefix(scope.get("root_path", ""))
    return path if path in ALLOWED_METHODS else path.rstrip("/") or "/"


def _header(scope: Scope, wanted: bytes) -> bytes:
    return next((value for name, value in scope["headers"] if name == wanted), b"")
