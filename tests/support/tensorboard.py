"""What a TensorBoard log holds."""

from collections.abc import Iterator
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event


def events(log: Path) -> Iterator[Event]:
    """Return a log's events: records of length, check sum, event, check sum."""
    content, at = log.read_bytes(), 0
    while at < len(content):
        length = int.from_bytes(content[at : at + 8], "little")
        yield Event.FromString(content[at + 12 : at + 12 + length])
        at += length + 16


def scalars(log: Path) -> dict[str, list[tuple[int, float]]]:
    """Return steps and values of each scalar in a log."""
    found: dict[str, list[tuple[int, float]]] = {}
    for event in events(log):
        for value in event.summary.value:
            found.setdefault(value.tag, []).append((event.step, round(value.simple_value, 4)))
    return found
