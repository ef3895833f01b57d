"""The convolution is exactly torch's, and a text's scores are its own."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from jobs.convolution import max_over_time


def reference(vectors: Tensor, filters: Tensor, tokens: Tensor, lengths: Tensor, width: int) -> Tensor:
    """torch's own convolution of each text alone, with width - 1 zero vectors on both sides."""
    maps = filters.shape[0] // width
    kernel = filters.view(width, maps, -1).permute(1, 2, 0)  # (maps, dimensions, width)
    found = []
    for text, length in zip(tokens, lengths, strict=True):
        words = vectors[text[:length]] if length else vectors[:1] * 0
        padded = F.pad(words.T[None], (width - 1, width - 1))  # (1, dimensions, length + 2 * (width - 1))
        found.append(F.conv1d(padded, kernel).amax(dim=2)[0])
    return torch.stack(found)


@pytest.mark.parametrize("width", [1, 2, 3, 5])
def test_values_and_gradients_are_those_of_conv1d(width: int) -> None:
    """In float64, for texts of 0 to 12 words, to the last digits."""
    generator = torch.Generator().manual_seed(width)
    lengths = torch.tensor([12, 0, 1, 5, 2, 12])
    tokens = torch.randint(1, 9, (6, 12), generator=generator)
    tokens[torch.arange(12) >= lengths[:, None]] = 0
    vectors = torch.randn(9, 4, generator=generator, dtype=torch.float64)
    vectors[0] = 0
    filters = torch.randn(width * 7, 4, generator=generator, dtype=torch.float64)
    weights = torch.randn(6, 7, generator=generator, dtype=torch.float64)
    gradients = []
    values = []
    for function in (
        lambda v, f: max_over_time(v @ f.T, tokens, lengths, width),
        lambda v, f: reference(v, f, tokens, lengths, width),
    ):
        leaves = vectors.clone().requires_grad_(), filters.clone().requires_grad_()
        found = function(*leaves)
        (found * weights).sum().backward()
        values.append(found.detach())
        gradients.append([leaf.grad for leaf in leaves])
    torch.testing.assert_close(values[0], values[1], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradients[0][1], gradients[1][1], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradients[0][0][1:], gradients[1][0][1:], rtol=1e-12, atol=1e-12)
    assert not gradients[0][0][0].any(), "padding is not learned"


def test_gradients_pass_torchs_own_check() -> None:
    """Finite differences agree."""
    generator = torch.Generator().manual_seed(0)
    projected = torch.randn(6, 3 * 2, generator=generator, dtype=torch.float64)
    projected[0] = 0
    tokens = torch.tensor([[1, 2, 3, 4], [5, 1, 0, 0]])
    lengths = torch.tensor([4, 2])
    words = projected[1:].clone().requires_grad_()

    def function(rows: Tensor) -> Tensor:
        return max_over_time(torch.cat([projected[:1], rows]), tokens, lengths, 3)

    assert torch.autograd.gradcheck(function, words)
