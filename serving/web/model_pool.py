"""Further models of a replica, each at `/models/NAME`: opened when they are needed, within a limit of memory.

The model that was used least recently is closed when another one needs its memory, and opened again by its next
request. A model that cannot be opened, or needs more than the limit by itself, is refused: its requests get a 503 with
the reason, and `GET /models` shows it.
"""

import asyncio
import logging
import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Literal, TypedDict

from cluster import UsageError
from serving.web.metrics import ModelCounts, PoolState
from serving.web.protocol import RequestError
from serving.web.served_models import ServedModel, ServedModels, UserConfig

RETRY_S, MAX_RETRY_S = 10, 300
"""Seconds until a refused model is opened again if a request needs it: twice as many each time, up to a limit."""

logger = logging.getLogger("ray.serve")


class ModelState(TypedDict):
    """A model in `GET /models`. bytes: its memory if it is open. refused: why it could not be opened, or None."""

    name: str
    checkpoint: str
    state: Literal["open", "closed", "refused"]
    bytes: int
    refused: str | None


class PoolDescription(TypedDict):
    """Content of `GET /models`. bytes: of the open models; max_bytes: their limit."""

    models: list[ModelState]
    bytes: int
    max_bytes: int


@dataclass(frozen=True)
class _Refusal:
    reason: str
    time_s: float
    attempts: int

    def wait_s(self) -> float:
        """Return the seconds until the model may be opened again; not positive if it may be now."""
        return self.time_s + min(RETRY_S << (self.attempts - 1), MAX_RETRY_S) - monotonic()


