"""The operations that a GPU takes, run on the CPU, so that they are tested where there is no GPU."""

import numpy as np
import pytest
import torch

from jobs.model import convolution
from jobs.model.batches import Collator
from jobs.model.lazy_adam import LazyAdam


def use_gpu_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a loop on the CPU take the operations that one on a GPU takes."""

    def resident(collator: Collator, rows: np.ndarray) -> object:
        collator._ids = torch.from_numpy(collator._tokens.ids.astype(np.int64))
        collator._offsets = torch.from_numpy(collator._tokens.offsets)
        return collator._resident(rows)

    def dense(*arguments: object, bfloat16: bool = False, on_trained_gradient: object = None) -> torch.Tensor:
        return convolution._dense(*arguments, bfloat16)

    def step(rows: LazyAdam, words: torch.Tensor, gradient: torch.Tensor) -> None:
        rows.steps += 1
        with torch.no_grad():
            rows.step_with_torch(words, gradient)

    monkeypatch.setattr(Collator, "collate", resident)
    monkeypatch.setattr("jobs.model.network.max_over_time", dense)
    monkeypatch.setattr(LazyAdam, "step", step)
