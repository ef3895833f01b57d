"""Which of the network's filters one of several workers trains (tensor parallelism, Shoeybi et al. 2019).

Each worker sees all texts of a step with its own share of each width's filters. The matrix product, the
windows and the filters' updates are divided without a rest, and no gradient of a filter ever leaves its
worker; what crosses the network are the scores of the classes, and the gradients of the word vectors that
the step touched. Neither grows with the vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class FilterShard:
    """One worker's share of the filters of each width.

    rank, size: which worker of how many. widths: of the filters. feature_maps: filters of each width, all
    workers together.
    """

    rank: int
    world_size: int
    filter_widths: Sequence[int]
    feature_maps: int

    @property
    def local_feature_maps(self) -> int:
        """Filters of each width in this share."""
        return self._slice.stop - self._slice.start

    @property
    def _slice(self) -> slice:
        return slice(*(self.feature_maps * part // self.world_size for part in (self.rank, self.rank + 1)))

    def shard_filters(self, full_filters: Sequence[Tensor]) -> Tensor:
        """Return this share of `(width * feature_maps, n)` for each width, below each other."""
        parts = [
            whole.view(width, self.feature_maps, -1)[:, self._slice].flatten(0, 1)
            for width, whole in zip(self.filter_widths, full_filters, strict=True)
        ]
        return torch.cat(parts)

    def zero_pad_filters(self, shard: Tensor) -> list[Tensor]:
        """Return what `filters` took this share from, with zeros where other shares are."""
        wholes = []
        start = 0
        for width in self.filter_widths:
            whole = shard.new_zeros(width, self.feature_maps, shard.shape[1])
            end = start + width * self.local_feature_maps
            whole[:, self._slice] = shard[start:end].view(width, self.local_feature_maps, shard.shape[1])
            wholes.append(whole.flatten(0, 1))
            start = end
        return wholes

    def shard_features(self, full_features: Tensor) -> Tensor:
        """Return this share of `(n, len(widths) * feature_maps)`, width after width."""
        if self.world_size == 1:
            return full_features
        # torch's fused optimisers take what is not contiguous for what is.
        return (
            full_features.view(len(full_features), len(self.filter_widths), -1)[:, :, self._slice]
            .flatten(1)
            .contiguous()
        )

    def zero_pad_features(self, shard: Tensor) -> Tensor:
        """Return what `features` took this share from, with zeros where other shares are."""
        whole = shard.new_zeros(len(shard), len(self.filter_widths), self.feature_maps)
        whole[:, :, self._slice] = shard.view(len(shard), len(self.filter_widths), self.local_feature_maps)
        return whole.flatten(1)
