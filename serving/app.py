"""The classifier as a Ray Serve deployment. Serve configurations name it as `serving.app:build`.

The checkpoint's path stands in `user_config`, which Serve changes without replacing the replicas.
"""

import asyncio
import logging
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from ray import serve

from cluster import UsageError
from jobs.inference import projection_table as table
from serving import accepted
from serving.web import served_models as models
from serving.web.asgi import ClassifierApplication
from serving.web.metrics import FLUSH_PERIOD_S, ReplicaMetrics
from serving.web.protocol import Limits
from serving.web.served_models import ServedModels

# A checkpoint that was refused is looked at again after so many periods of the metrics.
RELOAD_RETRY_PERIODS = 5

logger = logging.getLogger("ray.serve")


class ApplicationArguments(BaseModel):
    """The application's `args` in a Serve configuration.

    table_bytes: memory for the words of each checkpoint, a candidate's too; a node's replicas share it.
    """

    model_config = ConfigDict(extra="forbid")

    limits: Limits = Limits()
    table_bytes: int = Field(table.DEFAULT_TABLE_BYTES, ge=0)


def build(args: ApplicationArguments) -> serve.Application:
    """Return the application; its deployment is called `Classifier`."""
    return ClassifierDeployment.bind(args.model_dump())


class Replica:
    """Holds what is served, one checkpoint or one and a candidate, and how it is doing."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        self._arguments = ApplicationArguments.model_validate(arguments)
        self.models: ServedModels | None = None
        self._configuring = asyncio.Lock()
        self._wanted: dict[str, Any] = {}
        self.load_error: str | None = None
        self.metrics = ReplicaMetrics()
        self._reporting: asyncio.Task | None = None

    def __serve_build_asgi_app__(self) -> ClassifierApplication:
        return ClassifierApplication(self, self._arguments.limits)

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Load what `user_config` names; on an error what was loaded before goes on serving, and `/info` says why."""
        async with self._configuring:
            self._wanted = user_config
            await self._configure()
        if self._reporting is None:
            self._reporting = asyncio.create_task(self._report())

    async def _configure(self) -> None:
        try:
            choice = models.parse_user_config(self._wanted)
            self.models = await self._loaded(choice)
            self.load_error = None
            await asyncio.to_thread(accepted.save_last_good_config, choice)
        except UsageError as refusal:
            if self.models is None:  # it starts only now
                before = await asyncio.to_thread(accepted.load_last_good_config)
                if before is None:
                    raise
                try:
                    self.models = await self._loaded(before)
                except UsageError:  # gone too
                    raise refusal from None
            if str(refusal) != self.load_error:
                self.load_error = str(refusal)
                logger.error("the checkpoint was refused, the one before goes on serving: %s", refusal)
        self.metrics.set_checkpoint_refused(self.load_error is not None)

    async def _loaded(self, choice: models.UserConfig) -> ServedModels:
        given = self._arguments
        return await asyncio.to_thread(
            models.load_models, choice, self.models, given.table_bytes, given.limits.max_text_length
        )

    def stop_reporting(self) -> None:
        """Hand no more figures to Ray."""
        if self._reporting is not None:
            self._reporting.cancel()
            self._reporting = None

    async def _report(self) -> None:
        periods = 0
        while True:
            await asyncio.sleep(FLUSH_PERIOD_S)
            models = self.models
            served = () if models is None else (models.primary, *((models.candidate,) if models.candidate else ()))
            self.metrics.flush({(each.name, tuple(each.classifier.labels)): each.take_counters() for each in served})
            periods += 1
            if self.load_error is not None and periods % RELOAD_RETRY_PERIODS == 0:
                async with self._configuring:  # it may have been mended: Serve does not ask again for the same
                    await self._configure()


ClassifierDeployment = serve.deployment(name="Classifier")(serve.ingress()(Replica))
