"""Checkpoints with random weights."""

import numpy as np
import torch

from jobs.config.experiment import Experiment
from jobs.model.checkpoint import Checkpoint
from jobs.model.network import Network

WORDS = [f"word{number}" for number in range(200)]


def checkpoint_of(embedding: str, **settings: object) -> Checkpoint:
    """Return a checkpoint with random weights, three classes and the vocabulary WORDS; settings by dotted path."""
    generator = np.random.default_rng(0)
    experiment = Experiment().replace(
        {"model.embedding": embedding, "model.filter_widths": [2, 1, 4], "model.feature_maps": 9} | settings
    )
    vectors = generator.normal(size=(len(WORDS) + 2, 6)).astype(np.float32)
    vectors[0] = 0
    network = Network(experiment.model, vectors, 3)
    if embedding == "multichannel":
        with torch.no_grad():
            network.vectors[1:] += 1
    weights = {name: value.numpy() for name, value in network.weights().items()}
    return Checkpoint(experiment, ["a", "b", "c"], [*WORDS], weights, {"epoch": 1})
