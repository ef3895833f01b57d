"""Filter shards: each filter is in the shard of one worker, and the shards add up to all filters."""

import pytest
import torch

from jobs.model.tensor_parallel import FilterShard

WIDTHS = [2, 3]
MAPS = 5


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7])
def test_shards_add_up_to_all_filters(size: int) -> None:
    """There may be more workers than filters of a width, so that some have none."""
    generator = torch.Generator().manual_seed(0)
    filters = [torch.randn(width * MAPS, 4, generator=generator) for width in WIDTHS]
    features = torch.randn(6, len(WIDTHS) * MAPS, generator=generator)
    shards = [FilterShard(rank, size, WIDTHS, MAPS) for rank in range(size)]
    sizes = [shard.local_feature_maps for shard in shards]
    assert sum(sizes) == MAPS
    assert max(sizes) - min(sizes) <= 1
    for index, full in enumerate(filters):
        assert torch.equal(sum(shard.zero_pad_filters(shard.shard_filters(filters))[index] for shard in shards), full)
    assert torch.equal(sum(shard.zero_pad_features(shard.shard_features(features)) for shard in shards), features)
    assert all(shard.shard_features(features).is_contiguous() for shard in shards), "fused optimizers need it"


def test_a_shard_keeps_the_layout_of_the_filters() -> None:
    """The layout is width after width, position in the window after position, map after map."""
    filters = [torch.arange(width * MAPS)[:, None].float() + 100 * width for width in WIDTHS]
    rows = FilterShard(1, 2, WIDTHS, MAPS).shard_filters(filters)[:, 0].tolist()
    assert rows == [202, 203, 204, 207, 208, 209, 302, 303, 304, 307, 308, 309, 312, 313, 314]
