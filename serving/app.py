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
from serving.web.asgi import Application
from serving.web.metrics import PERIOD_S, Metrics
from serving.web.protocol import Limits
from serving.web.served_models import Models

# A checkpoint that was refused is looked at again after so many periods of the metrics.
RETRY_PERIODS = 5

logger = logging.getLogger("ray.serve")


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
    """Holds what is served, one checkpoint or one and a candidate, and how it is doing."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        self._arguments = Arguments.model_validate(arguments)
        self.models: Models | None = None
        self._configuring = asyncio.Lock()
        self._wanted: dict[str, Any] = {}
        self.refused: str | None = None
        self.metrics = Metrics()
        self._reporting: asyncio.Task | None = None

    def __serve_build_asgi_app__(self) -> Application:
        return Application(self, self._arguments.limits)

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
            self.refused = None
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
            if str(refusal) != self.refused:
                self.refused = str(refusal)
                logger.error("the checkpoint was refused, the one before goes on serving: %s", refusal)
        self.metrics.refused(self.refused is not None)

    async def _loaded(self, choice: models.Choice) -> Models:
        given = self._arguments
        return await asyncio.to_thread(
            models.load, choice, self.models, given.table_bytes, given.limits.max_text_length
        )

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
            self.metrics.flush({(each.name, tuple(each.classifier.labels)): each.counted() for each in served})
            periods += 1
            if self.refused is not None and periods % RETRY_PERIODS == 0:
                async with self._configuring:  # it may have been mended: Serve does not ask again for the same
                    await self._configure()


Service = serve.deployment(name="Classifier")(serve.ingress()(Replica))
