"""Network: Kim's four variants, and scores that depend on the text alone."""

import numpy as np
import pytest
import torch

from jobs.config.settings import ModelSettings
from jobs.datasets.tokenizer import Tokens
from jobs.model.batches import Batch, Collator
from jobs.model.network import Network

VECTORS = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)
VECTORS[:2] = 0
KINDS = ["rand", "static", "non-static", "multichannel"]


def network(embedding: str = "non-static", **settings: object) -> Network:
    model = ModelSettings(embedding=embedding, filter_widths=[2, 3], feature_maps=5, **settings)
    return Network(model, VECTORS, num_classes=3).eval()


def batch(texts: list[list[int]]) -> Batch:
    ids = np.array([word for text in texts for word in text], np.int32)
    offsets = np.cumsum([0, *(len(text) for text in texts)])
    return Collator(Tokens(ids, offsets), len(VECTORS)).collate(np.arange(len(texts)))


def scores(net: Network, texts: list[list[int]]) -> torch.Tensor:
    return net(batch(texts))


@pytest.mark.parametrize("embedding", KINDS)
def test_scores_do_not_depend_on_the_other_texts_of_a_batch(embedding: str) -> None:
    """Texts of 0, 1, 2, 17 and 400 words are scored alone and together."""
    generator = np.random.default_rng(1)
    texts = [[], [7], [3, 3], generator.integers(1, 50, 400).tolist(), generator.integers(1, 50, 17).tolist()]
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
def test_static_vectors_are_fixed_and_trained_ones_a_parameter(embedding: str, buffer: bool, parameter: bool) -> None:
    """This is the only difference between the four variants; multichannel filters read both channels."""
    net = network(embedding)
    assert ("fixed_vectors" in net.vectors_by_channel()) == buffer
    assert ("vectors" in net.vectors_by_channel()) == parameter
    assert ("vectors" in dict(net.named_parameters())) == parameter
    assert net.filters.shape[1] == 6 * (buffer + parameter)


@pytest.mark.parametrize("embedding", KINDS)
def test_gradients_are_those_of_the_batchs_words(embedding: str) -> None:
    """The initial vectors are never written to; the trained vectors are a copy."""
    original = VECTORS.copy()
    net = network(embedding)
    texts = batch([[5, 6, 7], [6]])
    vectors = net.lookup_trained_vectors(texts.word_ids)
    net.forward_features(texts, vectors).sum().backward()
    assert net.filters.grad is not None
    if net.vectors is not None:
        assert sorted(texts.word_ids.tolist()) == [5, 6, 7]
        assert vectors.grad.any(dim=1).all()
        with torch.no_grad():
            net.vectors += 1
    else:
        assert vectors is None
    assert (original == VECTORS).all()
    assert (net.initial_vectors.numpy() == original).all()


@pytest.mark.parametrize("embedding", KINDS)
def test_words_that_training_never_saw_keep_their_initial_vectors(embedding: str) -> None:
    """A network that may train only the first words has the scores and vectors of one that may train all."""
    model = ModelSettings(embedding=embedding, filter_widths=[2, 3], feature_maps=5)
    part, whole = (Network(model, VECTORS, 3, num_trainable_words=number).eval() for number in (10, None))
    for net in (part, whole):
        if net.vectors is not None:
            with torch.no_grad():
                net.vectors[5] += 1
    texts = [[5, 9, 10, 49], [11], []]
    assert torch.equal(scores(part, texts), scores(whole, texts))
    for name, vectors in whole.vectors_by_channel().items():
        assert torch.equal(part.vectors_by_channel()[name], vectors)


def test_a_checkpoint_has_a_tensor_for_each_width() -> None:
    """Loading a checkpoint's tensors restores the parameters."""
    model = ModelSettings(embedding="multichannel", filter_widths=[2, 3], feature_maps=5)
    saved, loaded = (Network(model, VECTORS, 3, seed) for seed in (4, 5))
    weights = saved.weights()
    assert weights["filters.0"].shape == (2 * 5, 12)
    assert weights["filters.1"].shape == (3 * 5, 12)
    assert weights["biases.1"].shape == (5,)
    loaded.load_weights(weights)
    for name, parameter in saved.named_parameters():
        assert torch.equal(dict(loaded.named_parameters())[name], parameter), name


def test_vectors_mapped_read_only_are_used_without_a_copy() -> None:
    """Vectors from the object store are mapped read-only."""
    mapped = VECTORS.copy()
    mapped.flags.writeable = False
    net = Network(ModelSettings(embedding="static"), mapped, num_classes=2)
    assert net.initial_vectors.data_ptr() == mapped.ctypes.data


def test_the_initial_filters_depend_on_the_seed() -> None:
    """Workers have equal filters without communication."""
    model = ModelSettings(filter_widths=[2])
    first, same, other = (Network(model, VECTORS, 2, seed) for seed in (1, 1, 2))
    assert torch.equal(first.filters, same.filters)
    assert not torch.equal(first.filters, other.filters)
