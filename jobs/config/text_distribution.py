"""Distribution of texts and their classification: how a checkpoint stores that of its validation rows.

A service counts its texts in the same bins, and exports how far the two are apart (`serving/web/distribution.py`).
"""

from collections.abc import Mapping
from typing import Any, Literal, TypedDict, cast, get_args

import numpy as np

Part = Literal["labels", "length", "unknown_words", "confidence"]
"""Properties of a text that are counted: its best label, its number of tokens, the share of tokens that are not in the
vocabulary, and the probability of the best label."""
PARTS: tuple[Part, ...] = get_args(Part)

# With more classes, metrics.json would be too long, and no service has enough texts of each.
MAX_CLASSES = 10_000

# The bin of a value is the number of edges that are less than it. Of lengths, a bin contains about as many texts as the
# next in usual data sets; the first of unknown words are the texts without any.
EDGES: dict[Part, tuple[float, ...]] = {
    "length": (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512),
    "unknown_words": (0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75),
    "confidence": (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99),
}


class StoredDistribution(TypedDict):
    """Value `distribution` of the metrics of a checkpoint: numbers of validation rows.

    rows: number of rows; labels: rows by their best class; the others: rows by their bins. edges: of the bins.
    """

    rows: int
    edges: dict[str, list[float]]
    labels: list[int]
    length: list[int]
    unknown_words: list[int]
    confidence: list[int]


def count_distribution(
    best: np.ndarray, confidences: np.ndarray, lengths: np.ndarray, unknown: np.ndarray, num_classes: int
) -> StoredDistribution:
    """Return the distribution of rows.

    Args:
        best, confidences: best class of each row, `(rows,)` int64, and its probability.
        lengths, unknown: numbers of tokens and of unknown ones among them, `(rows,)` int64.
    """
    return StoredDistribution(
        rows=len(best),
        edges={part: list(values) for part, values in EDGES.items()},
        labels=np.bincount(best, minlength=num_classes).tolist(),
        length=_count_bins("length", lengths),
        unknown_words=_count_bins("unknown_words", unknown / np.maximum(lengths, 1)),
        confidence=_count_bins("confidence", confidences),
    )


def _count_bins(part: Part, values: np.ndarray) -> list[int]:
    counts: list[int] = np.bincount(np.searchsorted(EDGES[part], values), minlength=len(EDGES[part]) + 1).tolist()
    return counts


def find_distribution(metrics: Mapping[str, Any]) -> StoredDistribution | None:
    """Return the distribution in the metrics of a checkpoint; None without one, or if its bins are other ones."""
    stored = metrics.get("distribution")
    if stored is None or stored["edges"] != {part: list(values) for part, values in EDGES.items()}:
        return None
    return cast(StoredDistribution, stored)


def validate_distribution(stored: Any, num_classes: int | None = None) -> None:
    """Raise a ValueError unless a value of a checkpoint's metrics has counts as `find_distribution` returns them.

    Args:
        num_classes: of the checkpoint; None if it is not known.
    """
    if not isinstance(stored, dict) or not isinstance(stored.get("edges"), dict):
        raise ValueError("it has no edges")
    for part in PARTS:
        counts = stored.get(part)
        if not isinstance(counts, list) or not all(type(count) is int and 0 <= count < 1 << 53 for count in counts):
            raise ValueError(f"'{part}' is {str(counts)[:50]}, not a list of counts")
        if not any(counts):
            raise ValueError(f"'{part}' counts no rows")
        edges = stored["edges"].get(part)
        size = num_classes if part == "labels" else len(edges) + 1 if isinstance(edges, list) else None
        if part != "labels" and size is None:
            raise ValueError(f"'{part}' has no edges")
        if size is not None and len(counts) != size:
            raise ValueError(f"'{part}' has {len(counts)} counts instead of {size}")
