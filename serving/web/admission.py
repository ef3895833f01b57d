"""Requests in the order in which they came, and counted while they wait.

A classification does not give way to other work of its process. Where many requests have come at once, each would be
begun and ended before Ray heard of the next: it would count one at a time however many wait, and so never start
another replica, and shed nothing. Here the process is busy for twice `BUSY_S` at most; then all that have come are
begun and wait, Ray counts them, and so many go on as there is time for before it looks again.
"""

import asyncio
from collections import deque
from time import perf_counter

# Long enough that a look costs little, and short beside what a client waits when a replica has more than it can do.
MAX_BUSY_S = 0.002
# Looks before some of those that wait go on: at each, uvloop accepts one new connection.
POLLS_BEFORE_RELEASE = 4


class AdmissionQueue:
    """Entered by each request that it does not admit at once; what is done in it awaits nothing."""

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future] = deque()
        self._called = 0  # of those that waited, and have not gone on yet
        self._since = 0.0  # the start of a time for requests to be answered at once
        self._looks_on = False  # it was asked for since; then the process has not looked for what has come
        self._looks = 0
        self._began = 0.0
        self._usual_s = 0.0  # that a request takes, of late

    def try_admit(self) -> bool:
        """Tell whether a short request, begun and ended before anything is awaited, may be answered at once."""
        now = perf_counter()
        if now - self._since > MAX_BUSY_S:
            if self._looks_on:
                return False
            self._since, self._looks_on = now, True
            asyncio.get_running_loop().call_soon(self._look)
        return not self._waiting and not self._called

    async def __aenter__(self) -> None:
        if not self.try_admit():
            waiting = asyncio.get_running_loop().create_future()
            self._waiting.append(waiting)
            if not self._looks_on:
                self._looks_on = True
                asyncio.get_running_loop().call_soon(self._look)
            try:
                await waiting
            finally:
                self._called -= waiting.done() and not waiting.cancelled()
        self._began = perf_counter()

    async def __aexit__(self, *_: object) -> None:
        took = perf_counter() - self._began
        # Soon more, slowly less: to look once too often costs little.
        self._usual_s = max(took, self._usual_s + (took - self._usual_s) / 8)

    def _look(self) -> None:
        """Let those go on for whom there is time; what has come meanwhile is begun beside them."""
        if not self._waiting:
            self._looks_on = False
            return
        self._looks += 1
        if self._looks < POLLS_BEFORE_RELEASE:
            asyncio.get_running_loop().call_soon(self._look)
            return
        self._looks, self._since = 0, perf_counter()
        left = max(1, int(MAX_BUSY_S / (self._usual_s + 1e-6)))
        while self._waiting and left:
            waiting = self._waiting.popleft()
            if not waiting.done():  # it may have been given up
                waiting.set_result(None)
                self._called += 1
                left -= 1
        asyncio.get_running_loop().call_soon(self._look)  # after them
