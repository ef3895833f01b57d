"""Triton kernels of the maximum over windows: the values, windows and gradients of torch's operations."""

import numpy as np
import pytest
import torch
from torch import Tensor

from jobs.datasets.tokenizer import Tokens
from jobs.model import kernels
from jobs.model.batches import Collator
from tests.gpu_path import import_triton
from tests.support.chunks import make_tokens

device = import_triton()
from jobs.model.gpu import windows  # noqa: E402  # after the interpreter was chosen

LENGTHS = [12, 0, 1, 5, 2, 31]


def reference(projected: Tensor, tokens: Tokens, widths: list[int], maps: int) -> tuple[Tensor, Tensor]:
    """Return maxima and windows of the compiled kernel on the CPU."""
    shape = len(tokens), len(widths) * maps
    maxima, argmax = np.empty(shape, np.float32), np.empty(shape, np.int32)
    indices = tokens.ids.astype(np.int32)
    kernels.max_over_windows(projected.float().numpy(), indices, tokens.offsets, np.array(widths), maps, maxima, argmax)
    return torch.from_numpy(maxima), torch.from_numpy(argmax)


def maximize(projected: Tensor, tokens: Tokens, widths: list[int], maps: int) -> tuple[Tensor, Tensor]:
    layout = windows.make_layout(tuple(widths), maps, device)
    offsets = torch.from_numpy(tokens.offsets).to(device)
    indices = torch.from_numpy(tokens.ids).to(device)
    maxima, argmax = windows.maximize_windows(projected.to(device), indices, offsets, layout, max(widths), maps)
    return maxima.cpu(), argmax.cpu()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("widths", "maps"), [([3, 4, 5], 20), ([1], 1), ([5, 2], 130)])
def test_maxima_and_windows_are_those_of_the_cpu(widths: list[int], maps: int, dtype: torch.dtype) -> None:
    """To the last bit, also for empty texts and texts that are shorter than a window."""
    tokens = make_tokens(LENGTHS, 9)
    projected = torch.randn(9, sum(widths) * maps, generator=torch.Generator().manual_seed(0)).to(dtype)
    maxima, argmax = maximize(projected, tokens, widths, maps)
    expected, expected_windows = reference(projected, tokens, widths, maps)
    assert torch.equal(maxima, expected)
    assert torch.equal(argmax, expected_windows)


def test_the_first_of_equal_windows_wins() -> None:
    """Within a tile of windows, and in tiles after another: as on the CPU."""
    tokens = Tokens(np.array([1, 2, 1, 2] * 9, np.int32), np.array([0, 4, 36]))
    projected = torch.tensor([0.0, 1.0, 1.0])[:, None].repeat(1, 3 * 2)
    maxima, argmax = maximize(projected, tokens, [3], 2)
    assert argmax.tolist() == [[2, 2], [2, 2]]
    assert torch.equal(argmax, reference(projected, tokens, [3], 2)[1])
    assert (maxima == 3).all()


def test_nan_propagates() -> None:
    projected = torch.zeros(3, 2 * 2)
    projected[2, 1] = torch.nan
    maxima, _ = maximize(projected, Tokens(np.array([1, 2, 1, 1], np.int32), np.array([0, 3, 4])), [2], 2)
    assert maxima.isnan().tolist() == [[False, True], [False, False]]


def test_a_batch_without_texts_has_no_maxima() -> None:
    maxima, argmax = maximize(torch.zeros(1, 6), make_tokens([], 3), [1, 2], 2)
    assert maxima.shape == argmax.shape == (0, 4)


def test_collated_tokens_are_indices_of_distinct_words() -> None:
    """As the loop passes them: int32 indices, int64 offsets."""
    tokens = make_tokens(LENGTHS, 9)
    batch = Collator(tokens, 9).collate(np.arange(len(tokens)))
    projected = torch.randn(len(batch.word_ids), 6, generator=torch.Generator().manual_seed(0))
    layout = windows.make_layout((1, 2), 2, device)
    maxima, _ = windows.maximize_windows(
        projected.to(device), batch.token_indices.to(device), batch.offsets.to(device), layout, 2, 2
    )
    by_id = torch.zeros(9, 6)
    by_id[batch.word_ids] = projected
    assert torch.equal(maxima.cpu(), reference(by_id, tokens, [1, 2], 2)[0])
