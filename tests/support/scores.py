"""Reference of the functions from logits to scores."""

from collections.abc import Sequence
from math import exp


def apply_function(function: str, logits: Sequence[float]) -> list[float]:
    """Return a text's scores: its logits after softmax, sigmoid or none."""
    if function == "softmax":
        highest = max(logits)
        powers = [exp(logit - highest) for logit in logits]
        total = sum(powers)
        return [power / total for power in powers]
    if function == "sigmoid":
        return [1 / (1 + exp(-logit)) if logit > 0 else exp(logit) / (1 + exp(logit)) for logit in logits]
    return list(logits)
