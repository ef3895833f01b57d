"""Vectors: sums of rows and maxima over windows, compared with numpy."""

from typing import Any

import numpy as np
import pytest
from numba import njit

from jobs.compilation import vectors
from jobs.compilation.vectors import BLOCK, BLOCK_COUNTS, choose_blocks

GUARD = 12345.0
# Intrinsics can be called by compiled functions only; to mypy their arguments are those of the generated code.
max_windows: Any = vectors.max_windows
sum_rows: Any = vectors.sum_rows


@njit
def call_max_windows(
    maxima: Any, table: Any, ids: Any, num_columns: int, column: int, stride: int, width: int, blocks: int
) -> None:
    max_windows(maxima, table, ids, len(ids), num_columns, column, stride, width, blocks)


@njit
def call_sum_rows(sums: Any, rows: Any, offsets: Any) -> None:
    sum_rows(sums, rows, offsets, len(offsets))


def make_table(dtype: str, shape: tuple[int, int]) -> np.ndarray:
    """Return values whose sums do not fit int16, or that are not whole numbers."""
    values = np.random.default_rng(0).uniform(-32767, 32767, shape)
    return values.astype(dtype)


@pytest.mark.parametrize("dtype", ["int16", "float32"])
@pytest.mark.parametrize("blocks", BLOCK_COUNTS)
@pytest.mark.parametrize("width", [1, 3, 5])
def test_maxima_over_windows(dtype: str, blocks: int, width: int) -> None:
    """Of texts that are shorter and longer than a window; nothing is written behind the maxima."""
    size, stride = blocks * BLOCK, blocks * BLOCK + 8
    column, num_columns = 8, width * stride + 16
    table = make_table(dtype, (20, num_columns))
    for count in (1, 2, 4, 9):
        ids = np.random.default_rng(count).integers(0, 20, count)
        maxima = np.full(size + 8, GUARD, np.float32)
        call_max_windows(maxima, table.reshape(-1), ids, num_columns, column, stride, width, blocks)
        rows = table[ids][:, column:].astype(np.float32)
        windows = [
            sum(rows[start + position, position * stride : position * stride + size]
                for position in range(width) if 0 <= start + position < count)
            for start in range(1 - width, count)
        ]  # fmt: skip
        np.testing.assert_allclose(maxima[:size], np.max(windows, axis=0), rtol=1e-6)
        assert (maxima[size:] == GUARD).all()


@pytest.mark.parametrize("dtype", ["int16", "float32"])
@pytest.mark.parametrize("size", [8, 32, 40, 72])
def test_sums_of_rows(dtype: str, size: int) -> None:
    """Rows may start anywhere; without one the sums are 0."""
    table = make_table(dtype, (30, size + 3))
    for offsets in ([], [0], [5, 7 * (size + 3) + 2, 29 * (size + 3) + 3, 5]):
        memory = np.full(size + 8, GUARD, np.float32)
        call_sum_rows(memory[:size], table.reshape(-1), np.array(offsets, np.int64))
        expected = sum(
            (table.reshape(-1)[first : first + size].astype(np.float64) for first in offsets), np.zeros(size)
        )
        np.testing.assert_allclose(memory[:size], expected, rtol=1e-5, atol=0.01)
        assert (memory[size:] == GUARD).all()


@pytest.mark.parametrize(
    ("num_blocks", "expected"), [(1, 1), (2, 2), (3, 2), (7, 7), (8, 4), (13, 7), (16, 4), (32, 7)]
)
def test_blocks_of_a_call(num_blocks: int, expected: int) -> None:
    assert choose_blocks(num_blocks) == expected
