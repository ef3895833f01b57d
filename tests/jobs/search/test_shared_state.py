"""Trials learn whether they are the best, and the driver what was kept."""

from cluster.message_queue import MessageQueue
from jobs.search.shared_state import SharedState


def test_messages_are_taken_once_in_order() -> None:
    """The oldest first."""
    box = MessageQueue()
    for each in (1, 2, 3):
        box.put(each)
    assert box.drain() == [1, 2, 3]
    assert box.drain() == []


def test_only_what_was_kept_must_be_beaten() -> None:
    """A trial that was killed before it kept its best can keep it again."""
    board = SharedState((0.5, -1.0, -1))
    assert not board.is_new_best((0.5, -1.0, -2))
    assert board.is_new_best((0.6, -1.0, -2))
    assert board.is_new_best((0.6, -1.0, -2))
    board.record_checkpoint((0.6, -1.0, -2), "six")
    assert not board.is_new_best((0.6, -1.0, -2))
    board.record_checkpoint((0.55, -1.0, -3), "five")  # both were under way
    assert not board.is_new_best((0.58, -1.0, -4))
    assert board.drain() == [("saved", "six"), ("saved", "five")]
    assert SharedState().is_new_best((0.0, 0.0, 0))
