"""Convolution: the values and gradients of torch's conv1d, on both code paths."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from jobs.datasets.tokenizer import Tokens
from jobs.model.batches import Batch, Collator
from jobs.model.convolution import max_over_time, max_over_time_with_torch, project

LENGTHS = [12, 0, 1, 5, 2, 12]
WIDTHS = [3, 1, 2, 5]
MAPS = 7


def batch_of(lengths: list[int], seed: int = 0) -> tuple[Batch, list[np.ndarray]]:
    """Return texts of the words 1 to 8, some of them repeated, as a batch and as word ids."""
    ids = np.random.default_rng(seed).integers(1, 9, sum(lengths)).astype(np.int32)
    tokens = Tokens(ids, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))
    texts = [ids[start:end] for start, end in zip(tokens.offsets, tokens.offsets[1:], strict=False)]
    return Collator(tokens, 9).collate(np.arange(len(lengths))), texts


def reference(vectors: Tensor, filters: Tensor, texts: list[np.ndarray]) -> Tensor:
    """Return torch's own convolution of each text alone, with width - 1 zero vectors on both sides."""
    maxima = []
    for text in texts:
        words = vectors[torch.from_numpy(text).long()] if len(text) else vectors[:1] * 0
        features, start = [], 0
        for width in WIDTHS:
            kernel = filters[start : start + width * MAPS].view(width, MAPS, -1).permute(1, 2, 0)
            start += width * MAPS
            padded = F.pad(words.T[None], (width - 1, width - 1))  # (1, columns, length + 2 * (width - 1))
            features.append(F.conv1d(padded, kernel).amax(dim=2)[0])
        maxima.append(torch.cat(features))
    return torch.stack(maxima)


def on_cpu(fixed: Tensor | None, trained: Tensor | None, filters: Tensor, batch: Batch) -> Tensor:
    return max_over_time(fixed, trained, filters, batch, WIDTHS)


def as_on_gpu(fixed: Tensor | None, trained: Tensor | None, filters: Tensor, batch: Batch) -> Tensor:
    return max_over_time_with_torch(fixed, trained, filters, batch, WIDTHS)


