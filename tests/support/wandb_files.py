"""Runs in the files that Weights & Biases writes offline."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def read_wandb_run(path: Path) -> dict[str, Any]:
    """Return the contents of a file of wandb: run (name, group, project), config, history and summary."""
    from wandb.proto import wandb_internal_pb2

    contents: dict[str, Any] = {"run": None, "config": {}, "history": [], "summary": {}}
    for data in _iter_log_records(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            contents["run"] = (record.run.display_name, record.run.run_group, record.run.project)
            contents["config"] |= _parse_items(record.run.config.update)
        elif kind == "config":
            contents["config"] |= _parse_items(record.config.update)
        elif kind == "history":
            contents["history"].append(_parse_items(record.history.item))
        elif kind == "summary":
            contents["summary"] |= _parse_items(record.summary.update)
    return contents


def _iter_log_records(content: bytes) -> Iterator[bytes]:
    """Yield the records of a log in LevelDB's format: blocks of 32 KiB with fragments; the file has a header."""
    position, parts = 7, []
    while position + 7 <= len(content):
        if 32768 - position % 32768 < 7:
            position += 32768 - position % 32768
        length, kind = struct.unpack_from("<HB", content, position + 4)
        parts.append(content[position + 7 : position + 7 + length])
        position += 7 + length
        if kind in (1, 4):  # a whole record, or its last fragment
            yield b"".join(parts)
            parts.clear()


def _parse_items(items: Any) -> dict[str, Any]:
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}
