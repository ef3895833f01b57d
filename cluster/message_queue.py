"""Messages from workers to their driver, in the order in which each worker sent them.

`ray.util.queue.Queue` is an asynchronous actor: Ray may run its calls in any order.
"""

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Protocol

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


class MessageQueue:
    """Ray actor that stores messages until they are drained."""

    def __init__(self) -> None:
        self._messages: list[Any] = []

    def put(self, message: Any) -> None:
        """Add a message; a sender need not wait for this."""
        self._messages.append(message)

    def drain(self) -> list[Any]:
        """Return the messages since the last call, the oldest first."""
        messages, self._messages = self._messages, []
        return messages


def start_message_queue() -> Any:
    """Return the handle of a new `MessageQueue` actor."""
    return pin_to_driver_node(MessageQueue).remote()


def send_message(queue: Any, kind: str, value: Any) -> None:
    """Add the message (kind, value) to a queue, and wait until it is there."""
    ray.get(queue.put.remote((kind, value)))


class MessageSender(Protocol):
    """Sends the messages of a worker. crosses_processes: the handler of the messages is in another process."""

    crosses_processes: bool

    def send(self, kind: str, value: Any) -> None:
        """Send the message (kind, value) without waiting until it is handled."""

    def flush(self, timeout_s: float) -> None:
        """Wait until all messages have arrived, at most that many seconds."""


class QueueSender:
    """Sends messages to a `MessageQueue` actor."""

    crosses_processes = True

    def __init__(self, queue: Any) -> None:
        self._queue = queue
        self._last: Any = None

    def send(self, kind: str, value: Any) -> None:
        """Add the message to the queue. The result is not waited for: the driver may have ended."""
        self._last = self._queue.put.remote((kind, value))

    def flush(self, timeout_s: float) -> None:
        """Wait until all messages are in the queue."""
        if self._last is not None:
            ray.wait([self._last], timeout=timeout_s)


class DirectSender:
    """Passes messages to a handler in this process, one at a time.

    Args:
        handle: as for `MessagePoller`.
    """

    crosses_processes = False

    def __init__(self, handle: Callable[[list[Any]], None]) -> None:
        self._handle = handle
        self._lock = threading.Lock()

    def send(self, kind: str, value: Any) -> None:
        """Handle the message."""
        with self._lock:
            self._handle([(kind, value)])

    def flush(self, timeout_s: float) -> None:
        """Do nothing: every message was handled when it was sent."""


def pin_to_driver_node(actor_class: type) -> Any:
    """Return an actor class that takes no CPU and runs on the caller's node, so that no other node's loss ends it."""
    strategy = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor: Any = ray.remote(actor_class)  # Ray's types do not know this strategy
    return actor.options(num_cpus=0, scheduling_strategy=strategy)


class MessagePoller:
    """Thread of the driver that drains a queue while the context is open, and kills the queue when it closes.

    Args:
        queue: actor with the methods of `MessageQueue`.
        handle: called with the new messages every `interval_s` seconds, also when there are none, and a last time
            when the context is closed.
        on_error: called with what `handle` raised; no further messages are drained then.
    """

    JOIN_TIMEOUT_S = 60

    def __init__(
        self,
        queue: Any,
        handle: Callable[[list[Any]], None],
        interval_s: float,
        on_error: Callable[[Exception], None] = lambda error: None,
    ) -> None:
        self.queue = queue
        self._handle, self._interval_s, self._on_error = handle, interval_s, on_error
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._error: Exception | None = None

    def __enter__(self) -> "MessagePoller":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._closing.set()
        self._thread.join(timeout=self.JOIN_TIMEOUT_S)
        ray.kill(self.queue)

    def raise_error(self) -> None:
        """Raise what `handle` raised, if it did."""
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            closing = False
            while not closing:
                closing = self._closing.wait(self._interval_s)
                self._handle(ray.get(self.queue.drain.remote()))
        except Exception as error:
            self._error = error
            self._on_error(error)
