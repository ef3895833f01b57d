"""Reader of TensorBoard logs."""

from collections.abc import Iterator
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event


def read_events(log: Path) -> Iterator[Event]:
    """Yield a log's events. Each record is: length (8 bytes), its checksum (4), the event, its checksum (4)."""
    content, offset = log.read_bytes(), 0
    while offset < len(content):
        length = int.from_bytes(content[offset : offset + 8], "little")
        yield Event.FromString(content[offset + 12 : offset + 12 + length])
        offset += length + 16


def read_scalars(log: Path) -> dict[str, list[tuple[int, float]]]:
    """Return (step, value) of each scalar in a log, by name; values are rounded to four digits."""
    scalars: dict[str, list[tuple[int, float]]] = {}
    for event in read_events(log):
        for value in event.summary.value:
            scalars.setdefault(value.tag, []).append((event.step, round(value.simple_value, 4)))
    return scalars
