"""Requests take turns, and what waits is seen meanwhile."""

import asyncio
import contextlib

from serving.turn import Turn


def test_all_that_have_come_are_begun_and_then_each_has_its_turn() -> None:
    """In order, and between two of them the loop does other work."""
    order: list[str] = []

    async def request(number: int, turn: Turn) -> None:
        order.append(f"begun {number}")
        async with turn:
            order.append(f"turn {number}")
            asyncio.get_running_loop().call_soon(order.append, "other work")

    async def run() -> None:
        turn = Turn()
        await asyncio.gather(*(request(number, turn) for number in range(3)))

    asyncio.run(run())
    assert order[:3] == ["begun 0", "begun 1", "begun 2"]
    assert order[3:8] == ["turn 0", "other work", "turn 1", "other work", "turn 2"]


def test_one_that_hangs_up_or_fails_keeps_nobody_waiting() -> None:
    """Whether it waits, is about to begin, or is at it."""

    async def request(turn: Turn) -> bool:
        async with turn:
            return True

    async def fail(turn: Turn) -> None:
        async with turn:
            raise ValueError

    async def run() -> None:
        turn = Turn()
        first, second, third = (asyncio.create_task(request(turn)) for _ in range(3))
        await asyncio.sleep(0)
        first.cancel()
        second.cancel()
        assert await asyncio.wait_for(third, 5)
        with contextlib.suppress(ValueError):
            await fail(turn)
        assert await asyncio.wait_for(request(turn), 5)

    asyncio.run(run())
