"""The workers' shares of the filters make up the whole, each filter with one worker."""

import pytest
import torch

from jobs.model.tensor_parallel import FilterShard

WIDTHS = [2, 3]
MAPS = 5


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7])
def test_shares_add_up_to_the_whole(size: int) -> None:
    """Also where there are more workers than filters of a width, and some have none."""
    generator = torch.Generator().manual_seed(0)
    filters = [torch.randn(width * MAPS, 4, generator=generator) for width in WIDTHS]
    features = torch.randn(6, len(WIDTHS) * MAPS, generator=generator)
    shares = [FilterShard(rank, size, WIDTHS, MAPS) for rank in range(size)]
    assert sum(share.local_feature_maps for share in shares) == MAPS
    assert max(share.local_feature_maps for share in shares) - min(share.local_feature_maps for share in shares) <= 1
    for number, whole in enumerate(filters):
        assert torch.equal(sum(share.zero_pad_filters(share.shard_filters(filters))[number] for share in shares), whole)
    assert torch.equal(sum(share.zero_pad_features(share.shard_features(features)) for share in shares), features)
    assert all(share.shard_features(features).is_contiguous() for share in shares), "fused optimisers would go wrong"


def test_a_share_keeps_the_order_of_widths_places_and_maps() -> None:
    """As the convolution reads them: width after width, place in the window after place, map after map."""
    filters = [torch.arange(width * MAPS)[:, None].float() + 100 * width for width in WIDTHS]
    found = FilterShard(1, 2, WIDTHS, MAPS).shard_filters(filters)[:, 0].tolist()
    assert found == [202, 203, 204, 207, 208, 209, 302, 303, 304, 307, 308, 309, 312, 313, 314]
