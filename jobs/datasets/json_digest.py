"""Digest of long lists, which are never in memory as one JSON text."""

import hashlib
import json
from collections.abc import Sequence

CHUNK_VALUES = 1 << 14


def digest_lists(*lists: Sequence[object]) -> str:
    """Return the digest of a list of lists: that of `jobs.config.experiment.digest`."""
    content = hashlib.sha256()
    for number, values in enumerate(lists):
        content.update(b", " if number else b"[")
        _update(content, values)
    content.update(b"]" if lists else b"[]")
    return content.hexdigest()[:8]


def digest_list(values: Sequence[object]) -> str:
    """Return the digest of a list: that of `jobs.config.experiment.digest`."""
    content = hashlib.sha256()
    _update(content, values)
    return content.hexdigest()[:8]


def _update(content: "hashlib._Hash", values: Sequence[object]) -> None:
    content.update(b"[")
    for start in range(0, len(values), CHUNK_VALUES):
        chunk = json.dumps(list(values[start : start + CHUNK_VALUES]), sort_keys=True)[1:-1]
        content.update(((", " if start else "") + chunk).encode())
    content.update(b"]")
