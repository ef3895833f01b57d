"""What workers send their driver, in the order in which each sent it.

`ray.util.queue.Queue` is an asynchronous actor, whose calls Ray may run in any order.
"""

from typing import Any


class MessageQueue:
    """A Ray actor that holds messages until they are taken."""

    def __init__(self) -> None:
        self._held: list[Any] = []

    def put(self, message: Any) -> None:
        """Add a message; a sender need not wait for this."""
        self._held.append(message)

    def drain(self) -> list[Any]:
        """Return the messages since this was last asked, the oldest first."""
        held, self._held = self._held, []
        return held


def start_message_queue() -> Any:
    """Start a mailbox."""
    return pin_to_driver_node(MessageQueue).remote()


def pin_to_driver_node(actor_class: type) -> Any:
    """Return an actor class that costs no CPU, on the caller's node, so that no other node takes it along."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=here)(actor_class)
