"""What trials and their driver tell each other: who is the best so far, and what has been kept of it."""

from typing import Any

from cluster.message_queue import MessageQueue, pin_to_driver_node


class SharedState(MessageQueue):
    """A Ray actor: a mailbox that knows the best rank so far.

    Args:
        best: an earlier command's, if there was one.
    """

    def __init__(self, best_key: tuple | None = None) -> None:
        super().__init__()
        self._best = best_key

    def is_new_best(self, rank: tuple) -> bool:
        """Tell whether a rank is above that of all that was kept."""
        return self._best is None or rank > self._best

    def record_checkpoint(self, rank: tuple, record: Any) -> None:
        """Take note of what was kept; of two that were the best at the same time both are."""
        if self.is_new_best(rank):
            self._best = rank
        self.put(("saved", record))


def start_shared_state(best_key: tuple | None) -> Any:
    """Start a board on the driver's node."""
    return pin_to_driver_node(SharedState).remote(best_key)
