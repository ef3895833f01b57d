"""Steps with static shapes: Triton's kernels learn what torch's operations learn."""

import numpy as np
import pytest
import torch

from jobs.model.dropout import MaskNumber, draw_mask
from tests.gpu_path import import_triton

device = import_triton()
from jobs.model.gpu import static_steps, windows  # noqa: E402  # after the interpreter was chosen
from tests.support.chunks import make_chunk, make_tokens  # noqa: E402
from tests.support.steps import Variant, train  # noqa: E402

CPU = torch.device("cpu")

VARIANTS = {
    "non-static": Variant(),
    "static, many classes": Variant(
        "static", widths=(2,), maps=40, dropout=0.0, max_norm=None, num_labels=19, has_row_weights=True
    ),
    "multichannel, pulled": Variant(
        "multichannel", weight_decay=0.1, pull=0.1, trains_some_words=True, has_row_weights=True
    ),
    "frozen vectors, several labels": Variant(
        is_multi_label=True, num_labels=3, trains_vectors=False, options={"label_weights": torch.tensor([1.0, 3, 0.5])}
    ),
}  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
def test_kernels_and_torch_learn_the_same(variant: str) -> None:
    """Losses, parameters and moments of two steps; a word has several slots, and the second batch is smaller."""
    losses, tensors, steps = train(VARIANTS[variant], device, use_triton=True)
    assert any(shape.extras for shape, _ in steps.graphs)
    expected_losses, expected, _ = train(VARIANTS[variant], device, use_triton=False)
    assert losses == pytest.approx(expected_losses, rel=1e-5)
    for name, value in expected.items():
        torch.testing.assert_close(tensors[name], value, rtol=1e-3, atol=2e-5, msg=name)


def test_padding_changes_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps that are padded to larger sizes have the same results, but for the order of sums, and the same masks."""
    expected_losses, expected, _ = train(Variant(), CPU, use_triton=False)
    monkeypatch.setattr(static_steps, "round_size", lambda value: 3 * value + 16)
    losses, tensors, _ = train(Variant(), CPU, use_triton=False)
    assert losses == pytest.approx(expected_losses, rel=1e-6)
    for name, value in expected.items():
        torch.testing.assert_close(tensors[name], value, rtol=1e-5, atol=1e-7, msg=name)


def test_kernels_draw_the_dropout_masks_of_the_cpu() -> None:
    """The masks are the same bits, in every step."""
    chunk, _ = make_chunk(make_tokens([1] * 5, 3), 3, [np.arange(4), np.array([4])], device)
    layout = windows.make_layout((1,), 21, device)
    for step, rows in enumerate((4, 1)):
        chunk.counter.fill_(step)
        products, biases = torch.ones(3, 21, device=device), torch.zeros(21, device=device)
        hidden, _ = windows.compute_hidden(products, chunk, 4, layout, 1, biases, 0.3)
        expected = draw_mask(np.arange(4), 21, 0.3, MaskNumber(3, 2, step), CPU)
        assert torch.equal(hidden[:rows].cpu(), expected[:rows])
        assert not hidden[rows:].any(), "padding"


@pytest.mark.gpu
@pytest.mark.parametrize("use_triton", [True, False])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_captured_steps_learn_what_eager_steps_learn(use_triton: bool, precision: str) -> None:
    """With Triton's kernels, which add in a fixed order, a second run has the same bits."""
    variant = Variant(options={"precision": precision})
    losses, tensors, steps = train(variant, device, 6, use_triton=use_triton, use_graphs=True)
    assert any(graph is not None for graph in steps.graphs.values())
    expected_losses, expected, _ = train(variant, device, 6, use_triton=use_triton, use_graphs=False)
    assert losses == pytest.approx(expected_losses, rel=1e-6)
    for name, value in expected.items():
        torch.testing.assert_close(tensors[name], value, rtol=1e-3, atol=1e-5, msg=name)
    if use_triton:
        _, repeated, _ = train(variant, device, 6, use_triton=True, use_graphs=True)
        assert all(torch.equal(repeated[name], value) for name, value in tensors.items())


@pytest.mark.gpu
@pytest.mark.parametrize("share", [0.1, 0.5])
def test_a_gpu_draws_the_masks_of_a_cpu(share: float) -> None:
    rows, number = np.array([0, 17, 2**31 + 1]), MaskNumber(2**32 - 1, 3, 2**31 + 5)
    mask = draw_mask(rows, 30, share, number, torch.device("cuda"))
    assert torch.equal(mask.cpu(), draw_mask(rows, 30, share, number, CPU))
