"""Dropout masks (Hinton et al. 2012) from a counter-based random generator, Philox4x32-10 (Salmon et al. 2011).

Whether a feature is dropped is a function of the seed, the epoch, the step, the row in the batch of all workers, and
the feature. So a mask needs no state, and no worker, CPU or GPU draws another one.

The key is (seed, epoch), the counter (block, row, step, 0). A block has four words of 32 bits: with n = ceil(features
/ 4), block b has those of the features b, n + b, 2 n + b and 3 n + b. Other orders would be slower on a CPU.
`jobs.model.kernels` draws on a CPU, `jobs.model.gpu.windows` on a GPU, and `draw_mask_with_torch` there without Triton
or for several workers; tests compare them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from jobs.model.batches import copy_to_device

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_INCREMENTS = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10
WORD = 0xFFFFFFFF


@dataclass(frozen=True)
class MaskNumber:
    """Identifies a mask of a run; all less than 2^32."""

    seed: int
    epoch: int
    step: int


def draw_mask(rows: np.ndarray, num_features: int, dropout: float, number: MaskNumber, device: torch.device) -> Tensor:
    """Return the factors of features, `(rows, features)` float32: 0 for dropped ones, otherwise 1 / (1 - dropout).

    Args:
        rows: `(rows,)` int64, numbers of the rows in the batch of all workers.
        dropout: share of dropped features, less than 1.
    """
    if device.type != "cpu":
        return draw_mask_with_torch(rows, num_features, dropout, number, device)
    from jobs.model import kernels  # a GPU machine needs no numba

    mask = np.empty((len(rows), num_features), np.float32)
    kernels.draw_dropout_mask(
        rows, number.seed, number.epoch, number.step, limit_words(dropout), 1 / (1 - dropout), mask
    )
    return torch.from_numpy(mask)


def limit_words(dropout: float) -> int:
    """Return the number below which the words of features are that are not dropped."""
    return min(round((1 - dropout) * 2**32), WORD)


def draw_mask_with_torch(
    rows: np.ndarray, num_features: int, dropout: float, number: MaskNumber, device: torch.device
) -> Tensor:
    """As `draw_mask`, on any device, with torch's operations and without a device sync."""
    numbers = [torch.full((), value, device=device) for value in (number.seed, number.epoch, number.step)]
    return draw_mask_of_step(copy_to_device(rows, device), num_features, dropout, numbers)


def draw_mask_of_step(rows: Tensor, num_features: int, dropout: float, numbers: Sequence[Tensor]) -> Tensor:
    """As `draw_mask`, of a step whose numbers are on the device: nothing is copied to it.

    Args:
        rows: `(rows,)` int64. numbers: seed, epoch and step, scalars, int64.
    """
    seed, epoch, step = numbers
    num_blocks = -(-num_features // 4)
    blocks = torch.arange(num_blocks, device=rows.device).expand(len(rows), num_blocks)
    counter = (blocks, rows[:, None].expand_as(blocks), step.expand_as(blocks), torch.zeros_like(blocks))
    words = torch.cat(philox_with_torch(counter, torch.stack([seed, epoch])), dim=1)[:, :num_features]
    return (words < limit_words(dropout)) * torch.tensor(1 / (1 - dropout))


def philox_with_torch(counter: tuple[Tensor, ...], key: Tensor) -> tuple[Tensor, ...]:
    """Return the four words of the blocks with some counters.

    Args:
        counter: four words, each `(...)` int64 of 32 bits. key: two of them, `(2,)`.
    """
    device, shape = key.device, (2, *[1] * counter[0].dim())
    even, odd = torch.stack([counter[0], counter[2]]), torch.stack([counter[1], counter[3]])
    multipliers, increments = (
        torch.stack([torch.full((), value, device=device) for value in values])
        for values in (MULTIPLIERS, KEY_INCREMENTS)
    )
    multipliers = multipliers.view(shape)
    for round_index in range(ROUNDS):
        round_key = (key + round_index * increments & WORD).view(shape)
        product = even * multipliers  # of 64 bits: it may be negative
        even = (product >> 32 & WORD).flip(0) ^ odd ^ round_key
        odd = (product & WORD).flip(0)
    return even[0], odd[0], even[1], odd[1]