@pytest.mark.parametrize("path", [on_cpu, as_on_gpu])
@pytest.mark.parametrize("channels", ["trained", "fixed", "both"])
def test_values_and_gradients_are_those_of_conv1d(path: Callable[..., Tensor], channels: str) -> None:
    """They agree in float64 to the last digits, for texts of 0 to 12 words and filters of widths 1 to 5."""
    batch, texts = batch_of(LENGTHS)
    generator = torch.Generator().manual_seed(1)
    columns = 8 if channels == "both" else 4
    table = torch.randn(9, columns, generator=generator, dtype=torch.float64)
    filters = torch.randn(sum(WIDTHS) * MAPS, columns, generator=generator, dtype=torch.float64)
    weights = torch.randn(6, len(WIDTHS) * MAPS, generator=generator, dtype=torch.float64)

    leaves = table.clone().requires_grad_(), filters.clone().requires_grad_()
    expected = reference(*leaves, texts)
    (expected * weights).sum().backward()

    num_fixed = {"trained": 0, "fixed": columns, "both": 4}[channels]
    vectors, own_filters = table[batch.word_ids], filters.clone().requires_grad_()
    fixed = vectors[:, :num_fixed] if num_fixed else None
    trained = vectors[:, num_fixed:].clone().requires_grad_() if num_fixed < columns else None
    maxima = path(fixed, trained, own_filters, batch)
    (maxima * weights).sum().backward()

    torch.testing.assert_close(maxima, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(own_filters.grad, leaves[1].grad, rtol=1e-12, atol=1e-12)
    if trained is not None:
        expected_gradient = leaves[0].grad[batch.word_ids][:, num_fixed:]
        torch.testing.assert_close(trained.grad, expected_gradient, rtol=1e-12, atol=1e-12)


def test_gradients_agree_with_finite_differences() -> None:
    """torch.autograd.gradcheck compares them."""
    batch, _ = batch_of([4, 2])
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(len(batch.word_ids), 3, generator=generator, dtype=torch.float64, requires_grad=True)
    filters = torch.randn(sum(WIDTHS) * 2, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda r, f: max_over_time(None, r, f, batch, WIDTHS), (rows, filters))


@pytest.mark.parametrize("path", [on_cpu, as_on_gpu])
def test_a_batch_of_empty_texts_has_maxima_and_gradients_of_zero(path: Callable[..., Tensor]) -> None:
    """The gradients are zero, not missing."""
    batch, _ = batch_of([0, 0])
    filters = torch.ones(sum(WIDTHS) * MAPS, 4, requires_grad=True)
    trained = torch.empty(0, 4, requires_grad=True)
    maxima = path(None, trained, filters, batch)
    assert maxima.shape == (2, len(WIDTHS) * MAPS)
    assert not maxima.any()
    maxima.sum().backward()
    assert torch.equal(filters.grad, torch.zeros_like(filters))
    assert trained.grad.shape == (0, 4)


@pytest.mark.parametrize("path", [on_cpu, as_on_gpu])
def test_empty_texts_of_a_batch_add_nothing_to_its_gradients(path: Callable[..., Tensor]) -> None:
    """The gradients of a batch are those of its other texts."""
    gradients = []
    for lengths in ([4, 0, 0], [4]):
        batch, _ = batch_of(lengths)
        generator = torch.Generator().manual_seed(0)
        trained = torch.randn(len(batch.word_ids), 4, generator=generator, requires_grad=True)
        filters = torch.randn(sum(WIDTHS) * MAPS, 4, generator=generator, requires_grad=True)
        path(None, trained, filters, batch).sum().backward()
        gradients.append((trained.grad, filters.grad))
    for with_empty, without in zip(*gradients, strict=True):
        assert without.any()
        torch.testing.assert_close(with_empty, without)


@pytest.mark.parametrize("path", [on_cpu, as_on_gpu])
def test_a_batch_without_texts_has_gradients_of_zero(path: Callable[..., Tensor]) -> None:
    """The last batch of an epoch may have fewer texts than there are workers."""
    batch, _ = batch_of([])
    filters = torch.ones(sum(WIDTHS) * MAPS, 4, requires_grad=True)
    vectors = torch.ones(len(batch.word_ids), 4, requires_grad=True)
    maxima = path(None, vectors, filters, batch)
    assert maxima.shape == (0, len(WIDTHS) * MAPS)
    maxima.sum().backward()
    assert torch.equal(filters.grad, torch.zeros_like(filters))
    assert vectors.grad.shape == (0, 4)


@pytest.mark.parametrize("path", [on_cpu, as_on_gpu])
def test_nan_propagates(path: Callable[..., Tensor]) -> None:
    """NaN propagates as in torch's maximum; a diverging run is recognized by it."""
    batch, _ = batch_of([6])
    vectors = torch.randn(len(batch.word_ids), 4)
    vectors[batch.token_indices[2].item()] = torch.nan
    assert path(None, vectors, torch.randn(sum(WIDTHS) * MAPS, 4), batch).isnan().all()


@pytest.mark.parametrize("convolve", [max_over_time, max_over_time_with_torch])
def test_bfloat16_rounds_the_product_and_no_gradient(convolve: Callable[..., Tensor]) -> None:
    """The product is float32; gradients are those of the product of the unrounded numbers."""
    generator = torch.Generator().manual_seed(0)
    vectors, filters = torch.randn(5, 300, generator=generator), torch.randn(8, 300, generator=generator)
    rounded_product = project(vectors, filters, bfloat16=True)
    assert rounded_product.dtype == torch.float32
    exact = vectors.bfloat16().double() @ filters.bfloat16().double().T
    torch.testing.assert_close(rounded_product.double(), exact, rtol=2**-8, atol=1e-6)
    assert not torch.equal(rounded_product, project(vectors, filters, bfloat16=False))

    batch, _ = batch_of([7, 5])
    gradients = []
    for bfloat16 in (True, False):
        leaves = torch.ones(len(batch.word_ids), 4, requires_grad=True), torch.full((33, 4), 1 / 3, requires_grad=True)
        (convolve(None, *leaves, batch, [11], bfloat16=bfloat16).sum() / 3).backward()
        gradients.append([leaf.grad for leaf in leaves])
    for rounded, unrounded in zip(*gradients, strict=True):
        torch.testing.assert_close(rounded, unrounded)
