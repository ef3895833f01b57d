"""Classifier deployments with other admission of requests, for the scenario `admission` of benchmarks/serving.py.

build_queue   the service as it is, with serving/web/admission.py
build_lock    an `asyncio.Lock`: requests wait where Ray counts them, and one runs per iteration of the event loop
build_none    nothing: each request runs as soon as it arrives
"""

import asyncio

from ray import serve

from serving.app import ApplicationArguments, Replica
from serving.web.asgi import ClassifierApplication


class NoAdmission:
    """Admits each request immediately."""

    def try_admit(self) -> bool:
        """Return whether a request may run immediately."""
        return True

    def record_duration(self, duration: float) -> None:
        """Record how long a request ran."""


class LockAdmission:
    """Runs one request per iteration of the event loop."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    def try_admit(self) -> bool:
        """Return whether a request may run immediately."""
        return False

    async def wait(self) -> None:
        """Wait until the request may run."""
        await self._lock.acquire()
        await asyncio.sleep(0)

    def record_duration(self, duration: float) -> None:
        """Let the next request run."""
        self._lock.release()


class UnlimitedReplica(Replica):
    """A replica without an admission queue."""

    def __serve_build_asgi_app__(self) -> ClassifierApplication:
        application = super().__serve_build_asgi_app__()
        application.admission = NoAdmission()
        return application


class LockedReplica(Replica):
    """A replica with a lock instead of the admission queue."""

    def __serve_build_asgi_app__(self) -> ClassifierApplication:
        application = super().__serve_build_asgi_app__()
        application.admission = LockAdmission()
        return application


def _build(replica: type[Replica], args: ApplicationArguments) -> serve.Application:
    return serve.deployment(name="Classifier")(serve.ingress()(replica)).bind(args.model_dump())


def build_queue(args: ApplicationArguments) -> serve.Application:
    """Return the application with the admission queue."""
    return _build(Replica, args)


def build_lock(args: ApplicationArguments) -> serve.Application:
    """Return the application with a lock."""
    return _build(LockedReplica, args)


def build_none(args: ApplicationArguments) -> serve.Application:
    """Return the application without admission."""
    return _build(UnlimitedReplica, args)
