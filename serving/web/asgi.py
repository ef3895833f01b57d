"""ASGI application of a replica. It is written without a framework, which would cost more than the model."""

import json
from time import perf_counter
from typing import Any, NamedTuple, Protocol
from urllib.parse import quote

from starlette.types import Receive, Scope, Send

from jobs.config.abstention import AbstentionRule, MissingThreshold, Objective, require_rule
from jobs.inference.explanation import Explainer
from serving.api_keys import load_api_keys
from serving.web.admission import AdmissionQueue
from serving.web.body import BodyReader, decode_body
from serving.web.metrics import ReplicaMetrics
from serving.web.middleware import ARRIVAL_KEY
from serving.web.model_pool import ModelPool
from serving.web.openapi import build_openapi
from serving.web.page import build_headers, load_page
from serving.web.protocol import Limits, RequestError, encode_error, encode_response, parse_request
from serving.web.served_models import ServedModel, ServedModels

ALLOWED_METHODS = {
    "/": ("GET", "HEAD", "POST"),
    "/predict": ("POST",),
    "/info": ("GET", "HEAD"),
    "/health": ("GET", "HEAD"),
    "/openapi.json": ("GET", "HEAD"),
    "/models": ("GET", "HEAD"),
}
# Of `/models/NAME` and `/models/NAME/...`.
MODEL_METHODS = {"": ("POST",), "predict": ("POST",), "info": ("GET", "HEAD")}
PATHS = (*ALLOWED_METHODS, *(f"/models/NAME/{resource}".rstrip("/") for resource in MODEL_METHODS))
# They need no key.
PUBLIC_ROUTES = {(path, method) for path in ("/", "/health", "/openapi.json") for method in ("GET", "HEAD")}
_JSON = (b"content-type", b"application/json")
# The response header with the share of unknown words, by that share in thousandths.
_UNKNOWN_WORDS = [(b"x-unknown-words", b"%.3f" % (permille / 1000)) for permille in range(1001)]

Headers = list[tuple[bytes, bytes]]


class Route(NamedTuple):
    """A path of the service.

    model: name of a further model, or None. resource: its path, without slashes at its ends; of a further model what
    follows its name. methods: that it accepts.
    """

    model: str | None
    resource: str
    methods: tuple[str, ...]


_ROUTES = {path: Route(None, path.strip("/"), methods) for path, methods in ALLOWED_METHODS.items()}


class ReplicaState(Protocol):
    """State of a replica that the application reads.

    models: those of `/predict`; pool: the further ones.
    load_error: why the configured checkpoint, refused_checkpoint, is refused.
    """

    models: ServedModels | None
    pool: ModelPool
    load_error: str | None
    refused_checkpoint: str | None
    metrics: ReplicaMetrics


