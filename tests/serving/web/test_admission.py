"""The admission queue keeps the order of requests, and other work runs between them. Time is simulated."""

import asyncio
from itertools import pairwise

import pytest

from serving.web import admission
from serving.web.admission import MAX_BUSY_S, POLLS_BEFORE_RELEASE, AdmissionQueue


class Clock:
    """Clock of the queue that advances only while a request runs."""

    def __init__(self) -> None:
        self.now = 1.0

    def advance(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    replacement = Clock()
    monkeypatch.setattr(admission, "perf_counter", lambda: replacement.now)
    return replacement


class Requests:
    """Requests of one queue. events: "start", "run" and "other work", with the number of the request."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.queue = clock, AdmissionQueue()
        self.events: list[str] = []

    async def send(self, number: int, seconds: float = 0) -> None:
        self.events.append(f"start {number}")
        if not self.queue.try_admit():
            await self.queue.wait()
        self.events.append(f"run {number}")
        self.clock.advance(seconds)
        asyncio.get_running_loop().call_soon(self.events.append, "other work")
        self.queue.record_duration(seconds)

    def order(self) -> list[int]:
        return [int(event.removeprefix("run ")) for event in self.events if event.startswith("run")]


def test_slow_requests_start_together_and_run_in_order(clock: Clock) -> None:
    """The event loop does other work between two of them."""

    async def run() -> Requests:
        requests = Requests(clock)
        await asyncio.gather(*(requests.send(number, 2 * MAX_BUSY_S) for number in range(4)))
        return requests

    requests = asyncio.run(run())
    events = requests.events
    assert events[:5] == ["start 0", "run 0", "start 1", "start 2", "start 3"]
    assert requests.order() == [0, 1, 2, 3]
    for number in (1, 2):
        assert "other work" in events[events.index(f"run {number}") : events.index(f"run {number + 1}")]


def test_fast_requests_run_at_once(clock: Clock) -> None:
    """As many requests run as there is time for before the event loop is polled."""

    async def run() -> Requests:
        requests = Requests(clock)
        await asyncio.gather(*(requests.send(number, MAX_BUSY_S / 100) for number in range(30)))
        return requests

    expected = [f"{event} {number}" for number in range(30) for event in ("start", "run")]
    assert asyncio.run(run()).events[:60] == expected


def test_waiting_requests_are_released_in_groups(clock: Clock) -> None:
    """Groups are released once requests are known to be fast; after a slow one, one by one, with polls between."""

    async def run() -> list[str]:
        requests = Requests(clock)

        async def count_iterations() -> None:
            while True:
                requests.events.append("iteration")
                await asyncio.sleep(0)

        iterations = asyncio.create_task(count_iterations())
        fast = (requests.send(number, MAX_BUSY_S / 100) for number in range(1, 60))
        await asyncio.gather(requests.send(0, 2 * MAX_BUSY_S), *fast)
        iterations.cancel()
        return [event for event in requests.events if event == "iteration" or event.startswith("run")]

    events = asyncio.run(run())
    after_first = events[events.index("run 1") :]
    assert after_first[: after_first.index("run 2")].count("iteration") >= POLLS_BEFORE_RELEASE
    assert any(event != "iteration" != following for event, following in pairwise(after_first))


def test_a_later_request_does_not_overtake(clock: Clock) -> None:
    """A later request waits even if there is time for it."""

    async def run() -> Requests:
        requests = Requests(clock)
        earlier = [asyncio.create_task(requests.send(number, 2 * MAX_BUSY_S)) for number in range(3)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await asyncio.gather(*earlier, requests.send(3))
        return requests

    assert asyncio.run(run()).order() == [0, 1, 2, 3]


def test_cancelled_requests_do_not_block_others(clock: Clock) -> None:
    """The cancelled requests wait."""

    async def run() -> Requests:
        requests = Requests(clock)
        tasks = [asyncio.create_task(requests.send(number, 2 * MAX_BUSY_S)) for number in range(4)]
        await asyncio.sleep(0)
        tasks[1].cancel()
        tasks[2].cancel()
        await asyncio.wait_for(tasks[3], 30)
        await asyncio.wait_for(requests.send(4), 30)
        return requests

    assert asyncio.run(run()).order() == [0, 3, 4]


def test_short_requests_are_admitted_while_none_waits_and_there_is_time(clock: Clock) -> None:
    """After the event loop was polled, short requests are admitted again."""
    admitted: list[bool] = []

    async def run() -> None:
        requests = Requests(clock)
        admitted.append(requests.queue.try_admit())
        admitted.append(requests.queue.try_admit())
        clock.advance(2 * MAX_BUSY_S)
        admitted.append(requests.queue.try_admit())
        slow = [asyncio.create_task(requests.send(number, 2 * MAX_BUSY_S)) for number in range(3)]
        await asyncio.sleep(0)
        admitted.append(requests.queue.try_admit())
        await asyncio.gather(*slow)
        for _ in range(2 * POLLS_BEFORE_RELEASE):
            await asyncio.sleep(0)
        admitted.append(requests.queue.try_admit())

    asyncio.run(run())
    assert admitted == [True, True, False, False, True]
