"""Operations of the GPU code path on the CPU, so that they are tested on machines without a GPU."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from jobs.model.batches import Batch, Collator
from jobs.model.convolution import max_over_time_with_torch
from jobs.model.dropout import draw_mask_with_torch
from jobs.model.lazy_adam import LazyAdam


def collate_on_device(collator: Collator, rows: np.ndarray) -> Batch:
    """Return a batch as a collator on a GPU makes it."""
    collator._device_ids = torch.from_numpy(collator._tokens.ids.astype(np.int64))
    collator._device_offsets = torch.from_numpy(collator._tokens.offsets)
    return collator._collate_on_device(rows)


def step_on_device(optimizer: LazyAdam, word_ids: Tensor, gradient: Tensor) -> None:
    """Take a step as on a GPU."""
    optimizer.steps += 1
    with torch.no_grad():
        optimizer.step_with_torch(word_ids, gradient)


def max_over_time_on_device(
    fixed: Tensor | None,
    trained: Tensor | None,
    filters: Tensor,
    batch: Batch,
    widths: Sequence[int],
    *,
    bfloat16: bool = False,
) -> Tensor:
    """Return the maxima as on a GPU."""
    return max_over_time_with_torch(fixed, trained, filters, batch, widths, bfloat16=bfloat16)


def use_gpu_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a loop on the CPU use the operations of a loop on a GPU."""
    monkeypatch.setattr(Collator, "collate", collate_on_device)
    monkeypatch.setattr("jobs.model.network.max_over_time", max_over_time_on_device)
    monkeypatch.setattr("jobs.training.loop.draw_mask", draw_mask_with_torch)
    monkeypatch.setattr(LazyAdam, "step", step_on_device)