class ClassifierApplication:
    """ASGI application of a replica.

    Raises:
        ApiKeysError: the configured API keys cannot be read.
    """

    routes = ()  # Ray looks for those of a framework

    def __init__(self, replica: ReplicaState, limits: Limits) -> None:
        self._replica, self._limits = replica, limits
        self._keys = load_api_keys()
        self._requires_key = bool(self._keys)
        self._bodies, self.admission = BodyReader(limits.max_body_bytes), AdmissionQueue()
        self._page, self._page_headers = load_page(), build_headers()
        self._openapi: dict[tuple[tuple[str, ...], str], bytes] = {}

    @property
    def num_keys(self) -> int:
        """Number of accepted API keys; 0 if none is required."""
        return len(self._keys)

    def _describe_api(self, root_path: str) -> bytes:
        """Return the OpenAPI description; it is built again for other further models, and under another path."""
        names = self._replica.pool.names
        if (names, root_path) not in self._openapi:
            api = build_openapi(self._limits, require_key=self._requires_key, models=names, root_path=quote(root_path))
            self._openapi = {(names, root_path): json.dumps(api).encode()}
        return self._openapi[names, root_path]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond to an HTTP request. It awaits directly what most requests need: each further coroutine takes time."""
        if scope["type"] != "http":
            await _handle_other_protocol(scope, receive, send)
            return
        arrival = perf_counter()
        status = 200
        try:
            route = self._route(scope)
            if route.model is not None:
                headers, response = await self._respond_with_model(route, scope, receive, arrival)
            elif scope["method"] != "POST":
                status, headers, response = self._get(scope, route.resource)
            else:
                body = await self._bodies.read(receive, arrival)
                start = perf_counter()
                if not self.admission.try_admit():
                    await self.admission.wait()
                now = perf_counter()
                try:
                    wait = arrival - scope.get(ARRIVAL_KEY, arrival) + now - start
                    flat = route.resource == "predict"
                    headers, response = self._classify(scope, body, self._replica.models, wait, flat=flat)
                finally:
                    self.admission.record_duration(perf_counter() - now)
        except RequestError as error:
            status, response = error.status, encode_error(str(error))
            headers = [_JSON, *error.headers, *self._name_checkpoint(scope)]
            if status in (408, 413):
                headers.append((b"connection", b"close"))  # the rest of the body is not read
        except Exception:
            self._replica.metrics.count_response(500)  # of the web server, which logs the error
            raise
        headers.append((b"content-length", b"%d" % len(response)))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else response})
        self._replica.metrics.count_response(status)

    async def respond(self, body: bytes, model: str | None = None) -> bytes:
        """Return the response of `/predict`, or of a further model's, to another deployment, which needs no key.

        Raises:
            RequestError: the request is invalid.
        """
        models = None if model is None else await self._replica.pool.get(model)
        return (await self._classify_admitted({"headers": ()}, body, models, 0.0))[1]

    async def _respond_with_model(
        self, route: Route, scope: Scope, receive: Receive, arrival: float
    ) -> tuple[Headers, bytes]:
        """Return the response of a further model; arrival: of the request in the application, in seconds."""
        pool, name = self._replica.pool, route.model or ""
        pool.require(name)
        if route.resource == "info":
            model = (await pool.get(name)).primary
            return [_JSON, model.header], json.dumps({**model.info, "limits": self._limits.model_dump()}).encode()
        body = await self._bodies.read(receive, arrival)
        models = await pool.get(name)
        wait = arrival - scope.get(ARRIVAL_KEY, arrival)
        return await self._classify_admitted(scope, body, models, wait, flat=route.resource == "predict")

    async def _classify_admitted(
        self, scope: Scope, body: bytes, models: ServedModels | None, wait: float, *, flat: bool = True
    ) -> tuple[Headers, bytes]:
        """Return the response to a body after the admission queue.

        Args:
            models: those of a further model; None for those of `/predict`.
            flat: in the format of `/predict`; otherwise in that of `POST /`.
        """
        start = perf_counter()
        if not self.admission.try_admit():
            await self.admission.wait()
        now = perf_counter()
        try:
            return self._classify(scope, body, models or self._replica.models, wait + now - start, flat=flat)
        finally:
            self.admission.record_duration(perf_counter() - now)

    def _route(self, scope: Scope) -> Route:
        """Return the route of a request.

        Raises:
            RequestError: 404, 405, 401.
        """
        path, method = _normalize_path(scope), scope["method"]
        route = find_route(path)
        if route is None:
            raise RequestError(404, f"no such path: {path[:200]}; the paths are {', '.join(PATHS)}")
        if method not in route.methods:
            header = (b"allow", ", ".join(route.methods).encode())
            raise RequestError(405, f"{path} accepts {' and '.join(route.methods)}", header)
        if (
            self._requires_key
            and (path, method) not in PUBLIC_ROUTES
            and not self._keys.authorizes(_find_header(scope, b"authorization"))
        ):
            header = (b"www-authenticate", b"Bearer")
            raise RequestError(401, "an API key is required; send it as `Authorization: Bearer KEY`", header)
        return route

    def _get(self, scope: Scope, resource: str) -> tuple[int, Headers, bytes]:
        """Return status, headers and body of the response to a GET or HEAD of a resource, the path of a route."""
        headers, root_path = [_JSON, *self._name_checkpoint(scope)], scope.get("root_path", "")
        if resource == "":
            if root_path and scope["path"] == root_path:  # the page's requests are relative to its folder
                return 307, [(b"location", _build_location(scope))], b""
            return 200, [*self._page_headers, *self._name_checkpoint(scope)], self._page
        if resource == "info":
            return 200, headers, json.dumps(self._describe_models()).encode()
        if resource == "models":
            return 200, headers, json.dumps(self._replica.pool.describe()).encode()
        if resource == "openapi.json":
            return 200, headers, self._describe_api(root_path)
        return 200, headers, b'{"status": "ok"}'

    def _name_checkpoint(self, scope: Scope) -> Headers:
        """Return the header that names the primary checkpoint; none before one is loaded, and for a further model."""
        models, route = self._replica.models, find_route(_normalize_path(scope))
        if models is None or (route is not None and route.model is not None):
            return []
        return [models.primary.header]

    def _classify(
        self, scope: Scope, body: bytes, models: ServedModels | None, wait: float, *, flat: bool
    ) -> tuple[Headers, bytes]:
        """Return the response to a body.

        Args:
            models: those that respond.
            wait: seconds that the request has waited.
        """
        self._replica.metrics.observe_queue_wait(wait)
        models = _require_checkpoint(models)
        default_function = models.primary.default_function
        try:
            request = parse_request(body, self._limits, default_function)
        except RequestError:
            encoding = _find_header(scope, b"content-encoding")  # rare, and no compressed body is JSON
            if not encoding:
                raise
            content = decode_body(body, encoding, self._limits.max_body_bytes)
            request = parse_request(content, self._limits, default_function)
        model, shadow = (models.primary, None) if models.candidate is None else models.select()
        abstention = _require_rule(model, request.abstain) if request.abstain else None
        scored = model.score(request)
        if shadow is not None:
            shadow.score(request)
            count = len(request.texts)
            shadow.counters.shadow_texts += count
            agreements = shadow.scorer.best[:count] == model.scorer.best[:count]
            shadow.counters.shadow_agreements += int(agreements.sum())
        explainers = [Explainer(model.classifier, text) for text in request.texts] if request.explain else []
        response = encode_response(
            request, model.classifier.labels, scored.scores, explainers, flat=flat, max_scores=self._limits.max_scores,
            thresholds=model.thresholds, abstention=abstention,
        )  # fmt: skip
        return [_JSON, model.header, _UNKNOWN_WORDS[scored.unknown_permille]], response

    def _describe_models(self) -> dict[str, Any]:
        models = _require_checkpoint(self._replica.models)
        info: dict[str, Any] = {**models.primary.info, "limits": self._limits.model_dump()}
        if models.candidate is not None and models.user_config.candidate is not None:
            info["candidate"] = models.user_config.candidate.model_dump(include={"weight", "shadow"})
            info["candidate"] |= models.candidate.info
        if self._replica.load_error:
            info["refused"] = self._replica.load_error
            info["refused_checkpoint"] = self._replica.refused_checkpoint
        return info


def _require_checkpoint(models: ServedModels | None) -> ServedModels:
    """Return the models; RequestError if the configuration names no checkpoint."""
    if models is None:
        raise RequestError(503, "no checkpoint is configured: set args.checkpoint or user_config.checkpoint")
    return models


def _require_rule(model: ServedModel, objective: Objective) -> AbstentionRule:
    """Return a model's rule of abstention; RequestError if it has no threshold for the objective."""
    try:
        return require_rule(model.info["metrics"], objective)
    except MissingThreshold as error:
        raise RequestError(409, f"abstain: {error}") from error


