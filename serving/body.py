"""The body of a request, read to its end, within a time and up to a size."""

import asyncio
from collections.abc import Generator
from types import coroutine
from typing import Any

from starlette.types import Message, Receive

from serving.protocol import RequestError

TIMEOUT_S = 10
# Of a body that is too long, so much is read and thrown away for the client to hear why; then the connection ends.
DISCARDED_BYTES = 64 << 20


async def read(receive: Receive, longest: int) -> bytes:
    """Return the body.

    Raises:
        RequestError: 413 longer than `longest` bytes, which is said once the body is read: an answer before that can
            be lost to the client; 408 it does not arrive in time.
    """
    first, message, pending = receive().__await__(), None, None
    try:
        pending = next(first)
    except StopIteration as here:  # nearly always; a timer would cost more than all else that is done here
        message = here.value
        if not message.get("more_body"):
            whole = message.get("body", b"")
            _check(len(whole), longest)
            return whole
    try:
        async with asyncio.timeout(TIMEOUT_S):
            return await _rest(message or await _begun(first, pending), receive, longest)
    except TimeoutError:
        raise RequestError(408, f"the body did not arrive within {TIMEOUT_S} s") from None


async def _rest(message: Message, receive: Receive, longest: int) -> bytes:
    body, size = bytearray(), 0
    while True:
        chunk = message.get("body", b"")
        size += len(chunk)
        if size <= longest:
            body += chunk
        if message["type"] == "http.disconnect" or not message.get("more_body") or size > DISCARDED_BYTES:
            break
        message = await receive()
    _check(size, longest)
    return bytes(body)


def _check(size: int, longest: int) -> None:
    if size > longest:
        raise RequestError(413, f"the body is longer than {longest} bytes")


@coroutine
def _begun(steps: Generator[Any, None, Message], pending: Any) -> Generator[Any, None, Message]:
    """Await what was taken to its first wait already, which `pending` is."""
    try:
        yield pending
    except BaseException as error:  # such as that the time is over
        steps.throw(error)
        raise
    return (yield from steps)
