"""Networks, chunks and steps of `jobs.model.gpu` on random texts."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jobs.model.batches import Collator
from jobs.model.dense_adamw import DenseAdamW
from jobs.model.gpu.rates import LearningRates
from jobs.model.gpu.static_steps import StaticSteps
from jobs.model.gpu.step import StepOptions
from jobs.model.lazy_adam import LazyAdam
from jobs.model.network import Network
from tests.support.chunks import make_tokens

NUM_WORDS = 12
LENGTHS = [12, 0, 1, 5, 2, 190]


@dataclass
class Variant:
    """Settings of the network and of its optimizers that the tests of steps vary.

    pull, trains_some_words: of `LazyAdam`. options: of `StepOptions`.
    """

    embedding: str = "non-static"
    widths: tuple[int, ...] = (3, 1)
    maps: int = 5
    dimensions: int = 6
    dropout: float = 0.5
    max_norm: float | None = 0.4
    num_labels: int = 2
    is_multi_label: bool = False
    weight_decay: float = 0.0
    pull: float = 0.0
    trains_some_words: bool = False
    has_row_weights: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    trains_vectors: bool = True


def train(
    variant: Variant, device: torch.device, steps: int = 2, **choices: Any
) -> tuple[list[float], dict[str, Tensor], StaticSteps]:
    """Return the sums of losses after each step, parameters and moments, and the steps.

    The first step has four rows, and a word in it has several slots; the others have two rows.

    Args:
        choices: `use_triton` and `use_graphs`.
    """
    random = np.random.default_rng(1)
    settings: Any = SimpleNamespace(
        embedding=variant.embedding, filter_widths=list(variant.widths), feature_maps=variant.maps,
        dropout=variant.dropout, max_norm=variant.max_norm,
    )  # fmt: skip
    vectors = random.standard_normal((NUM_WORDS, variant.dimensions)).astype(np.float32)
    vectors[0] = 0
    network = Network(settings, vectors, variant.num_labels).to(device)
    network.train()
    if network.vectors is not None:
        network.vectors.requires_grad_(variant.trains_vectors)
    dense = network.dense_parameters()
    biases = [dense.pop(name) for name in ("biases", "output_bias")]
    groups = [{"params": dense.values(), "weight_decay": variant.weight_decay}, {"params": biases, "weight_decay": 0.0}]
    optimizer = DenseAdamW(groups, 0.01)
    words = None
    if network.vectors is not None:
        words = LazyAdam(network.vectors.detach(), 0.01, network.initial_vectors, variant.pull)
        if variant.trains_some_words:
            words.trained = (torch.arange(NUM_WORDS) % 2 == 0).to(device)
    tokens = make_tokens(LENGTHS, NUM_WORDS)
    labels = random.integers(0, 2 if variant.is_multi_label else variant.num_labels, (len(tokens), variant.num_labels))
    options = {
        name: value.to(device) if isinstance(value, Tensor) else value for name, value in variant.options.items()
    }
    static = StaticSteps(
        network, optimizer, words, Collator(tokens, NUM_WORDS, device),
        torch.from_numpy(labels if variant.is_multi_label else labels[:, 0]).to(device),
        torch.from_numpy(random.random(len(tokens), np.float32)) if variant.has_row_weights else None, 4, 7,
        StepOptions(float32_products="highest", **options), **choices,
    )  # fmt: skip
    rows = np.arange(len(tokens))
    batches = [rows[2:], *[rows[:2]] * (steps - 1)]
    rates = LearningRates(0.01 / np.arange(1, steps + 1), np.full(steps, 0.02), variant.weight_decay)
    losses = [static.loss_sum.item() for _ in static.iter_steps(batches, 0, 3, rates, 1.5)]
    tensors = {name: value.detach().cpu() for name, value in network.dense_parameters().items()}
    for name, parameter in network.dense_parameters().items():
        tensors |= {f"{name}.{moment}": value.cpu() for moment, value in optimizer.state[parameter].items()}
    if words is not None:
        tensors |= {"vectors": words.table.cpu(), **{name: value.cpu() for name, value in words.moments.items()}}
    return losses, tensors, static