async def _handle_other_protocol(scope: Scope, receive: Receive, send: Send) -> None:
    """Close a WebSocket; start and end with the server."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1000})
        return
    while (await receive())["type"] != "lifespan.shutdown":
        await send({"type": "lifespan.startup.complete"})
    await send({"type": "lifespan.shutdown.complete"})


def _normalize_path(scope: Scope) -> str:
    path: str = scope["path"].removeprefix(scope.get("root_path", ""))
    return path if path in ALLOWED_METHODS else path.rstrip("/") or "/"


def _build_location(scope: Scope) -> bytes:
    """Return the path of a request with a slash at its end, relative to the path itself."""
    query = scope.get("query_string", b"")
    return quote(scope["path"].rpartition("/")[2]).encode() + b"/" + (b"?" + query if query else b"")


def find_route(path: str) -> Route | None:
    """Return the route of `/predict`, `/models/NAME`, `/models/NAME/RESOURCE` or another path; None without one."""
    if route := _ROUTES.get(path):
        return route
    prefix, _, rest = path.removeprefix("/").partition("/")
    name, _, resource = rest.partition("/")
    methods = MODEL_METHODS.get(resource)
    return Route(name, resource, methods) if prefix == "models" and name and methods else None


def find_allowed_methods(scope: Scope) -> tuple[str, ...] | None:
    """Return the methods that the path of a request accepts; None if there is no such path."""
    route = find_route(_normalize_path(scope))
    return None if route is None else route.methods


def _find_header(scope: Scope, header: bytes) -> bytes:
    return next((value for name, value in scope["headers"] if name == header), b"")
