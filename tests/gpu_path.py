"""Operations of the GPU code path on the CPU, so that they are tested on machines without a GPU."""

import importlib
import os
import sys
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from jobs.model.batches import Batch, Collator
from jobs.model.convolution import max_over_time_with_torch
from jobs.model.dropout import draw_mask_with_torch
from jobs.model.lazy_adam import LazyAdam

KERNEL_MODULES = [f"jobs.model.gpu.{name}" for name in ("adam", "convolution", "output_layer", "windows")]


def import_triton() -> torch.device:
    """Import Triton, and return the device that its kernels run on; skip the test without Triton.

    Without a GPU the kernels run in Triton's interpreter on the CPU, which Triton chooses when it is imported. If it
    was imported before, it is imported again, without its extension module, which can be imported only once.
    """
    if find_spec("triton") is None:
        pytest.skip("Triton is not installed", allow_module_level=True)
    if torch.cuda.is_available():
        return torch.device("cuda")
    if not _is_interpreter(sys.modules.get("triton")):
        for name in list(sys.modules):
            if name in KERNEL_MODULES or (name.startswith("triton") and not name.startswith("triton._C")):
                del sys.modules[name]
        os.environ["TRITON_INTERPRET"] = "1"
        try:
            interpreter = importlib.import_module("triton.runtime.interpreter")
        finally:
            del os.environ["TRITON_INTERPRET"]
        knobs = sys.modules["triton"].knobs
        knobs.propagate_env = False  # otherwise the variable is set for later commands
        knobs.runtime.interpret = True
        knobs.propagate_env = True
        patch_tensor = interpreter._patch_lang_tensor

        def patch(tensor: Any, scope: Any) -> None:
            """With numpy 2.4 only arrays without dimensions are converted by `int`, as Triton 3.6 does it."""
            patch_tensor(tensor, scope)
            scope.set_attr(tensor, "__index__", lambda value: value.handle.data.item())

        interpreter._patch_lang_tensor = patch
    return torch.device("cpu")


def _is_interpreter(triton: Any) -> bool:
    return triton is not None and not isinstance(triton.language.max, triton.runtime.JITFunction)


def collate_on_device(collator: Collator, rows: np.ndarray) -> Batch:
    """Return a batch as a collator on a GPU makes it."""
    return collator._collate_on_device(rows)


def step_on_device(optimizer: LazyAdam, word_ids: Tensor, gradient: Tensor) -> None:
    """Take a step as on a GPU."""
    optimizer.steps += 1
    with torch.no_grad():
        optimizer.step_with_torch(word_ids, gradient)


def use_gpu_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a loop on the CPU use the operations of a loop on a GPU."""
    monkeypatch.setattr(Collator, "collate", collate_on_device)
    monkeypatch.setattr("jobs.model.network.max_over_time", max_over_time_with_torch)
    monkeypatch.setattr("jobs.training.loop.draw_mask", draw_mask_with_torch)
    monkeypatch.setattr(LazyAdam, "step", step_on_device)
