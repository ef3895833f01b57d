"""Bodies are read within a time, and whoever gives up is forgotten."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from serving.web import body
from serving.web.body import BodyReader
from serving.web.protocol import RequestError


def sender(*messages: dict | float) -> Callable[[], Awaitable[dict]]:
    """What hands out messages; a number is a wait before the next."""
    left = list(messages)

    async def receive() -> dict:
        while isinstance(left[0], float):
            await asyncio.sleep(left.pop(0))
        return left.pop(0)

    return receive


def piece(content: bytes, *, more: bool = False) -> dict:
    return {"type": "http.request", "body": content, "more_body": more}


def forgotten(bodies: BodyReader) -> bool:
    return not bodies._awaited and not bodies._late


def test_bodies_come_in_one_piece_or_in_several() -> None:
    """Up to the longest that is read; what hangs up has sent what it has."""

    async def run() -> None:
        bodies = BodyReader(6)
        assert await bodies.read(sender(piece(b"abcdef")), 0.0) == b"abcdef"
        assert await bodies.read(sender(piece(b"abc", more=True), 0.01, piece(b"def")), 0.0) == b"abcdef"
        assert await bodies.read(sender(piece(b"a", more=True), {"type": "http.disconnect"}), 0.0) == b"a"
        for pieces in ([piece(b"abcdefg")], [piece(b"abcd", more=True), piece(b"efg")]):
            with pytest.raises(RequestError, match="longer than 6 bytes") as refused:
                await bodies.read(sender(*pieces), 0.0)
            assert refused.value.status == 413
        assert forgotten(bodies)

    asyncio.run(run())


def test_only_what_is_late_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """As 408; then nothing is looked after any more."""
    monkeypatch.setattr(body, "TIMEOUT_S", 0.2)

    async def run() -> None:
        bodies = BodyReader(100)

        async def read(*messages: dict | float) -> bytes | int:
            try:
                return await bodies.read(sender(*messages), body.perf_counter())
            except RequestError as refusal:
                return refusal.status

        found = await asyncio.gather(
            read(5.0),
            read(piece(b"a", more=True), 5.0),
            read(0.1, piece(b"b")),
            read(piece(b"c", more=True), 0.1, piece(b"d")),
        )
        assert found == [408, 408, b"b", b"cd"]
        assert forgotten(bodies)
        await asyncio.sleep(0.05)
        assert bodies._timer is None

    asyncio.run(run())


def test_who_is_cancelled_by_others_stays_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when it is late at the same moment."""
    monkeypatch.setattr(body, "TIMEOUT_S", 0.1)

    async def run() -> None:
        bodies = BodyReader(100)
        for late in (False, True):
            task = asyncio.create_task(bodies.read(sender(5.0), body.perf_counter()))
            await asyncio.sleep(0)
            if late:
                bodies._late.add(task)
                task.cancel()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert forgotten(bodies)

    asyncio.run(run())
