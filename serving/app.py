"""Ray Serve deployment of the classifier. Serve configurations refer to it as `serving.app:build`.

The path of the checkpoint is in `user_config`, which Serve changes without replacing the replicas.
"""

import asyncio
import gc
import json
import logging
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from ray import serve

from cluster import UsageError
from cluster.storage import absolute_path
from jobs.inference.projection_table import DEFAULT_TABLE_BYTES, DEFAULT_TABLE_DTYPE, TableDtype
from serving.web.asgi import ClassifierApplication
from serving.web.cors import CrossOriginApplication, Origin
from serving.web.metrics import FLUSH_PERIOD_S, ModelCounts, ReplicaMetrics
from serving.web.model_pool import ModelPool
from serving.web.protocol import Limits, RequestError
from serving.web.served_models import (
    CandidateError,
    ServedModel,
    ServedModels,
    UserConfig,
    UserConfigError,
    load_model,
    load_models,
    parse_user_config,
)

DEFAULT_MODELS_BYTES = 1 << 30
# Young objects at which Python looks for unreachable ones. At its default, 700, a service with 16 connections answers a
# tenth fewer requests (`python benchmarks/serving.py --only speed`).
GC_THRESHOLD = 10_000
# A refused checkpoint is tried again after this many flushes of the metrics, then after twice as many each time, up to
# five minutes: it may have to be downloaded.
RELOAD_RETRY_PERIODS = 5
MAX_RELOAD_RETRY_PERIODS = round(300 / FLUSH_PERIOD_S)

logger = logging.getLogger("ray.serve")


class ApplicationArguments(BaseModel):
    """The application's `args` in a Serve configuration.

    checkpoint: path or URI, unless the `user_config` of the deployment names it, which can be changed later.
    table_bytes: memory for the projection table of each checkpoint, also of a candidate's; replicas of a node share it.
    table_dtype: type of the table; with float32, scores are those of training to 1e-5.
    models_bytes: memory for the `models` of the `user_config` that are open at a time, per replica.
    allowed_origins: origins of web pages that may read responses (CORS), such as https://example.com, or "*" for all.
    """

    model_config = ConfigDict(extra="forbid")

    checkpoint: str | None = None
    limits: Limits = Limits()
    table_bytes: int = Field(DEFAULT_TABLE_BYTES, ge=0)
    table_dtype: TableDtype = DEFAULT_TABLE_DTYPE
    models_bytes: int = Field(DEFAULT_MODELS_BYTES, ge=0)
    allowed_origins: list[Origin] = []


def build(args: ApplicationArguments) -> serve.Application:
    """Return the application; its deployment is called `Classifier`.

    Serve calls it for `import_path: serving.app:build`. In Python, other deployments may have it as an argument, and
    call the method `classify` of its handle.
    """
    deployment = ClassifierDeployment
    if args.checkpoint is not None:
        deployment = deployment.options(user_config={"checkpoint": absolute_path(args.checkpoint)})
    return deployment.bind(args.model_dump())


