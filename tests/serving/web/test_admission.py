"""Requests go on in their order, and what waits is seen meanwhile."""

import asyncio
import time
from itertools import pairwise

import pytest

from serving.web import admission as turn
from serving.web.admission import AdmissionQueue


async def request(taken: AdmissionQueue, order: list[str], number: int, seconds: float = 0) -> None:
    order.append(f"begun {number}")
    async with taken:
        order.append(f"turn {number}")
        time.sleep(seconds)
        asyncio.get_running_loop().call_soon(order.append, "other work")


def test_what_takes_long_waits_where_it_is_counted() -> None:
    """All that have come are begun; then each has its turn in order, and between two the process does other work."""
    order: list[str] = []

    async def run() -> None:
        taken = AdmissionQueue()
        await asyncio.gather(*(request(taken, order, number, 2 * turn.MAX_BUSY_S) for number in range(4)))

    asyncio.run(run())
    assert order[:5] == ["begun 0", "turn 0", "begun 1", "begun 2", "begun 3"]
    assert [each for each in order if each.startswith("turn")] == [f"turn {number}" for number in range(4)]
    for number in (1, 2):
        assert "other work" in order[order.index(f"turn {number}") : order.index(f"turn {number + 1}")]


def test_what_is_quick_goes_on_at_once_and_in_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as there is time for before the process looks again."""
    monkeypatch.setattr(turn, "MAX_BUSY_S", 0.5)
    order: list[str] = []

    async def run() -> None:
        taken = AdmissionQueue()
        await asyncio.gather(*(request(taken, order, number) for number in range(30)))

    asyncio.run(run())
    assert order[:60] == [f"{what} {number}" for number in range(30) for what in ("begun", "turn")]


def test_those_that_wait_go_on_in_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once it is known that they are quick; before, and after a slow one, one by one, with looks between."""
    monkeypatch.setattr(turn, "MAX_BUSY_S", 0.02)
    order: list[str] = []

    async def look() -> None:
        while True:
            order.append("look")
            await asyncio.sleep(0)

    async def run() -> None:
        taken = AdmissionQueue()
        looking = asyncio.create_task(look())
        await asyncio.gather(request(taken, order, 0, 0.03), *(request(taken, order, each) for each in range(1, 40)))
        looking.cancel()

    asyncio.run(run())
    turns = [each for each in order if each in ("look", *(f"turn {number}" for number in range(40)))]
    between = turns[turns.index("turn 1") : turns.index("turn 2")]
    assert between.count("look") >= turn.POLLS_BEFORE_RELEASE
    assert any(each != "look" != after for each, after in pairwise(turns[turns.index("turn 1") :]))


def test_one_that_comes_later_does_not_overtake() -> None:
    """Even where there is time for it."""
    order: list[str] = []

    async def run() -> None:
        taken = AdmissionQueue()
        first = [asyncio.create_task(request(taken, order, number, 2 * turn.MAX_BUSY_S)) for number in range(3)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await asyncio.gather(*first, request(taken, order, 3))

    asyncio.run(run())
    assert [each for each in order if each.startswith("turn")] == [f"turn {number}" for number in range(4)]


def test_one_that_hangs_up_or_fails_keeps_nobody_waiting() -> None:
    """Whether it waits, or is at it."""
    order: list[str] = []

    async def fail(taken: AdmissionQueue) -> None:
        async with taken:
            raise ValueError("no")

    async def run() -> None:
        taken = AdmissionQueue()
        tasks = [asyncio.create_task(request(taken, order, number, 2 * turn.MAX_BUSY_S)) for number in range(4)]
        await asyncio.sleep(0)
        tasks[1].cancel()
        tasks[2].cancel()
        await asyncio.wait_for(tasks[3], 5)
        with pytest.raises(ValueError, match="no"):
            await fail(taken)
        await asyncio.wait_for(request(taken, order, 4), 5)

    asyncio.run(run())
    assert [each for each in order if each.startswith("turn")] == ["turn 0", "turn 3", "turn 4"]


def test_what_is_short_is_admitted_while_nobody_waits_and_there_is_time() -> None:
    """Again once the process has looked for what has come."""
    found: list[bool] = []

    async def run() -> None:
        taken = AdmissionQueue()
        found.append(taken.try_admit())
        found.append(taken.try_admit())
        time.sleep(2 * turn.MAX_BUSY_S)
        found.append(taken.try_admit())
        slow = [asyncio.create_task(request(taken, [], number, 2 * turn.MAX_BUSY_S)) for number in range(3)]
        await asyncio.sleep(0)
        found.append(taken.try_admit())
        await asyncio.gather(*slow)
        for _ in range(2 * turn.POLLS_BEFORE_RELEASE):
            await asyncio.sleep(0)
        found.append(taken.try_admit())

    asyncio.run(run())
    assert found == [True, True, False, False, True]
