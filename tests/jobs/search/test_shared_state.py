"""Shared state of a search: trials learn whether they are the best, and the driver which checkpoints are saved."""

import subprocess
import sys

from cluster.message_queue import MessageQueue
from cluster.package import REPOSITORY
from jobs.search.shared_state import SavedCheckpoint, SharedState
from tests.support.trial_records import make_epoch


def test_messages_are_received_once_in_order() -> None:
    queue = MessageQueue()
    for message in (1, 2, 3):
        queue.put(message)
    assert queue.drain() == [1, 2, 3]
    assert queue.drain() == []


def test_only_saved_checkpoints_count() -> None:
    """A trial that was killed before its checkpoint was saved can save it after a restart."""
    state = SharedState((0.5, -1.0, -1))
    assert not state.is_new_best((0.5, -1.0, -2))
    assert state.is_new_best((0.6, -1.0, -2))
    assert state.is_new_best((0.6, -1.0, -2))
    better, worse = (SavedCheckpoint(number, make_epoch(1, 0.6), {}) for number in (2, 3))
    state.record_checkpoint((0.6, -1.0, -2), better)
    assert not state.is_new_best((0.6, -1.0, -2))
    state.record_checkpoint((0.55, -1.0, -3), worse)  # both were being written
    assert not state.is_new_best((0.58, -1.0, -4))
    assert state.drain() == [("saved", better), ("saved", worse)]
    assert SharedState().is_new_best((0.0, 0.0, 0))


def test_the_actor_imports_no_torch() -> None:
    script = "import sys, jobs.search.shared_state; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, check=False, timeout=120).returncode == 0
