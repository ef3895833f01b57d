"""Equal rows of many texts, found in compiled code by hashes of 128 bits.

Two of a billion different rows have the same hash with a probability below 1e-20.
"""

import numpy as np

from jobs.compilation.decorator import compiled

Array = np.ndarray

_START, _PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)  # FNV-1a, 64 bits
_FACTOR, _SHIFT = np.uint64(0x9E3779B97F4A7C15), np.uint64(29)  # of the other half, as in SplitMix64


def hash_rows(values: Array, offsets: Array, rows: Array | None = None) -> Array:
    """Return the hash of each row, `(rows,)` of two uint64.

    Args:
        values: bytes or token ids; row i has those from offsets[i] to offsets[i + 1].
        rows: those to hash; by default all.
    """
    rows = np.arange(len(offsets) - 1) if rows is None else rows
    hashes = np.empty((len(rows), 2), np.uint64)
    _hash_rows(values, offsets, rows, hashes)
    return hashes


def find_first_rows(hashes: Array) -> Array:
    """Return for each row the first one with the same hash, `(rows,)` int64, itself if no earlier one has it."""
    slots = np.full(1 << max(1, 2 * len(hashes)).bit_length(), -1, np.int32 if len(hashes) < 1 << 31 else np.int64)
    firsts = np.empty(len(hashes), np.int64)
    _find_first_rows(hashes, slots, firsts)
    return firsts


@compiled()
def _hash_rows(values: Array, offsets: Array, rows: Array, hashes: Array) -> None:
    for number in range(len(rows)):
        row = rows[number]
        first, second = _START, _FACTOR
        for index in range(offsets[row], offsets[row + 1]):
            value = np.uint64(values[index])
            first = (first ^ value) * _PRIME
            second = (second ^ (second >> _SHIFT) ^ value) * _FACTOR
        hashes[number, 0], hashes[number, 1] = first, second


@compiled()
def _find_first_rows(hashes: Array, slots: Array, firsts: Array) -> None:
    mask = np.uint64(len(slots) - 1)
    for row in range(len(hashes)):
        slot = (hashes[row, 0] ^ (hashes[row, 1] >> np.uint64(32))) & mask
        while slots[slot] >= 0 and not (
            hashes[slots[slot], 0] == hashes[row, 0] and hashes[slots[slot], 1] == hashes[row, 1]
        ):
            slot = (slot + np.uint64(1)) & mask
        if slots[slot] < 0:
            slots[slot] = row
        firsts[row] = slots[slot]
