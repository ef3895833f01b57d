"""Messages to a driver, in the order in which each sender sent them: from other nodes, or from an actor on its node.

`ray.util.queue.Queue` is an asynchronous actor: Ray may run its calls in any order.
"""

import logging
import os
import pickle
import struct
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster import first_line

logger = logging.getLogger(__name__)


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


def send_message(queue: Any, kind: str, value: Any) -> None:
    """Add the message (kind, value) to a queue, and wait until it is there."""
    ray.get(queue.put.remote((kind, value)))


def pin_to_driver_node(actor_class: type) -> Any:
    """Return an actor class that takes no CPU and runs on the caller's node, so that no other node's loss ends it."""
    strategy = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor: Any = ray.remote(actor_class)  # Ray's types do not know this strategy
    return actor.options(num_cpus=0, scheduling_strategy=strategy)


class MessagePoller:
    """Thread of the driver that drains a queue while the context is open, and kills the queue when it closes.

    Args:
        queue: actor with the methods of `MessageQueue`; a subclass may have another queue.
        handle: called with the new messages every `interval_s` seconds, also when there are none, by `poll`, and a
            last time when the context is closed; never by two threads at once.
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
        self._lock = threading.Lock()
        self._is_removed = False

    def __enter__(self) -> "MessagePoller":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Handle the last messages and remove the queue; another thread may do this before the context is closed."""
        self._closing.set()
        self._thread.join(timeout=self.JOIN_TIMEOUT_S)
        self._is_removed = True
        self._remove_queue()

    def poll(self) -> None:
        """Handle the messages that are in the queue, in the calling thread; none after an error or after `close`."""
        with self._lock:
            if self._error is not None or self._is_removed:
                return
            try:
                self._handle(self._drain_queue())
            except Exception as error:
                self._error = error
                self._on_error(error)

    def raise_error(self) -> None:
        """Raise what `handle` raised, if it did."""
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        closing = False
        while not closing and self._error is None:
            closing = self._closing.wait(self._interval_s)
            self.poll()

    def _drain_queue(self) -> list[Any]:
        messages: list[Any] = ray.get(self.queue.drain.remote())
        return messages

    def _remove_queue(self) -> None:
        ray.kill(self.queue)


class MessageFile:
    """File that passes messages from processes of a node to one reader, without an actor's process in between.

    A record is the length of its content (`<Q`, bytes) and a pickled list of messages. Only one process writes at a
    time: Ray Train's controller, or the driver after the controller has ended.
    """

    _LENGTH = struct.Struct("<Q")

    def __init__(self) -> None:
        descriptor, self.path = tempfile.mkstemp(prefix="messages-")
        os.close(descriptor)
        self._offset = 0  # in bytes, of the reader

    def put(self, messages: list[Any]) -> None:
        """Add messages. They are dropped without the file, whose reader has ended, and on a full disk."""
        content = pickle.dumps(messages)
        record = self._LENGTH.pack(len(content)) + content
        with suppress(OSError):
            descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND)
            try:
                size = os.fstat(descriptor).st_size
                if os.write(descriptor, record) < len(record):  # one call: a kill does not leave a part
                    os.ftruncate(descriptor, size)
            finally:
                os.close(descriptor)

    def drain(self) -> list[Any]:
        """Return the messages of complete records since the last call, the oldest first.

        A record that cannot be unpickled is skipped, with a warning.
        """
        messages: list[Any] = []
        with open(self.path, "rb") as stream:
            stream.seek(self._offset)
            while len(header := stream.read(self._LENGTH.size)) == self._LENGTH.size:
                (length,) = self._LENGTH.unpack(header)
                content = stream.read(length)
                if len(content) < length:
                    break
                self._offset = stream.tell()
                try:
                    messages += pickle.loads(content)
                except Exception as error:  # unpickling may raise any
                    logger.warning(f"{self.path}: a message cannot be read: {first_line(error)}")
        return messages

    def remove(self) -> None:
        """Delete the file."""
        with suppress(OSError):
            os.unlink(self.path)


class MessageFilePoller(MessagePoller):
    """`MessagePoller` of a `MessageFile`."""

    queue: MessageFile

    def _drain_queue(self) -> list[Any]:
        return self.queue.drain()

    def _remove_queue(self) -> None:
        self.queue.remove()