class Replica:
    """State of a replica: the served checkpoint, an optional candidate, further models, and metrics."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        gc.set_threshold(GC_THRESHOLD)
        self._arguments = ApplicationArguments.model_validate(arguments)
        self.models: ServedModels | None = None
        self._replaced_counts: list[ModelCounts] = []  # of models that were replaced since the last flush
        self.pool = ModelPool(self._load_further_model, self._arguments.models_bytes)
        self._configuring = asyncio.Lock()
        self._user_config: dict[str, Any] = {}
        self.load_error: str | None = None
        self.refused_checkpoint: str | None = None
        self._retry_periods = self._periods_to_retry = RELOAD_RETRY_PERIODS
        self._export_error = ""
        self.metrics = ReplicaMetrics()
        self._metrics_export: asyncio.Task[None] | None = None

    def __serve_build_asgi_app__(self) -> ClassifierApplication | CrossOriginApplication:
        self._application = ClassifierApplication(self, self._arguments.limits)
        logger.info("active API keys: %d", self._application.num_keys)
        origins = self._arguments.allowed_origins
        return CrossOriginApplication(self._application, origins) if origins else self._application

    async def classify(self, texts: list[str], *, model: str | None = None, **parameters: Any) -> list[Any]:
        """Return the labels of texts with their scores, the best first, as `POST /predict`, to another deployment.

        Args:
            model: name of a further model.
            parameters: top_k, function_to_apply, threshold, explain, abstain.

        Raises:
            ValueError: the request is invalid, or exceeds the limits.
        """
        body = json.dumps({"inputs": texts, "parameters": parameters}).encode()
        try:
            labels: list[Any] = json.loads(await self._application.respond(body, model))
        except RequestError as error:
            raise ValueError(str(error)) from error
        return labels

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Load the checkpoints of a `user_config`; `/info` contains the reason of an error.

        If only the candidate is refused, the others are loaded without it, as in a replica that starts later; after any
        other error the loaded ones stay.
        """
        async with self._configuring:
            self._user_config = user_config
            await self._configure(again=False)
            self._retry_periods = self._periods_to_retry = RELOAD_RETRY_PERIODS
        if self._metrics_export is None or self._metrics_export.done():  # done if its event loop has ended
            self._metrics_export = asyncio.create_task(self._export_metrics())

    async def _configure(self, *, again: bool) -> None:
        """Load the checkpoints of the `user_config`. again: they were refused, and may have been repaired."""
        refusal: UsageError | None
        try:
            models = self._use(await self._load(parse_user_config(self._user_config)))
            await self.pool.configure(models.user_config.models, again=again)
            refusal = models.candidate_error
        except UsageError as error:
            refusal = error
            if self.models is None or isinstance(error, CandidateError):
                self._use(await self._load_fallback(error, again=again))
        is_candidate = isinstance(refusal, CandidateError)
        candidate = self._user_config.get("candidate")
        refused = candidate if is_candidate and isinstance(candidate, dict) else self._user_config
        self.refused_checkpoint = refused.get("checkpoint") if refusal else None
        if refusal and str(refusal) != self.load_error and self.models is not None:
            role, served = "candidate" if is_candidate else "checkpoint", self.models.primary.info["checkpoint"]
            logger.error("the %s is refused and %s is served: %s", role, served, refusal)
        self.load_error = str(refusal) if refusal else None
        self.metrics.set_checkpoint_refused(refusal is not None)

    def _use(self, models: ServedModels) -> ServedModels:
        """Respond with these models from now on; return them."""
        previous, self.models = self.models, models
        kept = {id(model) for model in models.loaded()}
        self._replaced_counts += [
            model.take_counts(role) for role, model in _name_roles(previous) if id(model) not in kept
        ]
        return models

    async def _load_fallback(self, refusal: UsageError, *, again: bool) -> ServedModels:
        """Return the models of the checkpoint without its candidate, or else those loaded now, or the previous one.

        The checkpoint is loaded only if the refusal is of the `user_config`. Without any of them raise `refusal`.
        """
        keys = ["checkpoint"] if isinstance(refusal, UserConfigError) and self._user_config.get("candidate") else []
        for key in keys if self.models else [*keys, "previous"]:
            with suppress(UsageError):
                models = await self._load(parse_user_config({"checkpoint": self._user_config.get(key)}))
                with suppress(UsageError):  # `models` may be the invalid part
                    further = {"checkpoint": "", "models": self._user_config.get("models", {})}
                    await self.pool.configure(parse_user_config(further).models, again=again)
                return models
        if self.models is None:
            raise refusal
        return self.models

    async def _load(self, config: UserConfig) -> ServedModels:
        table_bytes, table_dtype = self._arguments.table_bytes, self._arguments.table_dtype
        limits = self._arguments.limits
        return await asyncio.to_thread(load_models, config, self.models, table_bytes, table_dtype, limits)

    def _load_further_model(self, path: str) -> ServedModel:
        arguments = self._arguments
        return load_model(path, (), arguments.table_bytes, arguments.table_dtype, arguments.limits)

    async def _export_metrics(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_PERIOD_S)
            try:
                await self._export_once(retry=self._is_retry_due())
                self._export_error = ""
            except Exception as error:  # a failure must not end the reports that follow
                if repr(error) != self._export_error:
                    self._export_error = repr(error)
                    logger.exception("metrics cannot be exported; the next try is in %g s", FLUSH_PERIOD_S)

    def _is_retry_due(self) -> bool:
        """Return whether a refused checkpoint is to be tried again in this period; called once in each."""
        if self.load_error is None:
            self._retry_periods = self._periods_to_retry = RELOAD_RETRY_PERIODS
            return False
        self._periods_to_retry -= 1
        if self._periods_to_retry > 0:
            return False
        self._retry_periods = self._periods_to_retry = min(2 * self._retry_periods, MAX_RELOAD_RETRY_PERIODS)
        return True

    async def _export_once(self, *, retry: bool) -> None:
        """Export the metrics; if retry, try to load a refused checkpoint again."""
        counts, self._replaced_counts = self._replaced_counts, []
        counts += [model.take_counts(role) for role, model in _name_roles(self.models)]
        further, pool = self.pool.take_counts()
        self.metrics.flush([*counts, *further], pool)
        # Serve does not send the same user_config again after the checkpoint has been repaired.
        if retry and self.load_error is not None and not self._configuring.locked():
            async with self._configuring:
                await self._configure(again=True)


def _name_roles(models: ServedModels | None) -> Iterator[tuple[str, ServedModel]]:
    """Yield the models with their roles."""
    yield from zip(("primary", "candidate"), models.loaded() if models else (), strict=False)


ClassifierDeployment = serve.deployment(name="Classifier")(serve.ingress()(Replica))
