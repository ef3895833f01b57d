"""Equal texts of parts of a dataset: compared as strings, or, of large sources, by their hashes."""

import itertools
from collections.abc import Hashable, Sequence

import numpy as np

from jobs.datasets.prepared.equal_rows import find_first_rows
from jobs.datasets.prepared.texts import Texts

Position = tuple[int, int]
"""Index of a part, and of a text in it."""


def count_repeated_texts(texts: Sequence[Sequence[str]], known: Sequence[str]) -> list[int]:
    """Return the number of texts of each part that are among the known ones."""
    hashes = _hash_parts([known, *texts])
    if hashes is None:
        distinct = set(known)
        return [sum(text in distinct for text in part) for part in texts]
    is_known = find_first_rows(hashes) < len(known)
    ends = np.cumsum([len(known), *map(len, texts)])
    return [int(np.count_nonzero(is_known[start:end])) for start, end in itertools.pairwise(ends)]


def find_ambiguous_texts(
    texts: Sequence[Sequence[str]], labels: Sequence[Sequence[Hashable]]
) -> list[tuple[Position, Position]]:
    """Return the rows of each text that has different labels: its first row, and the first one with another label.

    Args:
        texts, labels: of each part.
    """
    hashes = _hash_parts(texts)
    if hashes is not None:
        return _find_ambiguous_hashes(hashes, labels)
    first_rows: dict[str, Position] = {}
    examples: dict[str, tuple[Position, Position]] = {}
    for number, (part, labels_of_part) in enumerate(zip(texts, labels, strict=True)):
        for index, (text, label) in enumerate(zip(part, labels_of_part, strict=True)):
            first_part, first_index = first_rows.setdefault(text, (number, index))
            if label != labels[first_part][first_index]:
                examples.setdefault(text, ((first_part, first_index), (number, index)))
    return list(examples.values())


def _hash_parts(parts: Sequence[Sequence[str]]) -> np.ndarray | None:
    """Return the hashes of all texts, None if a part is not of a large source."""
    hashes = [part.hashes() for part in parts if isinstance(part, Texts)]
    return np.concatenate(hashes) if len(hashes) == len(parts) else None


def _find_ambiguous_hashes(hashes: np.ndarray, labels: Sequence[Sequence[Hashable]]) -> list[tuple[Position, Position]]:
    firsts = find_first_rows(hashes)
    numbers: dict[Hashable, int] = {}
    classes = np.concatenate(
        [
            np.fromiter((numbers.setdefault(label, len(numbers)) for label in part), np.int64, len(part))
            for part in labels
        ]
    )
    rows = np.flatnonzero(classes != classes[firsts])
    _, indices = np.unique(firsts[rows], return_index=True)  # of the first row with another label
    starts = np.cumsum([0, *map(len, labels)])

    def locate(row: int) -> Position:
        part = int(np.searchsorted(starts, row, side="right")) - 1
        return part, row - int(starts[part])

    return [(locate(int(firsts[row])), locate(int(row))) for row in rows[np.sort(indices)]]
