"""Reader of request bodies, with a time-out and a maximum size, and decoder of gzip bodies."""

import asyncio
import zlib
from time import perf_counter

from starlette.types import Receive

from serving.web.protocol import RequestError

TIMEOUT_S = 10
# A body that is too long is read and discarded up to this size, so that the client receives the reason; then the
# connection is closed.
MAX_DISCARDED_BYTES = 64 << 20
_GZIP_WINDOW_BITS = 31  # of zlib: a gzip header is required


class BodyReader:
    """Reads bodies, in one event loop.

    Nearly all bodies have arrived when they are read, and a timer for each would take longer than the classification.
    So one timer watches all bodies that have not arrived yet.

    Args:
        max_bytes: maximum size of a body.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._start_times: dict[asyncio.Task[object], float] = {}  # of the tasks that read a body
        self._late: set[asyncio.Task[object]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def read(self, receive: Receive, now: float) -> bytes:
        """Return the body of a request.

        Args:
            now: current time in seconds, of `perf_counter`.

        Raises:
            RequestError: 413 if the body is too long, raised after it is read because the client could lose an
                earlier response; 408 if it does not arrive in time.
        """
        if self._timer is None:
            self._loop = asyncio.get_running_loop()  # to look it up for each request takes a system call
            self._timer = self._loop.call_later(TIMEOUT_S / 10, self._cancel_late)
        task = asyncio.current_task(self._loop)
        assert task is not None
        self._start_times[task] = now
        try:
            message = await receive()
            body: bytes = message.get("body", b"")
            if message.get("more_body"):
                body = await self._read_rest(body, receive)
        except asyncio.CancelledError:
            if task in self._late and task.uncancel() == 0:
                raise RequestError(408, f"the body did not arrive within {TIMEOUT_S} s") from None
            raise
        finally:
            del self._start_times[task]
            if self._late:
                self._late.discard(task)
        self._check_size(len(body))
        return body

    async def _read_rest(self, start: bytes, receive: Receive) -> bytes:
        """Return a whole body, given its first bytes."""
        body, size, more = bytearray(start), len(start), True
        while more and size <= max(self._max_bytes, MAX_DISCARDED_BYTES):
            message = await receive()
            chunk = message.get("body", b"")
            size += len(chunk)
            if size <= self._max_bytes:
                body += chunk
            more = message["type"] != "http.disconnect" and message.get("more_body", False)
        self._check_size(size)
        return bytes(body)

    def _check_size(self, size: int) -> None:
        if size > self._max_bytes:
            raise RequestError(413, f"the body is longer than {self._max_bytes} bytes")

    def _cancel_late(self) -> None:
        """Cancel the tasks whose body is late."""
        now = perf_counter()
        for task, start in self._start_times.items():
            if now - start > TIMEOUT_S and task not in self._late:
                self._late.add(task)
                task.cancel()
        pending = bool(self._start_times)
        self._timer = asyncio.get_running_loop().call_later(TIMEOUT_S / 10, self._cancel_late) if pending else None


def decode_body(body: bytes, encoding: bytes, max_bytes: int) -> bytes:
    """Return a body without its Content-Encoding.

    Raises:
        RequestError: 415 for another encoding than gzip, 413 if the decoded body is too long, 400 if it is damaged.
    """
    name = encoding.strip().lower()
    if name in (b"", b"identity"):
        return body
    if name not in (b"gzip", b"x-gzip"):
        label = name[:50].decode(errors="replace")
        raise RequestError(415, f"Content-Encoding: {label} is not supported; send gzip, or no Content-Encoding")
    decoder = zlib.decompressobj(_GZIP_WINDOW_BITS)
    try:
        decoded = decoder.decompress(body, max_bytes + 1)
    except zlib.error as error:
        raise RequestError(400, f"the body is not valid gzip: {error}") from error
    if len(decoded) > max_bytes:
        raise RequestError(413, f"the decoded body is longer than {max_bytes} bytes")
    if not decoder.eof or decoder.unused_data:
        raise RequestError(400, "the body is not valid gzip: it is cut off, or something follows it")
    return decoded
