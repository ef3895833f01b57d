"""Messages to a driver: their order, errors of the driver, and the end of the queue or file."""

import multiprocessing
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from cluster.message_queue import MessageFile, MessageFilePoller, MessagePoller, MessageQueue
from tests.support.full_disk import limit_file_size
from tests.support.waiting import wait_for


class LocalQueue:
    """A queue in this process, with the interface of an actor's handle."""

    def __init__(self) -> None:
        self.messages = MessageQueue()
        self.is_killed = False
        self.drain = SimpleNamespace(remote=self.messages.drain)


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> LocalQueue:
    """A queue, and Ray's two calls as far as a poller uses them."""
    queue = LocalQueue()
    monkeypatch.setattr(ray, "get", lambda value: value)
    monkeypatch.setattr(ray, "kill", lambda actor: setattr(actor, "is_killed", True))
    return queue


def poll(queue: LocalQueue, handle: Callable[[list[Any]], None], **options: Any) -> MessagePoller:
    return MessagePoller(queue, handle, 0.01, **options)


def test_messages_are_received_once_and_in_order(queue: LocalQueue) -> None:
    received: list[int] = []
    with poll(queue, received.extend):
        for number in range(100):
            queue.messages.put(number)
        wait_for(lambda: len(received) == 100, "all messages", 10)
    assert received == list(range(100))


def test_messages_sent_before_the_end_are_received_and_the_queue_ends(queue: LocalQueue) -> None:
    """Also those of the last moment, for which no interval was left."""
    received: list[int] = []
    with MessagePoller(queue, received.extend, interval_s=3600):
        queue.messages.put(1)
        assert not queue.is_killed
    assert received == [1]
    assert queue.is_killed


def test_messages_are_received_at_once_on_request(queue: LocalQueue) -> None:
    """Who relies on a message need not wait for the next interval; after the end there is no queue to ask."""
    received: list[int] = []
    with MessagePoller(queue, received.extend, interval_s=3600) as poller:
        queue.messages.put(1)
        poller.poll()
        assert received == [1]
    queue.messages.put(2)
    poller.poll()
    assert received == [1]


def test_an_error_while_messages_are_handled_is_passed_on_and_raised_later(queue: LocalQueue) -> None:
    """Not in the thread, where nobody would see it; no further messages are taken."""
    errors: list[Exception] = []

    def fail(messages: list[Any]) -> None:
        raise OSError("disk full")

    with poll(queue, fail, on_error=errors.append) as poller:
        wait_for(lambda: bool(errors), "the error", 10)
        queue.messages.put(1)
    assert [str(error) for error in errors] == ["disk full"]
    assert queue.messages.drain() == [1]
    assert queue.is_killed
    with pytest.raises(OSError, match="disk full"):
        poller.raise_error()


def test_a_poller_without_an_error_raises_none(queue: LocalQueue) -> None:
    with poll(queue, lambda messages: None) as poller:
        pass
    poller.raise_error()


def send_numbers(file: MessageFile, start: int) -> None:
    for number in range(start, start + 100):
        file.put([number, str(number)])


def test_a_file_passes_messages_between_processes_in_the_order_of_each() -> None:
    received: list[Any] = []
    file = MessageFile()
    with MessageFilePoller(file, received.extend, 0.01):
        context = multiprocessing.get_context("spawn")
        senders = [context.Process(target=send_numbers, args=(file, start)) for start in (0, 1000)]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join(60)
            assert sender.exitcode == 0
    numbers = [number for number in received if isinstance(number, int)]
    assert sorted(numbers, key=lambda number: number // 1000) == [*range(100), *range(1000, 1100)]
    assert len(received) == 400


def test_a_message_is_read_once_it_is_complete() -> None:
    file = MessageFile()
    file.put(["first"])
    content = make_record(pickle.dumps(["complete"]))
    with open(file.path, "ab", buffering=0) as stream:
        for part in (content[:3], content[3:-3]):
            stream.write(part)
            assert file.drain() == (["first"] if part == content[:3] else [])
        stream.write(content[-3:])
    assert file.drain() == ["complete"]
    file.remove()


def make_record(content: bytes) -> bytes:
    return struct.pack("<Q", len(content)) + content


@pytest.mark.parametrize("content", [b"\x80\x04\x8c\x02\xff\xff.", b"", pickle.dumps(1)])
def test_a_message_that_cannot_be_read_is_skipped(content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    file = MessageFile()
    Path(file.path).write_bytes(make_record(content))
    file.put(["next"])
    assert file.drain() == ["next"]
    assert "a message cannot be read" in caplog.text
    file.remove()


def test_a_message_for_which_the_disk_has_no_room_is_dropped_as_a_whole() -> None:
    """The later ones are read."""
    file = MessageFile()
    file.put(["first"])
    with limit_file_size(os.path.getsize(file.path) + 100):
        file.put(["x" * 1000])
    file.put(["next"])
    assert file.drain() == ["first", "next"]
    file.remove()


def test_messages_after_the_reader_has_ended_are_dropped() -> None:
    """The file is not created again."""
    file = MessageFile()
    file.remove()
    file.put([1])
    assert not os.path.exists(file.path)
