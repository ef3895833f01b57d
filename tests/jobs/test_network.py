"""Kim's four variants, and scores that depend on nothing but the text."""

import numpy as np
import pytest
import torch

from jobs.batches import distinct
from jobs.experiment import Model
from jobs.network import Network

VECTORS = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)
VECTORS[:2] = 0
KINDS = ["rand", "static", "non-static", "multichannel"]


def network(embedding: str = "non-static", **settings: object) -> Network:
    model = Model(embedding=embedding, filter_widths=[2, 3], feature_maps=5, **settings)
    return Network(model, VECTORS, num_classes=3).eval()


def scores(net: Network, texts: list[list[int]]) -> torch.Tensor:
    longest = max(1, *(len(text) for text in texts))
    padded = np.array([text + [0] * (longest - len(text)) for text in texts])
    words, places = distinct(padded)
    lengths = torch.tensor([len(text) for text in texts])
    return net(torch.from_numpy(words), torch.from_numpy(places), lengths)


@pytest.mark.parametrize("embedding", KINDS)
def test_scores_do_not_depend_on_the_texts_beside(embedding: str) -> None:
    """The empty text, one word, two, and 400, alone and together."""
    choose = np.random.default_rng(1)
    texts = [[], [7], [3, 3], choose.integers(1, 50, 400).tolist(), choose.integers(1, 50, 17).tolist()]
    net = network(embedding)
    with torch.no_grad():
        together = scores(net, texts)
        alone = torch.cat([scores(net, [text]) for text in texts])
    assert torch.isfinite(together).all()
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("embedding", "buffer", "parameter"),
    [("rand", False, True), ("static", True, False), ("non-static", False, True), ("multichannel", True, True)],
)
def test_static_vectors_are_a_buffer_and_trained_ones_a_parameter(
    embedding: str, buffer: bool, parameter: bool
) -> None:
    """Which is the whole difference between the four; the filters see both channels of multichannel."""
    net = network(embedding)
    assert ("fixed_vectors" in dict(net.named_buffers())) == buffer
    assert ("vectors" in dict(net.named_parameters())) == parameter
    assert net.filters[0].shape[1] == 6 * (buffer + parameter)


@pytest.mark.parametrize("embedding", KINDS)
def test_a_step_changes_only_what_may_be_trained(embedding: str) -> None:
    """The vectors given are never written to, and only touched rows have gradients."""
    before = VECTORS.copy()
    net = network(embedding)
    scores(net, [[5, 6, 7], [6]]).sum().backward()
    if net.vectors is not None:
        assert net.vectors.grad.is_sparse
        assert set(net.vectors.grad._indices()[0].tolist()) == {0, 5, 6, 7}
        assert not net.vectors.grad.to_dense()[0].any()
        with torch.no_grad():
            net.vectors += 1
    assert (before == VECTORS).all()
    if net.fixed_vectors is not None:
        assert (net.fixed_vectors.numpy() == before).all()


def test_vectors_mapped_read_only_serve_as_a_buffer() -> None:
    """As they come out of the object store, without a copy."""
    mapped = VECTORS.copy()
    mapped.flags.writeable = False
    net = Network(Model(embedding="static"), mapped, num_classes=2)
    assert net.fixed_vectors.data_ptr() == mapped.ctypes.data


def test_the_norm_of_a_class_is_limited() -> None:
    """Longer rows are scaled, shorter ones stay."""
    net = network(max_norm=2.0)
    with torch.no_grad():
        net.output.weight[0] *= 100
        net.output.weight[1] *= 0.01
    kept = net.output.weight[1].clone()
    net.limit_norm()
    assert net.output.weight[0].norm().item() == pytest.approx(2.0, rel=1e-4)
    assert torch.equal(net.output.weight[1], kept)
    free = network(max_norm=None)
    with torch.no_grad():
        free.output.weight *= 100
    kept = free.output.weight.clone()
    free.limit_norm()
    assert torch.equal(free.output.weight, kept)


def test_the_seed_decides_the_filters() -> None:
    """Workers start alike without a message between them."""
    model = Model(filter_widths=[2])
    first, same, other = (Network(model, VECTORS, 2, seed) for seed in (1, 1, 2))
    assert torch.equal(first.filters[0], same.filters[0])
    assert not torch.equal(first.filters[0], other.filters[0])


def test_dropped_features_do_not_count() -> None:
    """A mask of zeros leaves the bias of the last layer; a mask of ones changes nothing."""
    net = network(dropout=0.5)
    words, places = distinct(np.array([[4, 5]]))
    text = (torch.from_numpy(words), torch.from_numpy(places), torch.tensor([2]))
    torch.testing.assert_close(net(*text, torch.zeros(1, 10))[0], net.output.bias)
    assert torch.equal(net(*text, torch.ones(1, 10)), net(*text))
    assert not torch.equal(net(*text, torch.ones(1, 10)), net(*text, net.dropout_mask(1)))
