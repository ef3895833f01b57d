"""One request after the other, and the rest counted while they wait.

A classification does not give way to other work of its process. Where many requests have come at once, each would be
begun and ended before Ray heard of the next: it would count one at a time however many wait, and so never start
another replica, and shed nothing. Here all that have come are begun, and then each has its turn; between two of them
the process looks for what has come, and Ray counts.
"""

import asyncio


class Turn:
    """Held by one request at a time, in the order in which they came."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    async def __aenter__(self) -> None:
        if self._lock.locked():
            await self._lock.acquire()
            return
        await self._lock.acquire()
        try:
            await asyncio.sleep(0)  # the others that have come are begun
        except asyncio.CancelledError:
            self._lock.release()
            raise

    async def __aexit__(self, *_: object) -> None:
        self._lock.release()
