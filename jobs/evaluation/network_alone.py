"""The network of a checkpoint without its linear classifier, for a comparison with the sum of both."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from jobs.inference.file_prediction import build_classifier, select_words
from jobs.model.checkpoint import Checkpoint
from jobs.model.linear.tensors import PREFIX, WEIGHT

NETWORK_ALONE = "network alone"


def predict_network_alone(checkpoint: Checkpoint, texts: Sequence[str]) -> np.ndarray | None:
    """Return the probabilities of the network alone, `(texts, classes)`; None if there is no linear classifier.

    The temperature is that of the checkpoint, which was fitted to the sum.
    """
    if WEIGHT not in checkpoint.weights:
        return None
    weights = {name: value for name, value in checkpoint.weights.items() if not name.startswith(PREFIX)}
    experiment = checkpoint.experiment.replace({"model.linear": "none"})
    network = select_words(replace(checkpoint, experiment=experiment, weights=weights), texts)
    return build_classifier(network, len(texts)).predict_proba(texts)
