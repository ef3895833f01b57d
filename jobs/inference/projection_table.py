"""Projection table: each word's products with the filters, computed once and shared by a machine's processes.

It and the network's weights are laid out as described in `jobs.inference.scoring_kernel`. The table is shared by
`jobs.inference.shared_arrays`.
"""

from functools import partial
from typing import Literal, NamedTuple

import numpy as np

from jobs.compilation.intrinsics import BLOCK
from jobs.inference import shared_arrays
from jobs.inference.shared_arrays import Layout, make_array
from jobs.model.checkpoint import Checkpoint

TableDtype = Literal["int16", "float32"]

DEFAULT_TABLE_BYTES = 256 << 20
BATCH_TABLE_BYTES = 512 << 20  # in batch prediction, where a process has a core of its own
DEFAULT_TABLE_DTYPE: TableDtype = "int16"
_FILTERS_AT_A_TIME = 32  # so that little memory is needed for the products in float32


class PackedWeights:
    """The network's weights in the layout of `jobs.inference.scoring_kernel`.

    widths: `(filters,)` int64; first_filters, column_offsets: `(max width,)` int64; filter_indices: `(columns,)` int64,
    the filter of each column; projection: `(channels * dimensions, columns)`; biases: `(filters,)`; output:
    `(classes, filters)`; output_bias: `(classes,)`; all float32.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        weights, model = checkpoint.weights, checkpoint.experiment.model
        maps, max_width = model.feature_maps, max(model.filter_widths)
        order = np.argsort(model.filter_widths, kind="stable")
        self.widths = np.repeat(np.array(model.filter_widths)[order], maps)
        self.first_filters = np.searchsorted(self.widths, np.arange(max_width), side="right")
        num_filters = -(-len(self.widths) // BLOCK) * BLOCK
        block_starts = self.first_filters // BLOCK * BLOCK
        ends = np.cumsum(num_filters - block_starts)
        self.column_offsets = ends - num_filters
        self.filter_indices = np.concatenate([np.arange(start, num_filters) for start in block_starts])
        dimensions = weights["filters.0"].shape[1]
        self.projection = np.zeros((dimensions, ends[-1]), np.float32)
        for number, index in enumerate(order):
            for position in range(model.filter_widths[index]):
                column = self.column_offsets[position] + number * maps
                rows = weights[f"filters.{index}"][position * maps : (position + 1) * maps]
                self.projection[:, column : column + maps] = rows.T
        self.biases = np.concatenate([weights[f"biases.{index}"] for index in order])
        by_width = weights["output.weight"].reshape(-1, len(order), maps)
        self.output = by_width[:, order].reshape(len(checkpoint.labels), -1)
        self.output_bias = weights["output.bias"]


class ProjectionTable(NamedTuple):
    """A table and the scale of each filter, by which its entries are multiplied.

    values: `(words, columns)` int16 or float32; scales: `(filters,)` float32, all 1 if the values are float32.
    """

    values: np.ndarray
    scales: np.ndarray


def load_or_compute(
    vectors: np.ndarray, projection: np.ndarray, filter_indices: np.ndarray, dtype: TableDtype
) -> ProjectionTable:
    """Return the table of `compute`, mapped read-only from its file where there can be one."""
    layouts = [Layout((len(vectors), projection.shape[1]), dtype), Layout((filter_indices.max() + 1,), "float32")]
    inputs = vectors, projection, filter_indices, np.empty(0, dtype)
    make_table = partial(compute, vectors, projection, filter_indices, dtype)
    return ProjectionTable(*shared_arrays.load_or_compute("table", inputs, layouts, make_table))


def compute(
    vectors: np.ndarray, projection: np.ndarray, filter_indices: np.ndarray, dtype: TableDtype
) -> ProjectionTable:
    """Return the table of `vectors @ projection`.

    With int16, all entries of a filter are rounded to multiples of its scale, so they differ by at most half of it.

    Args:
        vectors: `(words, dimensions)` float32; projection: `(dimensions, columns)` float32.
        filter_indices: `(columns,)` int64, the filter of each column.
    """
    num_filters = filter_indices.max() + 1
    values, scales = make_array((len(vectors), projection.shape[1]), dtype), np.ones(num_filters, np.float32)
    if dtype == "float32":
        return ProjectionTable(np.matmul(vectors, projection, out=values), scales)
    for first in range(0, num_filters, _FILTERS_AT_A_TIME):
        columns = np.flatnonzero((filter_indices >= first) & (filter_indices < first + _FILTERS_AT_A_TIME))
        filters = filter_indices[columns]
        products = vectors @ projection[:, columns]
        bounds = np.maximum(products.max(axis=0, initial=0), -products.min(axis=0, initial=0))
        filter_bounds = np.zeros(num_filters, np.float32)
        np.maximum.at(filter_bounds, filters, bounds)
        filter_scales = filter_bounds / np.float32(np.iinfo(np.int16).max)
        scales[filter_scales > 0] = filter_scales[filter_scales > 0]
        products /= scales[filters]
        values[:, columns] = np.rint(products, out=products)
    return ProjectionTable(values, scales)
