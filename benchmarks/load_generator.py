"""HTTP load generator that records every response, for benchmarks/serving.py and the tests."""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import aiohttp
import numpy as np

from tests.support.waiting import wait_for

SAMPLE_TEXT = "a fine little film with a big heart and some jokes that nobody laughs at in the end , I suppose"
START_TIMEOUT_S = 60
Response = tuple[float, float, int | str]  # start in seconds since the start of the load, seconds, status


@dataclass
class LoadGenerator:
    """Sends requests over a number of connections, without retries.

    responses: (start in seconds since the start of the load, duration in seconds, status). The status of a request
    without a response is the name of the exception. pause_s: seconds between the requests of a connection.
    """

    url: str
    body: bytes
    connections: int
    pause_s: float = 0.0
    responses: list[Response] = field(default_factory=list)
    retry_after: Counter = field(default_factory=Counter)
    _start: float = field(default_factory=time.monotonic)
    _ended: bool = False

    def elapsed_s(self) -> float:
        """Return the seconds since the start."""
        return time.monotonic() - self._start

    def count_statuses(self) -> Counter:
        """Return the number of responses by status."""
        return Counter(status for _, _, status in list(self.responses))

    def failed_responses(self) -> list[Response]:
        """Return the responses with another status than 200."""
        return [response for response in list(self.responses) if response[2] != 200]

    def warm_up(self, seconds: float = 1) -> None:
        """Wait for the first responses, and then some seconds."""
        wait_for(lambda: self.count_statuses()[200] > 20, "responses", START_TIMEOUT_S)
        time.sleep(seconds)

    def measure_rate(self, seconds: int) -> float:
        """Return the responses per second with status 200 during the next seconds."""
        start, before = time.monotonic(), self.count_statuses()[200]
        time.sleep(seconds)
        return (self.count_statuses()[200] - before) / (time.monotonic() - start)

    async def run(self) -> None:
        """Send requests until the end of the load."""
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=60)
        )
        async with session, asyncio.TaskGroup() as group:
            tasks: list[asyncio.Task] = []
            while not self._ended:
                while len(tasks) < self.connections:
                    tasks.append(group.create_task(self._connection(session, len(tasks))))
                await asyncio.sleep(0.05)

    async def _connection(self, session: aiohttp.ClientSession, number: int) -> None:
        while not self._ended:
            if number >= self.connections:
                await asyncio.sleep(0.05)
                continue
            start = time.monotonic()
            status: int | str
            try:
                async with session.post(self.url, data=self.body) as response:
                    await response.read()
                    status = response.status
                    if "retry-after" in response.headers:
                        self.retry_after[response.headers["retry-after"]] += 1
            except (aiohttp.ClientError, TimeoutError) as error:
                status = type(error).__name__
            self.responses.append((start - self._start, time.monotonic() - start, status))
            left = self.pause_s
            while left > 0 and not self._ended:
                await asyncio.sleep(min(left, 1))
                left -= 1


@contextmanager
def generate_load(url: str, body: bytes, connections: int, pause_s: float = 0.0) -> Iterator[LoadGenerator]:
    """Context manager: send requests until the end of the block, then wait for the pending responses."""
    load = LoadGenerator(url, body, connections, pause_s)
    thread = threading.Thread(target=lambda: asyncio.run(load.run()))
    thread.start()
    try:
        yield load
    finally:
        load._ended = True
        thread.join(120)


def format_failures(statuses: Counter[int | str]) -> str:
    """Return the statuses other than 200 with their numbers."""
    return ", ".join(f"{status} ({count})" for status, count in statuses.items() if status != 200) or "-"


def count_failed(responses: Sequence[Response]) -> int:
    """Return the number of responses with another status than 200."""
    return sum(status != 200 for _, _, status in responses)


def percentile_ms(responses: Sequence[Response], percent: float) -> float:
    """Return a percentile of the durations in milliseconds."""
    return 1000 * float(np.percentile([seconds for _, seconds, _ in responses], percent))
