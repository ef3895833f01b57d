"""Dropout masks: the published values of Philox, and equal masks on every device and for every number of workers."""

from pathlib import Path

import numpy as np
import pytest
import torch

from jobs.model import dropout, kernels
from jobs.model.dropout import MaskNumber, draw_mask, draw_mask_with_torch, philox_with_torch

CPU = torch.device("cpu")
NUMBER = MaskNumber(seed=2**32 - 1, epoch=3, step=2**31 + 5)

# Known answers of Philox4x32-10, published with Random123: counter, key, words.
KNOWN_ANSWERS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((2**32 - 1,) * 4, (2**32 - 1,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_the_generator_has_the_published_values(
    counter: tuple[int, ...], key: tuple[int, int], expected: tuple[int, ...]
) -> None:
    words = np.array(counter, np.uint32)[:, None].repeat(9, axis=1)
    kernels.philox(words, *key)
    assert (np.array(expected) == words.T).all()
    on_device = philox_with_torch(tuple(torch.full((2, 3), word) for word in counter), torch.tensor(key))
    assert [part.unique().tolist() for part in on_device] == [[word] for word in expected]


@pytest.mark.parametrize("share", [0.1, 0.5, 0.97])
@pytest.mark.parametrize("num_features", [1, 2, 30, 300])
def test_the_gpu_code_path_draws_the_same_masks(num_features: int, share: float) -> None:
    rows = np.array([0, 1, 17, 2**31 + 1])
    mask = draw_mask(rows, num_features, share, NUMBER, CPU)
    assert torch.equal(mask, draw_mask_with_torch(rows, num_features, share, NUMBER, CPU))
    assert set(mask.unique().tolist()) <= {0.0, torch.tensor(1 / (1 - share)).item()}
    # With another type of device the function uses torch's operations.
    meta = draw_mask(rows, num_features, share, NUMBER, torch.device("meta"))
    assert (meta.shape, meta.dtype) == (mask.shape, mask.dtype)


def test_a_workers_rows_have_the_masks_that_they_have_alone() -> None:
    """The mask of a row depends on its number in the batch of all workers, not on the other rows."""
    whole = draw_mask(np.arange(40), 30, 0.5, NUMBER, CPU)
    for size in (2, 3, 4):
        for rank in range(size):
            rows = np.arange(rank, 40, size)
            assert torch.equal(draw_mask(rows, 30, 0.5, NUMBER, CPU), whole[rows])
    assert draw_mask(np.arange(0), 30, 0.5, NUMBER, CPU).shape == (0, 30)


def test_masks_differ_between_seeds_epochs_steps_and_rows() -> None:
    numbers = [MaskNumber(0, 1, 0), MaskNumber(1, 1, 0), MaskNumber(0, 2, 0), MaskNumber(0, 1, 1)]
    masks = [draw_mask(np.arange(3), 64, 0.5, number, CPU) for number in numbers]
    distinct = {tuple(row.tolist()) for mask in masks for row in mask}
    assert len(distinct) == len(numbers) * 3


def test_the_share_of_dropped_features_is_dropout_in_every_column() -> None:
    mask = draw_mask(np.arange(20_000), 10, 0.3, NUMBER, CPU)
    np.testing.assert_allclose((mask == 0).float().mean(dim=0), np.full(10, 0.3), atol=0.015)
    assert mask.mean().item() == pytest.approx(1, abs=0.01)
    assert abs(np.corrcoef(mask.T.numpy()) - np.eye(10)).max() < 0.03


def test_both_implementations_have_the_same_constants() -> None:
    """numba does not notice a change of another file, so the kernels' file has its own."""
    source = Path(kernels.__file__).read_text()
    for constant in (*dropout.MULTIPLIERS, *dropout.KEY_INCREMENTS):
        assert f"(0x{constant:X})" in source
