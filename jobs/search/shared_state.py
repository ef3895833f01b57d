"""State that the trials of a search share with their driver: the best ranking key so far, and a message queue.

The actor imports no torch: it starts quickly and needs little memory.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cluster.message_queue import MessageQueue, pin_to_driver_node
from jobs.training.history import Epoch

if TYPE_CHECKING:  # the actor does not need the experiment's settings
    from jobs.search.records import RankingKey


@dataclass(frozen=True)
class SavedCheckpoint:
    """Message of a trial: the checkpoint of an epoch is written. settings: of the trial, by dotted path."""

    number: int
    epoch: Epoch
    settings: Mapping[str, Any]


class SharedState(MessageQueue):
    """A Ray actor: message queue that knows the best ranking key of all saved checkpoints.

    Args:
        best_key: from an earlier command, if there is one.
    """

    def __init__(self, best_key: "RankingKey | None" = None) -> None:
        super().__init__()
        self._best_key = best_key

    def is_new_best(self, key: "RankingKey") -> bool:
        """Return whether a key is better than those of all saved checkpoints."""
        return self._best_key is None or key > self._best_key

    def record_checkpoint(self, key: "RankingKey", checkpoint: SavedCheckpoint) -> None:
        """Send a saved checkpoint to the driver, also if another trial saved a better one meanwhile."""
        if self.is_new_best(key):
            self._best_key = key
        self.put(("saved", checkpoint))


def start_shared_state(best_key: "RankingKey | None") -> Any:
    """Start the actor on the driver's node and return its handle."""
    return pin_to_driver_node(SharedState).remote(best_key)
