"""Convolution of batches with Triton's kernel: values and gradients of the code path of the CPU."""

import numpy as np
import pytest
import torch

from jobs.model.batches import Batch, Collator
from jobs.model.convolution import max_over_time
from tests.gpu_path import import_triton
from tests.support.chunks import make_tokens

device = import_triton()
from jobs.model.gpu.convolution import max_over_time_with_triton  # noqa: E402  # after the interpreter was chosen

WIDTHS = [3, 1, 2]


@pytest.mark.parametrize("lengths", [[12, 0, 1, 5], [0, 0], []])
@pytest.mark.parametrize("bfloat16", [False, True])
def test_values_and_gradients_are_those_of_the_cpu(lengths: list[int], bfloat16: bool) -> None:
    """With a fixed and a trained channel, empty texts and batches without texts."""
    tokens = make_tokens(lengths, 9)
    batch = Collator(tokens, 9).collate(np.arange(len(tokens)))
    generator = torch.Generator().manual_seed(0)
    fixed, trained = (torch.randn(len(batch.word_ids), 4, generator=generator) for _ in range(2))
    filters = torch.randn(sum(WIDTHS) * 5, 8, generator=generator)
    weights = torch.randn(len(tokens), len(WIDTHS) * 5, generator=generator)
    results = []
    for function, place in ((max_over_time_with_triton, device), (max_over_time, torch.device("cpu"))):
        leaves = [tensor.to(place).requires_grad_() for tensor in (trained.clone(), filters.clone())]
        on_device = Batch(
            batch.word_ids.to(place), batch.token_indices.to(place), batch.offsets.to(place), batch.max_length
        )
        maxima = function(fixed.to(place), *leaves, on_device, WIDTHS, bfloat16=bfloat16)
        (maxima * weights.to(place)).sum().backward()
        results.append([maxima.detach(), *(leaf.grad for leaf in leaves)])
    for value, expected in zip(*results, strict=True):
        torch.testing.assert_close(value.cpu(), expected, rtol=1e-5, atol=1e-5)
