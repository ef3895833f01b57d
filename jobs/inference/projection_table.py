"""Projection table: each word's products with the filters, computed once and shared by a machine's processes.

It and the network's weights are laid out as described in `jobs.inference.scoring_kernel`. The table is shared by
`jobs.inference.shared_arrays`.
"""

from functools import partial
from typing import Literal, NamedTuple

import numpy as np

from jobs.compilation.intrinsics import CACHE_LINE
from jobs.compilation.vectors import BLOCK
from jobs.inference import shared_arrays
from jobs.inference.shared_arrays import Layout, make_array
from jobs.model.checkpoint import Checkpoint

TableDtype = Literal["int16", "float32"]

DEFAULT_TABLE_BYTES = 256 << 20
BATCH_TABLE_BYTES = 512 << 20  # in batch prediction, where a process has a core of its own
DEFAULT_TABLE_DTYPE: TableDtype = "int16"
_COLUMNS_OF_A_LINE = CACHE_LINE // np.dtype(np.int16).itemsize
_FILTERS_AT_A_TIME = 32  # so that little memory is needed for the products in float32


class PackedWeights:
    """The network's weights in the layout of `jobs.inference.scoring_kernel`.

    widths: `(number of widths,)` int64; maps: of each width; padded_maps: with the zeros of the last block. projection:
    `(channels * dimensions, columns)`; filter_indices: `(columns,)` int64, the filter of each column; biases:
    `(filters,)`; output: `(classes, filters)`; output_bias: `(classes,)`; all but the indices float32.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        weights, model = checkpoint.weights, checkpoint.experiment.model
        self.widths, self.maps = np.array(model.filter_widths), model.feature_maps
        self.padded_maps = -(-self.maps // BLOCK) * BLOCK
        dimensions, num_columns = weights["filters.0"].shape[1], self.widths.sum() * self.padded_maps
        num_columns = -(-num_columns // _COLUMNS_OF_A_LINE) * _COLUMNS_OF_A_LINE
        self.projection = np.zeros((dimensions, num_columns), np.float32)
        self.filter_indices = np.zeros(num_columns, np.int64)  # filled columns have the first one, and products of 0
        views = zip(self.split_columns(self.projection), self.split_columns(self.filter_indices), strict=True)
        for index, (projection, indices) in enumerate(views):
            projection[:] = weights[f"filters.{index}"].reshape(-1, self.maps, dimensions).transpose(2, 0, 1)
            indices[:] = np.arange(index * self.maps, (index + 1) * self.maps)
        self.biases = np.concatenate([weights[f"biases.{index}"] for index in range(len(self.widths))])
        self.output, self.output_bias = weights["output.weight"], weights["output.bias"]

    def split_columns(self, values: np.ndarray) -> list[np.ndarray]:
        """Return of each width a view of the columns, `(..., columns)`, as `(..., width, maps)`."""
        ends = np.cumsum(self.widths) * self.padded_maps
        parts = np.split(values[..., : ends[-1]], ends[:-1], axis=-1)
        return [part.reshape(*part.shape[:-1], -1, self.padded_maps)[..., : self.maps] for part in parts]


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
