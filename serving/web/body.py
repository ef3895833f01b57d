"""The body of a request, read to its end, within a time and up to a size."""

import asyncio
from time import perf_counter

from starlette.types import Receive

from serving.web.protocol import RequestError

TIMEOUT_S = 10
# Of a body that is too long, so much is read and thrown away for the client to hear why; then the connection ends.
MAX_DISCARDED_BYTES = 64 << 20


class BodyReader:
    """Reads bodies, in one event loop.

    Nearly all are there when they are asked for, and a timer for each would take longer than to classify it; so one
    timer looks after all that have not come yet.

    Args:
        longest: bytes of a body at most.
    """

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._awaited: dict[asyncio.Task, float] = {}  # who reads, and since when
        self._late: set[asyncio.Task] = set()
        self._timer: asyncio.TimerHandle | None = None

    async def read(self, receive: Receive, now: float) -> bytes:
        """Return the body of a request.

        Args:
            now: on the clock `perf_counter`.

        Raises:
            RequestError: 413 it is too long, which is said once the body is read: an answer before that can be lost
                to the client; 408 it does not arrive in time.
        """
        task = asyncio.current_task()
        assert task is not None
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(TIMEOUT_S / 10, self._look)
        self._awaited[task] = now
        try:
            message = await receive()
            body = message.get("body", b"")
            if message.get("more_body"):
                body = await self._rest(body, receive)
        except asyncio.CancelledError:
            if task in self._late and task.uncancel() == 0:
                raise RequestError(408, f"the body did not arrive within {TIMEOUT_S} s") from None
            raise
        finally:
            del self._awaited[task]
            if self._late:
                self._late.discard(task)
        self._check(len(body))
        return body

    async def _rest(self, first: bytes, receive: Receive) -> bytes:
        """Return the whole of a body that begins so."""
        body, size, more = bytearray(first), len(first), True
        while more and size <= MAX_DISCARDED_BYTES:
            message = await receive()
            chunk = message.get("body", b"")
            size += len(chunk)
            if size <= self._longest:
                body += chunk
            more = message["type"] != "http.disconnect" and message.get("more_body", False)
        self._check(size)
        return bytes(body)

    def _check(self, size: int) -> None:
        if size > self._longest:
            raise RequestError(413, f"the body is longer than {self._longest} bytes")

    def _look(self) -> None:
        """Give up what is late."""
        now = perf_counter()
        for task, since in self._awaited.items():
            if now - since > TIMEOUT_S and task not in self._late:
                self._late.add(task)
                task.cancel()
        waits = bool(self._awaited)
        self._timer = asyncio.get_running_loop().call_later(TIMEOUT_S / 10, self._look) if waits else None
