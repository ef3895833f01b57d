"""Lazy Adam: torch's Adam on the rows that a step touches, and no change of other rows."""

from collections.abc import Callable

import pytest
import torch

from jobs.model.lazy_adam import LazyAdam
from tests.gpu_path import step_on_device


@pytest.mark.parametrize("step", [LazyAdam.step, step_on_device])
def test_rows_that_every_step_touches_are_updated_as_by_torchs_adam(step: Callable[..., None]) -> None:
    """Over ten steps with changing learning rates; other rows and their moments do not change by a bit."""
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(20, 6, generator=generator)
    original = table.clone()
    words = torch.tensor([3, 17, 4])
    reference = torch.nn.Parameter(table[words].clone())
    theirs, ours = torch.optim.Adam([reference], lr=0.01), LazyAdam(table, 0.01)
    for number in range(10):
        gradient = torch.randn(3, 6, generator=generator)
        reference.grad = gradient.clone()
        theirs.param_groups[0]["lr"] = ours.learning_rate = 0.01 * (1 - number / 10)
        theirs.step()
        step(ours, words, gradient)
    torch.testing.assert_close(table[words], reference.detach(), rtol=1e-5, atol=1e-6)
    others = torch.ones(20, dtype=torch.bool)
    others[words] = False
    assert torch.equal(table[others], original[others])
    assert not any(moment[others].any() for moment in ours.moments.values())


@pytest.mark.parametrize("step", [LazyAdam.step, step_on_device])
def test_moments_of_untouched_rows_do_not_decay_as_in_torchs_sparse_adam(step: Callable[..., None]) -> None:
    """The number of steps counts all steps."""
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(8, 6, generator=generator)
    reference = torch.nn.Parameter(table.clone())
    # SparseAdam adds eps before it corrects the second moment's bias, Adam after: equal if eps is small.
    theirs, ours = torch.optim.SparseAdam([reference], lr=0.01), LazyAdam(table, 0.01)
    for number in range(12):
        words = torch.tensor([[1, 2], [2, 5], [5, 1]][number % 3])
        gradient = torch.randn(2, 6, generator=generator)
        reference.grad = torch.sparse_coo_tensor(words[None], gradient, table.shape, check_invariants=False)
        theirs.step()
        step(ours, words, gradient)
    torch.testing.assert_close(table, reference.detach(), rtol=1e-4, atol=1e-5)
