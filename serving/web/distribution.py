"""Distance between the texts of a service and the validation rows of its checkpoint.

Requests only add to plain counts, in compiled code. Each flush of the metrics adds these to a sliding window, and
measures how far the window is from the distribution that the checkpoint stores.
"""

from collections import deque
from collections.abc import Sequence
from math import log, sqrt
from typing import NamedTuple

import numpy as np

from jobs.config.text_distribution import EDGES, PARTS, Part, StoredDistribution

WINDOW_S, SLOTS = 3600, 60
"""Length of the window in seconds, and into how many slots it is divided: the oldest slot is removed as a whole."""


class Distances(NamedTuple):
    """Distances of a window by what is counted, and the number of its texts; no distances without texts."""

    texts: int
    by_part: dict[Part, float]


class DistributionWindow:
    """Counts of the texts of the last WINDOW_S seconds.

    Args:
        stored: the distribution of the checkpoint.
    """

    def __init__(self, stored: StoredDistribution) -> None:
        self._expected = np.concatenate([stored[part] for part in PARTS]).astype(np.float64)
        self._ends = np.cumsum([len(stored["labels"]), *(len(edges) + 1 for edges in EDGES.values())])[:-1]
        self._slots: deque[tuple[float, np.ndarray]] = deque()  # their starts and counts

    def add(self, labels: Sequence[int], bins: Sequence[int], now: float) -> None:
        """Add texts, counted by their best class and by the bins of EDGES; now: time in seconds of a steady clock."""
        counts = np.concatenate([labels, bins])
        if self._slots and now - self._slots[-1][0] < WINDOW_S / SLOTS:
            self._slots[-1][1][:] += counts
        else:
            self._slots.append((now, counts.astype(np.float64)))
        while now - self._slots[0][0] >= WINDOW_S:
            self._slots.popleft()

    def measure(self) -> Distances:
        """Return the distances of the texts in the window."""
        counts = sum((counts for _, counts in self._slots), np.zeros_like(self._expected))
        parts = zip(PARTS, np.split(self._expected, self._ends), np.split(counts, self._ends), strict=True)
        texts = int(counts[: self._ends[0]].sum())
        return Distances(texts, {part: measure_distance(*pair) for part, *pair in parts} if texts else {})


def measure_distance(expected: np.ndarray, counts: np.ndarray) -> float:
    """Return the Jensen-Shannon distance of two samples, with logarithms to base 2: 0 for the same, 1 without overlap.

    Two samples of one distribution differ too. The divergence that is expected of them, `(bins - 1) / 8 * (1 / n +
    1 / m)` nats for n and m texts, is subtracted, so that the distance does not depend on the number of bins and texts.

    Args:
        expected, counts: texts of each bin, `(bins,)` float64, at least one text each.
    """
    occupied = (expected > 0) | (counts > 0)
    p, q = expected[occupied] / expected.sum(), counts[occupied] / counts.sum()
    mean = (p + q) / 2
    divergence = sum(float((x * np.log(np.where(x > 0, x, mean) / mean)).sum()) / 2 for x in (p, q))
    by_chance = (len(mean) - 1) / 8 * (1 / expected.sum() + 1 / counts.sum())
    return sqrt(min(1.0, max(0.0, divergence - by_chance) / log(2)))
