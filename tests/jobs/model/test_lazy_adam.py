"""The lazy Adam: on the rows a step touches it is torch's, and no other row is touched."""

from collections.abc import Callable

import pytest
import torch

from jobs.model.lazy_adam import LazyAdam


def compiled(adam: LazyAdam, words: torch.Tensor, gradient: torch.Tensor) -> None:
    adam.step(words, gradient)


def as_on_gpu(adam: LazyAdam, words: torch.Tensor, gradient: torch.Tensor) -> None:
    adam.steps += 1
    with torch.no_grad():
        adam.step_with_torch(words, gradient)


@pytest.mark.parametrize("step", [compiled, as_on_gpu])
def test_rows_that_every_step_touches_move_as_torchs_adam_moves_them(step: Callable[..., None]) -> None:
    """Over ten steps with changing rates; rows that none touches stay bit for bit, moments too."""
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(20, 6, generator=generator)
    before = table.clone()
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
    assert torch.equal(table[others], before[others])
    assert not any(moment[others].any() for moment in ours.moments.values())


@pytest.mark.parametrize("step", [compiled, as_on_gpu])
def test_a_row_that_rests_keeps_its_moments_as_in_torchs_sparse_adam(step: Callable[..., None]) -> None:
    """The variant is SparseAdam's: moments do not decay in steps without the row, the step count goes on."""
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(8, 6, generator=generator)
    reference = torch.nn.Parameter(table.clone())
    # SparseAdam adds eps before it corrects the second moment's bias, Adam after: alike where eps is small.
    theirs, ours = torch.optim.SparseAdam([reference], lr=0.01), LazyAdam(table, 0.01)
    for number in range(12):
        words = torch.tensor([[1, 2], [2, 5], [5, 1]][number % 3])
        gradient = torch.randn(2, 6, generator=generator)
        reference.grad = torch.sparse_coo_tensor(words[None], gradient, table.shape, check_invariants=False)
        theirs.step()
        step(ours, words, gradient)
    torch.testing.assert_close(table, reference.detach(), rtol=1e-4, atol=1e-5)
