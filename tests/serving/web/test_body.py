"""Bodies are read within a time-out. Time is simulated: the event loop's clock advances instead of waiting."""

import asyncio
import selectors
from collections.abc import Awaitable, Callable, Coroutine

import pytest

from serving.web import body
from serving.web.body import TIMEOUT_S, BodyReader
from serving.web.protocol import RequestError


class SimulatedTimeLoop(asyncio.SelectorEventLoop):
    """Event loop whose clock jumps to the next timer when nothing else is to be done."""

    def __init__(self) -> None:
        self.now = 0.0
        loop = self

        class Selector(selectors.DefaultSelector):
            def select(self, timeout: float | None = None) -> list:
                loop.now += timeout or 0
                return super().select(0 if timeout else timeout)

        super().__init__(Selector())

    def time(self) -> float:
        return self.now


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[[Coroutine], None]:
    """Run a coroutine in simulated time."""

    def run_simulated(coroutine: Coroutine) -> None:
        with asyncio.Runner(loop_factory=SimulatedTimeLoop) as runner:
            monkeypatch.setattr(body, "perf_counter", runner.get_loop().time)
            runner.run(coroutine)

    return run_simulated


def make_receive(*messages: dict | float) -> Callable[[], Awaitable[dict]]:
    """Return an ASGI receive function that returns messages; a number is a wait in seconds before the next."""
    remaining = list(messages)

    async def receive() -> dict:
        while isinstance(remaining[0], float):
            await asyncio.sleep(remaining.pop(0))
        return remaining.pop(0)

    return receive


def make_piece(content: bytes, *, more: bool = False) -> dict:
    return {"type": "http.request", "body": content, "more_body": more}


def is_idle(reader: BodyReader) -> bool:
    return not reader._start_times and not reader._late


def test_bodies_arrive_in_one_piece_or_in_several(run: Callable[[Coroutine], None]) -> None:
    """A body has at most the maximum size; of a client that disconnects, the part that was sent is returned."""

    async def read() -> None:
        reader = BodyReader(6)
        assert await reader.read(make_receive(make_piece(b"abcdef")), 0.0) == b"abcdef"
        pieces = make_receive(make_piece(b"abc", more=True), 0.01, make_piece(b"def"))
        assert await reader.read(pieces, 0.0) == b"abcdef"
        assert await reader.read(make_receive(make_piece(b"a", more=True), {"type": "http.disconnect"}), 0.0) == b"a"
        for pieces in ([make_piece(b"abcdefg")], [make_piece(b"abcd", more=True), make_piece(b"efg")]):
            with pytest.raises(RequestError, match="longer than 6 bytes") as caught:
                await reader.read(make_receive(*pieces), 0.0)
            assert caught.value.status == 413
        assert is_idle(reader)

    run(read())


def test_a_limit_above_the_discarded_size_truncates_no_body(
    run: Callable[[Coroutine], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A body within the limit is returned whole, and a longer one is refused."""
    monkeypatch.setattr(body, "MAX_DISCARDED_BYTES", 4)

    async def read() -> None:
        pieces = [make_piece(b"abc", more=True), make_piece(b"def", more=True), make_piece(b"gh")]
        assert await BodyReader(8).read(make_receive(*pieces), 0.0) == b"abcdefgh"
        with pytest.raises(RequestError, match="longer than 7 bytes"):
            await BodyReader(7).read(make_receive(*pieces), 0.0)

    run(read())


def test_only_late_bodies_are_cancelled(run: Callable[[Coroutine], None]) -> None:
    """The response is 408, at most a tenth of the time-out too late; then no timer is left."""

    async def read() -> None:
        reader, loop = BodyReader(100), asyncio.get_running_loop()

        async def read_body(*messages: dict | float) -> tuple[bytes | int, float]:
            try:
                content: bytes | int = await reader.read(make_receive(*messages), loop.time())
            except RequestError as error:
                content = error.status
            return content, loop.time()

        results = await asyncio.gather(
            read_body(5.0 * TIMEOUT_S),
            read_body(make_piece(b"a", more=True), 5.0 * TIMEOUT_S),
            read_body(0.99 * TIMEOUT_S, make_piece(b"b")),
            read_body(make_piece(b"c", more=True), 0.99 * TIMEOUT_S, make_piece(b"d")),
        )
        assert [content for content, _ in results] == [408, 408, b"b", b"cd"]
        assert all(TIMEOUT_S < end <= 1.2 * TIMEOUT_S for content, end in results if content == 408)
        assert is_idle(reader)
        await asyncio.sleep(0.2 * TIMEOUT_S)
        assert reader._timer is None

    run(read())


@pytest.mark.parametrize("late", [False, True])
def test_a_task_that_others_cancel_stays_cancelled(late: bool, run: Callable[[Coroutine], None]) -> None:
    """A task that is late at the same moment stays cancelled too."""

    async def read() -> None:
        reader, loop = BodyReader(100), asyncio.get_running_loop()
        task = asyncio.create_task(reader.read(make_receive(5.0 * TIMEOUT_S), loop.time()))
        await asyncio.sleep(0)
        if late:
            reader._late.add(task)
            task.cancel()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert is_idle(reader)

    run(read())
