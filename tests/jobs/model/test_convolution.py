"""The convolution is exactly torch's, on either path, and a text's maxima are its own."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from jobs.datasets.tokenizer import Tokens
from jobs.model.batches import Batch, Collator
from jobs.model.convolution import _dense, max_over_time, project

LENGTHS = [12, 0, 1, 5, 2, 12]
WIDTHS = [3, 1, 2, 5]
MAPS = 7


def batch_of(lengths: list[int], seed: int = 0) -> tuple[Batch, list[np.ndarray]]:
    """Return texts of words 1 to 8, of which some come twice, as a batch and as word numbers."""
    ids = np.random.default_rng(seed).integers(1, 9, sum(lengths)).astype(np.int32)
    tokens = Tokens(ids, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))
    texts = [ids[start:end] for start, end in zip(tokens.offsets, tokens.offsets[1:], strict=False)]
    return Collator(tokens, 9).collate(np.arange(len(lengths))), texts


def reference(vectors: Tensor, filters: Tensor, texts: list[np.ndarray]) -> Tensor:
    """torch's own convolution of each text alone, with width - 1 zero vectors on both sides."""
    found = []
    for text in texts:
        words = vectors[torch.from_numpy(text).long()] if len(text) else vectors[:1] * 0
        features, start = [], 0
        for width in WIDTHS:
            kernel = filters[start : start + width * MAPS].view(width, MAPS, -1).permute(1, 2, 0)
            start += width * MAPS
            padded = F.pad(words.T[None], (width - 1, width - 1))  # (1, columns, length + 2 * (width - 1))
            features.append(F.conv1d(padded, kernel).amax(dim=2)[0])
        found.append(torch.cat(features))
    return torch.stack(found)


def on_cpu(fixed: Tensor | None, trained: Tensor | None, filters: Tensor, batch: Batch) -> Tensor:
    return max_over_time(fixed, trained, filters, batch, WIDTHS)


def as_on_gpu(fixed: Tensor | None, trained: Tensor | None, filters: Tensor, batch: Batch) -> Tensor:
    return _dense(fixed, trained, filters, batch, WIDTHS, bfloat16=False)


@pytest.mark.parametrize("path", [on_cpu, as_on_gpu])
@pytest.mark.parametrize("channels", ["trained", "fixed", "both"])
def test_values_and_gradients_are_those_of_conv1d(path: Callable[..., Tensor], channels: str) -> None:
    """In float64, for texts of 0 to 12 words and filters of widths 1 to 5, to the last digits."""
    batch, texts = batch_of(LENGTHS)
    generator = torch.Generator().manual_seed(1)
    columns = 8 if channels == "both" else 4
    table = torch.randn(9, columns, generator=generator, dtype=torch.float64)
    filters = torch.randn(sum(WIDTHS) * MAPS, columns, generator=generator, dtype=torch.float64)
    weights = torch.randn(6, len(WIDTHS) * MAPS, generator=generator, dtype=torch.float64)

    leaves = table.clone().requires_grad_(), filters.clone().requires_grad_()
    expected = reference(*leaves, texts)
    (expected * weights).sum().backward()

    trained_from = {"trained": 0, "fixed": columns, "both": 4}[channels]
    rows, own = table[batch.word_ids], filters.clone().requires_grad_()
    fixed = rows[:, :trained_from] if trained_from else None
    trained = rows[:, trained_from:].clone().requires_grad_() if trained_from < columns else None
    found = path(fixed, trained, own, batch)
    (found * weights).sum().backward()

    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(own.grad, leaves[1].grad, rtol=1e-12, atol=1e-12)
    if trained is not None:
        expected_rows = leaves[0].grad[batch.word_ids][:, trained_from:]
        torch.testing.assert_close(trained.grad, expected_rows, rtol=1e-12, atol=1e-12)


def test_gradients_pass_torchs_own_check() -> None:
    """Finite differences agree."""
    batch, _ = batch_of([4, 2])
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(len(batch.word_ids), 3, generator=generator, dtype=torch.float64, requires_grad=True)
    filters = torch.randn(sum(WIDTHS) * 2, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda r, f: max_over_time(None, r, f, batch, WIDTHS), (rows, filters))


def test_a_batch_of_empty_texts_has_maxima_of_zero() -> None:
    """On either path, with gradients of zero."""
    batch, _ = batch_of([0, 0])
    filters = torch.ones(sum(WIDTHS) * MAPS, 4, requires_grad=True)
    for path in (on_cpu, as_on_gpu):
        found = path(None, torch.empty(0, 4), filters, batch)
        assert not found.any()
        assert found.shape == (2, len(WIDTHS) * MAPS)


@pytest.mark.parametrize("path", [on_cpu, as_on_gpu])
def test_a_share_without_filters_has_no_maxima(path: Callable[..., Tensor]) -> None:
    """There may be more workers than filters of a width."""
    batch, _ = batch_of([3, 0])
    filters = torch.ones(0, 4, requires_grad=True)
    rows = torch.ones(len(batch.word_ids), 4, requires_grad=True)
    found = path(None, rows, filters, batch)
    assert found.shape == (2, 0)
    found.sum().backward()
    assert rows.grad is not None
    assert not rows.grad.any()


@pytest.mark.parametrize("path", [on_cpu, as_on_gpu])
def test_what_is_no_number_is_not_passed_over(path: Callable[..., Tensor]) -> None:
    """As in torch's maximum, wherever it stands; a run that diverges is told by it."""
    batch, _ = batch_of([6])
    rows = torch.randn(len(batch.word_ids), 4)
    rows[batch.token_indices[2].item()] = torch.nan
    assert path(None, rows, torch.randn(sum(WIDTHS) * MAPS, 4), batch).isnan().all()


@pytest.mark.parametrize("way", ["cpu", "gpu"])
def test_bfloat16_rounds_the_product_and_no_gradient(way: str) -> None:
    """It is given as float32; gradients are those of the product of the unrounded numbers."""
    generator = torch.Generator().manual_seed(0)
    rows, filters = torch.randn(5, 300, generator=generator), torch.randn(8, 300, generator=generator)
    found = project(rows, filters, bfloat16=True)
    assert found.dtype == torch.float32
    exact = rows.bfloat16().double() @ filters.bfloat16().double().T
    torch.testing.assert_close(found.double(), exact, rtol=2**-8, atol=1e-6)
    assert not torch.equal(found, project(rows, filters, bfloat16=False))

    batch, _ = batch_of([7, 5])
    gradients = []
    for bfloat16 in (True, False):
        leaves = torch.ones(len(batch.word_ids), 4, requires_grad=True), torch.full((33, 4), 1 / 3, requires_grad=True)
        max_over = max_over_time if way == "cpu" else _dense_by_name
        (max_over(None, *leaves, batch, [11], bfloat16=bfloat16).sum() / 3).backward()
        gradients.append([leaf.grad for leaf in leaves])
    for rounded, unrounded in zip(*gradients, strict=True):
        torch.testing.assert_close(rounded, unrounded)


def _dense_by_name(fixed: None, trained: Tensor, filters: Tensor, batch: Batch, widths: list[int], *, bfloat16: bool):
    return _dense(fixed, trained, filters, batch, widths, bfloat16)
