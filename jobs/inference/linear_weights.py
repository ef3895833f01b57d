"""Weights of the linear classifier next to the network (`model.linear`), shared by a machine's processes."""

from collections.abc import Mapping
from copy import copy
from functools import partial

import numpy as np

from jobs.compilation.vectors import BLOCK
from jobs.inference import shared_arrays
from jobs.inference.linear_kernel import build_pair_table, count_filter_bytes, count_slots
from jobs.inference.projection_table import TableDtype
from jobs.inference.shared_arrays import Layout, make_array
from jobs.model.checkpoint import Checkpoint
from jobs.model.linear.tensors import BIAS, PAIRS, SCALE, SQUARES, WEIGHT, compute_keys


class LinearWeights:
    """The weights in the layout of `jobs.inference.linear_kernel`, all empty without a linear classifier.

    num_words: rows of words. rows: `(rows, stride)` int16 or float32; bias, scales: `(classes,)` float32, with the
    scale of the linear classifier.

    Args:
        dtype: of the rows. int16 takes half of the memory; all weights of a class are multiples of its scale.
        share: with other processes of this machine, in a file.
    """

    def __init__(self, checkpoint: Checkpoint, dtype: TableDtype, *, share: bool) -> None:
        weights, classes = checkpoint.weights, len(checkpoint.labels)
        self.clear(classes, np.dtype(dtype))
        if WEIGHT not in weights:
            return
        num_rows, num_pairs = len(weights[SQUARES]), len(weights[PAIRS])
        self.num_words, self.bias = num_rows - num_pairs, weights[SCALE] * weights[BIAS]
        self._min_square = float(weights[SQUARES].min(initial=np.inf, where=weights[SQUARES] > 0))
        layouts = [
            Layout((num_rows, count_columns(classes, dtype)), dtype), Layout((classes,), "float32"),
            Layout((2 * count_slots(num_pairs),), "int64"), Layout((count_filter_bytes(num_pairs),), "uint8"),
        ]  # fmt: skip
        # A text's sum of as many weights is within int32.
        limit = min(np.iinfo(np.int16).max, np.iinfo(np.int32).max // (2 * checkpoint.experiment.text.max_tokens))
        build = partial(build_arrays, weights, dtype, limit)
        inputs = [*(weights[name] for name in (PAIRS, WEIGHT, SQUARES)), np.full(1, limit, dtype)]
        arrays = shared_arrays.load_or_compute("linear", inputs, layouts, build) if share else build()
        for array in arrays:  # as shared ones are: numba compiles for each kind
            array.flags.writeable = False
        self.rows, scales, self.pairs, self.filter = arrays
        self.scales = weights[SCALE] * scales

    def without_rows(self) -> "LinearWeights":
        """Return the weights as without a linear classifier."""
        weights = copy(self)
        weights.clear(len(self.scales), self.rows.dtype)
        return weights

    def clear(self, classes: int, dtype: np.dtype) -> None:
        """Have no rows, and the bias 0."""
        self.num_words, self.rows = 0, np.empty((0, 0), dtype)
        self.pairs, self.filter = np.empty(0, np.int64), np.empty(0, np.uint8)
        self.scales, self.bias = np.zeros(classes, np.float32), np.zeros(classes, np.float32)
        self._min_square = 1.0

    def read_rows(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the squares and the scaled weights of rows, `(rows,)` and `(rows, classes)` float64."""
        values = self.rows[rows]
        first = 4 // values.itemsize
        weights = values[:, first : first + len(self.scales)] * self.scales.astype(np.float64)
        return values.view(np.float32)[:, 0].astype(np.float64), weights

    def max_rounding_error(self, max_tokens: int) -> np.ndarray:
        """Return an upper bound of the error of each class's scores that is due to rows of int16, `(classes,)`.

        A weight differs by half a scale at most, and the sum of n weights is divided by the root of n squares or more.
        """
        if self.rows.dtype != np.int16:
            return np.zeros(len(self.scales))
        return np.asarray(self.scales / 2.0 * np.sqrt(2.0 * max_tokens / self._min_square))


def count_columns(classes: int, dtype: TableDtype) -> int:
    """Return the elements of a row: a square in float32, the classes, and zeros up to a multiple of BLOCK."""
    return -(-(4 // np.dtype(dtype).itemsize + classes) // BLOCK) * BLOCK


def build_arrays(weights: Mapping[str, np.ndarray], dtype: TableDtype, limit: int) -> list[np.ndarray]:
    """Return rows, the scales of the classes, pairs and filter of `jobs.inference.linear_kernel`.

    Args:
        weights: a checkpoint's. limit: the largest absolute value of a weight in int16.
    """
    weight, squares = weights[WEIGHT], weights[SQUARES]
    num_rows, classes = weight.shape
    rows, scales = make_array((num_rows, count_columns(classes, dtype)), dtype), np.ones(classes, np.float32)
    rows[:] = 0
    rows.view(np.float32)[:, 0] = squares
    first = 4 // rows.itemsize
    if dtype == "int16":
        scales = np.maximum(weight.max(axis=0, initial=0), -weight.min(axis=0, initial=0)) / np.float32(limit)
        weight = np.rint(weight / np.where(scales > 0, scales, 1)).clip(-limit, limit)
    rows[:, first : first + classes] = weight
    return [rows, scales, *build_pair_table(compute_keys(weights[PAIRS]), num_rows - len(weights[PAIRS]))]
