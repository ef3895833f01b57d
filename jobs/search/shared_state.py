"""What trials and their driver tell each other: who is the best so far, and what has been kept of it."""

from typing import Any

from cluster.message_queue import Mailbox, beside_the_driver


class Board(Mailbox):
    """A Ray actor: a mailbox that knows the best rank so far.

    Args:
        best: an earlier command's, if there was one.
    """

    def __init__(self, best: tuple | None = None) -> None:
        super().__init__()
        self._best = best

    def beats(self, rank: tuple) -> bool:
        """Tell whether a rank is above that of all that was kept."""
        return self._best is None or rank > self._best

    def kept(self, rank: tuple, what: Any) -> None:
        """Take note of what was kept; of two that were the best at the same time both are."""
        if self.beats(rank):
            self._best = rank
        self.put(("kept", what))


def board(best: tuple | None) -> Any:
    """Start a board on the driver's node."""
    return beside_the_driver(Board).remote(best)
