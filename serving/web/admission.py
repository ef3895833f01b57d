"""Admission queue of a replica: requests run in order of arrival, and are visible to Ray while they wait.

A classification blocks the event loop. Without the queue, each of many simultaneous requests would start and end
before Ray sees the next one. Ray would count one request at a time, so it would never start a second replica
(`python benchmarks/serving.py --only admission`). With the queue, requests wait where Ray counts them: the event loop
is blocked for at most twice `MAX_BUSY_S`, then all requests that have arrived are started and wait, and as many are
released as there is time for before the next poll.
"""

import asyncio
from collections import deque
from time import perf_counter

# Long enough that a poll costs little, and short compared with the wait of a client when a replica is overloaded.
MAX_BUSY_S = 0.002
# Polls before some of the waiting requests are released: at each, uvloop accepts one new connection.
POLLS_BEFORE_RELEASE = 4


class AdmissionQueue:
    """Queue of requests that do not await anything once they are admitted.

    For each request: `try_admit`, or else `wait`, and `record_duration` at its end.
    """

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._released = 0  # requests that have been released, but have not resumed yet
        self._window_start = 0.0  # of the period in which requests are admitted immediately
        self._poll_scheduled = False  # since then; the event loop has not looked for new requests
        self._polls = 0
        self._typical_s = 0.0  # recent duration of a request

    def try_admit(self) -> bool:
        """Return whether a request may run immediately."""
        now = perf_counter()
        if now - self._window_start > MAX_BUSY_S:
            if self._poll_scheduled:
                return False
            self._window_start, self._poll_scheduled = now, True
            asyncio.get_running_loop().call_soon(self._poll)
        return not self._waiting and not self._released

    async def wait(self) -> None:
        """Wait until the request may run."""
        waiting = asyncio.get_running_loop().create_future()
        self._waiting.append(waiting)
        if not self._poll_scheduled:
            self._poll_scheduled = True
            asyncio.get_running_loop().call_soon(self._poll)
        try:
            await waiting
        finally:
            self._released -= waiting.done() and not waiting.cancelled()

    def record_duration(self, duration: float) -> None:
        """Record how long a request ran, in seconds."""
        # It rises at once and falls slowly: a poll too many costs little.
        self._typical_s = max(duration, self._typical_s + (duration - self._typical_s) / 8)

    def _poll(self) -> None:
        """Release as many requests as there is time for; requests that arrived meanwhile start and wait."""
        if not self._waiting:
            self._poll_scheduled = False
            return
        self._polls += 1
        if self._polls < POLLS_BEFORE_RELEASE:
            asyncio.get_running_loop().call_soon(self._poll)
            return
        self._polls, self._window_start = 0, perf_counter()
        remaining = max(1, int(MAX_BUSY_S / (self._typical_s + 1e-6)))
        while self._waiting and remaining:
            waiting = self._waiting.popleft()
            if not waiting.done():  # else its client has disconnected
                waiting.set_result(None)
                self._released += 1
                remaining -= 1
        asyncio.get_running_loop().call_soon(self._poll)  # runs after the released requests