class ModelPool:
    """Models by name, in one event loop.

    Args:
        load: returns the model of a checkpoint, or raises UsageError; called in another thread.
        max_bytes: limit of the memory of the open models together.
    """

    def __init__(self, load: Callable[[str], ServedModel], max_bytes: int) -> None:
        self._load, self._max_bytes = load, max_bytes
        self._paths: dict[str, str] = {}
        self._open: OrderedDict[str, ServedModels] = OrderedDict()  # the least recently used first
        self._refusals: dict[str, _Refusal] = {}
        self._lock = asyncio.Lock()  # one is opened at a time: a checkpoint that is read takes memory of its own
        self._opening: dict[str, asyncio.Task[ServedModels]] = {}
        self._closed_counts: list[ModelCounts] = []  # of models that were closed since the last flush
        self._opened = 0  # since the last flush
        self._has_state = False  # there have been models

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the models."""
        return tuple(self._paths)

    async def configure(self, paths: Mapping[str, str], *, again: bool = False) -> None:
        """Set the checkpoints of the models.

        An open model whose checkpoint is another one now responds until that is open, and longer if it is refused.

        Args:
            again: the configuration is not a new one: without a change of the checkpoints, refusals stay.
        """
        if again and paths == self._paths:
            return
        async with self._lock:
            self._paths, self._refusals = dict(paths), {}
            self._has_state = self._has_state or bool(paths)
            for name in [name for name in self._open if name not in paths]:
                self._close(name)
        for name in [name for name in self._open if self._is_outdated(name)]:
            try:
                await asyncio.shield(self._start_opening(name))
            except RequestError as refusal:
                logger.error("models: %s", refusal)

    def require(self, name: str) -> None:
        """Raise a RequestError, 404, if there is no such model."""
        if name not in self._paths:
            names = f"the models are {', '.join(self._paths)}" if self._paths else "this service has no further models"
            raise RequestError(404, f"no such model: {name[:64]}; {names}")

    async def get(self, name: str) -> ServedModels:
        """Return a model, opened if it is closed.

        If the open one is to be replaced, but its new checkpoint was refused, that is tried again meanwhile.

        Raises:
            RequestError: 404 if there is no such model, 503 if it is refused.
        """
        self.require(name)
        models = self._open.get(name)
        if models is None:
            models = await asyncio.shield(self._start_opening(name))
        elif self._is_outdated(name) and not self._is_refused(name):
            self._start_opening(name)
        if name in self._open:
            self._open.move_to_end(name)
        return models

    def _is_outdated(self, name: str) -> bool:
        """Return whether the configuration names another checkpoint for an open model."""
        return self._open[name].user_config.checkpoint != self._paths[name]

    def _is_refused(self, name: str) -> bool:
        """Return whether a model was refused, and is not to be tried again yet."""
        refusal = self._refusals.get(name)
        return refusal is not None and refusal.wait_s() > 0

    def _start_opening(self, name: str) -> "asyncio.Task[ServedModels]":
        """Return the task that opens a model. It is shared by requests, and goes on when one of them is cancelled."""
        task = self._opening.get(name)
        if task is None or task.done():
            task = self._opening[name] = asyncio.create_task(self._open_in_turn(name))
            task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # nobody else may retrieve it
        return task

    async def _open_in_turn(self, name: str) -> ServedModels:
        try:
            async with self._lock:
                self.require(name)  # the configuration may have changed
                if name not in self._open or self._is_outdated(name):
                    await self._open_model(name)
                return self._open[name]
        finally:
            self._opening.pop(name, None)

    async def _open_model(self, name: str) -> None:
        """Open a model, and close others as necessary; RequestError 503 if it is refused."""
        if not self._is_refused(name):
            path = self._paths[name]
            try:
                model = await asyncio.to_thread(self._load, path)
                if model.memory_bytes > self._max_bytes:
                    raise UsageError(f"{path}: needs {model.memory_bytes:,} bytes; models_bytes is {self._max_bytes:,}")
                self._add(name, ServedModels(UserConfig(checkpoint=path), model))
                return
            except UsageError as error:
                earlier = self._refusals.get(name)
                self._refusals[name] = _Refusal(str(error), monotonic(), earlier.attempts + 1 if earlier else 1)
        refusal = self._refusals[name]
        header = (b"retry-after", b"%d" % max(1, math.ceil(refusal.wait_s())))
        raise RequestError(503, f"the model {name} is refused: {refusal.reason}", header)

    def _add(self, name: str, models: ServedModels) -> None:
        """Add an open model, instead of one with its name and of those that were used least recently."""
        self._refusals.pop(name, None)
        if name in self._open:
            self._close(name)
        while self._open and self._bytes_used() + models.primary.memory_bytes > self._max_bytes:
            self._close(next(iter(self._open)))
        self._open[name] = models
        self._opened += 1

    def _close(self, name: str) -> None:
        self._closed_counts.append(self._open.pop(name).primary.take_counts(f"models/{name}"))

    def _bytes_used(self) -> int:
        return sum(models.primary.memory_bytes for models in self._open.values())

    def describe(self) -> PoolDescription:
        """Return the state of all models."""
        return PoolDescription(
            models=[self._describe(name) for name in self._paths],
            bytes=self._bytes_used(),
            max_bytes=self._max_bytes,
        )

    def _describe(self, name: str) -> ModelState:
        models, refusal = self._open.get(name), self._refusals.get(name)
        return ModelState(
            name=name,
            checkpoint=models.primary.info["checkpoint"] if models else self._paths[name],
            state="open" if models else "refused" if refusal else "closed",
            bytes=models.primary.memory_bytes if models else 0,
            refused=refusal.reason if refusal else None,
        )

    def take_counts(self) -> tuple[list[ModelCounts], PoolState | None]:
        """Return the counters of the models for a flush and reset them, and the state; None before the first model."""
        counts = [models.primary.take_counts(f"models/{name}") for name, models in self._open.items()]
        counts, self._closed_counts = [*self._closed_counts, *counts], []
        state = PoolState(len(self._open), len(self._refusals), self._bytes_used(), self._opened)
        self._opened = 0
        return counts, state if self._has_state else None
