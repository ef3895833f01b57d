"""Weight of the linear classifier: fitted to the validation rows, or that of the settings."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from jobs.config.experiment import Experiment
from jobs.evaluation.metrics import softmax
from jobs.evaluation.multi_label.metrics import sigmoid
from jobs.training.linear.weight import fit_linear_weights
from tests.support.loops import make_loop


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("weight", [0.0, 0.7, 3.0])
def test_the_weight_that_the_labels_were_drawn_with_is_found(weight: float, multi_label: bool) -> None:
    generator = np.random.default_rng(0)
    network, linear = generator.normal(size=(2, 6000, 4))
    logits = 1.2 * (network + weight * linear)
    if multi_label:
        labels = (generator.random(logits.shape) < sigmoid(logits)).astype(np.uint8)
    else:
        labels = (generator.random((len(logits), 1)) < softmax(logits).cumsum(axis=1)).argmax(axis=1)
    assert fit_linear_weights(network, linear, labels, np.zeros(4)) == pytest.approx([weight] * 4, abs=0.08)


@pytest.mark.parametrize("multi_label", [False, True])
def test_rarer_classes_have_higher_weights(multi_label: bool) -> None:
    """As far as the validation rows show it: here the weight grows by 0.5 times the rarity."""
    generator = np.random.default_rng(0)
    network, linear = generator.normal(size=(2, 20_000, 4))
    rarity = np.array([0, 1.2, 3.2, 6.2])
    weights = 0.4 + 0.5 * rarity
    logits = network + weights * linear
    if multi_label:
        labels = (generator.random(logits.shape) < sigmoid(logits)).astype(np.uint8)
    else:
        labels = (generator.random((len(logits), 1)) < softmax(logits).cumsum(axis=1)).argmax(axis=1)
    assert fit_linear_weights(network, linear, labels, rarity) == pytest.approx(weights, rel=0.1)


def test_few_rows_prefer_the_network() -> None:
    """Scores that are as good as those of the network get a small weight, until rows show that they add something."""
    generator = np.random.default_rng(0)
    scores = generator.normal(size=(2000, 3))
    labels = (generator.random((2000, 1)) < softmax(scores).cumsum(axis=1)).argmax(axis=1)
    few, many = (
        fit_linear_weights(part + generator.normal(size=part.shape), part, labels[: len(part)], np.zeros(3))
        for part in (scores[:10], scores)
    )
    assert few.max() < 1 < many.min()


def test_extreme_scores_have_a_finite_weight() -> None:
    """Scores of only zeros, and a network that is always wrong."""
    labels = np.arange(50) % 2
    wrong = np.stack([labels, 1 - labels], axis=1) * 1e4
    for network, linear in ((wrong, -wrong), (wrong, 0 * wrong), (0 * wrong, wrong)):
        weights = fit_linear_weights(network, linear, labels, np.array([0, 4.5]))
        assert ((weights >= 0) & (weights <= 1000)).all()


def test_the_weight_of_the_settings_is_used(make_experiment: Callable[..., Experiment]) -> None:
    """Otherwise it is fitted after each epoch; the loss of the fitted one is at most as high."""
    losses = []
    for weight in (None, 0.25):
        loop = make_loop(make_experiment(model__linear="words-and-pairs", train__linear_weight=weight, train__epochs=2))
        epochs = [epoch for epoch, _ in loop.train_epochs()]
        assert loop.network.linear is not None
        assert (loop.network.linear.scale.tolist() == [0.25, 0.25]) == (weight is not None)
        losses.append(epochs[-1].loss)
    assert losses[0] < losses[1]


def test_the_network_is_trained_as_without_a_linear_classifier(make_experiment: Callable[..., Experiment]) -> None:
    """Its weights are equal bit for bit; validation measures the sum."""
    loops = [make_loop(make_experiment(model__linear=kind, train__epochs=2)) for kind in ("none", "words-and-pairs")]
    epochs = [[epoch for epoch, _ in loop.train_epochs()] for loop in loops]
    for name, value in loops[0].network.dense_parameters().items():
        assert torch.equal(value, loops[1].network.dense_parameters()[name])
    assert loops[0].network.vectors is not None
    assert loops[1].network.vectors is not None
    assert torch.equal(loops[0].network.vectors, loops[1].network.vectors)
    assert [epoch.train_loss for epoch in epochs[0]] == [epoch.train_loss for epoch in epochs[1]]
    assert epochs[0][0].loss > epochs[1][0].loss
