"""Trials learn whether they are the best, and the driver what was kept."""

from cluster.message_queue import Mailbox
from jobs.search.shared_state import Board


def test_messages_are_taken_once_in_order() -> None:
    """The oldest first."""
    box = Mailbox()
    for each in (1, 2, 3):
        box.put(each)
    assert box.take() == [1, 2, 3]
    assert box.take() == []


def test_only_what_was_kept_must_be_beaten() -> None:
    """A trial that was killed before it kept its best can keep it again."""
    board = Board((0.5, -1.0, -1))
    assert not board.beats((0.5, -1.0, -2))
    assert board.beats((0.6, -1.0, -2))
    assert board.beats((0.6, -1.0, -2))
    board.kept((0.6, -1.0, -2), "six")
    assert not board.beats((0.6, -1.0, -2))
    board.kept((0.55, -1.0, -3), "five")  # both were under way
    assert not board.beats((0.58, -1.0, -4))
    assert board.take() == [("kept", "six"), ("kept", "five")]
    assert Board().beats((0.0, 0.0, 0))
