"""Shards of the network's filters for workers: tensor parallelism (Shoeybi et al. 2019).

Each worker computes all texts of a step with its own shard of the filters of each width. The matrix product, the
windows and the filters' updates are divided completely, and no gradient of a filter leaves its worker. Workers
exchange only the scores of the classes and the gradients of the word vectors that a step touched; neither grows with
the vocabulary.

The rows of filters are laid out as described in `jobs.model.convolution`. Features are columns: width after width, and
within a width one column for each feature map.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class FilterShard:
    """One worker's shard of the filters of each width.

    feature_maps: filters of each width, of all workers together.
    """

    rank: int
    world_size: int
    filter_widths: Sequence[int]
    feature_maps: int

    @property
    def local_feature_maps(self) -> int:
        """Filters of each width in this shard."""
        return len(range(self.feature_maps)[self._slice])

    @property
    def _slice(self) -> slice:
        return slice(*(self.feature_maps * rank // self.world_size for rank in (self.rank, self.rank + 1)))

    def shard_filters(self, full_filters: Sequence[Tensor]) -> Tensor:
        """Return this shard of the filters of each width.

        Args:
            full_filters: for each width `(width * feature_maps, n)`.

        Returns:
            `(sum(filter_widths) * local_feature_maps, n)`, width after width.
        """
        shards = [
            full.view(width, self.feature_maps, -1)[:, self._slice].flatten(0, 1)
            for width, full in zip(self.filter_widths, full_filters, strict=True)
        ]
        return torch.cat(shards)

    def zero_pad_filters(self, shard: Tensor) -> list[Tensor]:
        """Return tensors shaped as those that `shard_filters` took, with zeros in place of the other shards."""
        padded = []
        start = 0
        for width in self.filter_widths:
            full = shard.new_zeros(width, self.feature_maps, shard.shape[1])
            end = start + width * self.local_feature_maps
            full[:, self._slice] = shard[start:end].view(width, self.local_feature_maps, shard.shape[1])
            padded.append(full.flatten(0, 1))
            start = end
        return padded

    def shard_features(self, full_features: Tensor) -> Tensor:
        """Return this shard of `(n, len(filter_widths) * feature_maps)`: `(n, len(filter_widths) * local maps)`."""
        if self.world_size == 1:
            return full_features
        # torch's fused optimizers read tensors that are not contiguous as if they were.
        return (
            full_features.view(len(full_features), len(self.filter_widths), -1)[:, :, self._slice]
            .flatten(1)
            .contiguous()
        )

    def zero_pad_features(self, shard: Tensor) -> Tensor:
        """Return a tensor shaped as the one that `shard_features` took, with zeros in place of the other shards."""
        full = shard.new_zeros(len(shard), len(self.filter_widths), self.feature_maps)
        full[:, :, self._slice] = shard.view(len(shard), len(self.filter_widths), self.local_feature_maps)
        return full.flatten(1)
