"""Checkpoints with random weights."""

import numpy as np
import torch

from jobs.config.experiment import Experiment
from jobs.model.checkpoint import Checkpoint
from jobs.model.linear.classifier import LinearClassifier
from jobs.model.linear.tensors import BIAS, PAIRS, SCALE, SQUARES, WEIGHT
from jobs.model.network import Network

WORDS = [f"word{number}" for number in range(200)]


def checkpoint_of(embedding: str, **settings: object) -> Checkpoint:
    """Return a checkpoint with random weights, three classes and the vocabulary WORDS; settings by dotted path.

    It has no linear classifier, unless the settings name one.
    """
    generator = np.random.default_rng(0)
    network_settings = {"model.filter_widths": [2, 1, 4], "model.feature_maps": 9, "model.linear": "none"}
    experiment = Experiment().replace({"model.embedding": embedding} | network_settings | settings)
    vectors = generator.normal(size=(len(WORDS) + 2, 6)).astype(np.float32)
    vectors[0] = 0
    network = Network(experiment.model, vectors, 3)
    if experiment.model.linear != "none":
        network.linear = LinearClassifier(make_linear_tensors(generator, 3))
    if embedding == "multichannel":
        with torch.no_grad():
            network.vectors[1:] += 1
    weights = {name: value.numpy() for name, value in network.weights().items()}
    return Checkpoint(experiment, ["a", "b", "c"], [*WORDS], weights, {"epoch": 1})


def make_linear_tensors(generator: np.random.Generator, classes: int) -> dict[str, torch.Tensor]:
    """Return random tensors of a linear classifier, with rows for the first 150 of WORDS and half of their pairs."""
    num_words = 152
    ids = generator.permutation(np.arange(2, num_words))
    pairs = np.array([(first, second) for first in ids for second in ids if generator.random() < 0.5], np.int32)
    pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
    weight = generator.normal(size=(num_words + len(pairs), classes)).astype(np.float32)
    squares = generator.uniform(1, 9, len(weight)).astype(np.float32)
    weight[:2], squares[:2] = 0, 0
    bias = generator.normal(size=classes).astype(np.float32)
    scale = np.linspace(1.5, 0.5, classes, dtype=np.float32)
    values = {PAIRS: pairs, WEIGHT: weight, SQUARES: squares, BIAS: bias, SCALE: scale}
    return {name: torch.from_numpy(value) for name, value in values.items()}
