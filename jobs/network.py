"""The convolutional network of Kim (2014), over the distinct words of a batch.

    words (U,) -> vectors (U, dimensions) -> one matrix product with all filters
    -> max over time (batch, filters) -> ReLU -> dropout -> scores (batch, classes)

Dropout comes in from outside, so that workers can share out the mask of one global batch.

The initial vectors are only a starting point: `static` keeps them as a buffer, `non-static` makes
them a parameter, `multichannel` has both, side by side, each with filter weights of its own.
"""

import math
import warnings

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jobs.convolution import max_over_time
from jobs.experiment import Model


class Network(nn.Module):
    """Scores of texts for each class.

    Args:
        model: the settings.
        vectors: `(vocabulary, dimensions)` float32 initial word vectors; row 0 is padding, all zero.
        num_classes: classes.
        seed: of the initial filters.
    """

    def __init__(self, model: Model, vectors: np.ndarray, num_classes: int, seed: int = 0) -> None:
        super().__init__()
        self.model = model
        initial = as_tensor(vectors)
        fixed = model.embedding in ("static", "multichannel")
        trained = model.embedding != "static"
        self.register_buffer("fixed_vectors", initial if fixed else None)
        self.register_parameter("vectors", nn.Parameter(initial.clone()) if trained else None)

        channels = fixed + trained
        generator = torch.Generator().manual_seed(seed)
        self.filters = nn.ParameterList()  # of (width * maps, channels * dimensions)
        self.biases = nn.ParameterList()  # of (maps,)
        for width in model.filter_widths:
            bound = 1 / math.sqrt(width * channels * initial.shape[1])
            shape = (width * model.feature_maps, channels * initial.shape[1])
            self.filters.append(_uniform(shape, bound, generator))
            self.biases.append(_uniform((model.feature_maps,), bound, generator))
        features = len(model.filter_widths) * model.feature_maps
        bound = 1 / math.sqrt(features)
        self.output = nn.Linear(features, num_classes)
        self.output.weight = _uniform((num_classes, features), bound, generator)
        self.output.bias = _uniform((num_classes,), bound, generator)

    def forward(self, words: Tensor, tokens: Tensor, lengths: Tensor, kept: Tensor | None = None) -> Tensor:
        """Return scores (logits) `(batch, classes)`.

        Args:
            words: `(U,)` int64 distinct words of the batch; the first is padding, 0.
            tokens: `(batch, length)` int64 places in `words`, padded at the end with 0.
            lengths: `(batch,)` int64 tokens of each text.
            kept: `(batch, filters)` of `dropout_mask`, while training.
        """
        rows = self.lookup(words)  # (U, channels * dimensions)
        features = []
        for width, weight, bias in zip(self.model.filter_widths, self.filters, self.biases, strict=True):
            best = max_over_time(rows @ weight.T, tokens, lengths, width)  # (batch, maps)
            features.append(F.relu(best + bias))
        hidden = torch.cat(features, dim=1)  # (batch, filters)
        return self.output(hidden if kept is None else hidden * kept)

    def dropout_mask(self, rows: int) -> Tensor:
        """Return what features are multiplied by in a training step, `(rows, filters)`: 0 or 1 / (1 - dropout)."""
        ones = self.output.weight.new_ones(rows, self.output.in_features)
        return F.dropout(ones, self.model.dropout)

    def lookup(self, words: Tensor) -> Tensor:
        """Return the vectors of words, `(U, channels * dimensions)`; the trained ones get sparse gradients."""
        channels = []
        if self.fixed_vectors is not None:
            channels.append(self.fixed_vectors[words])
        if self.vectors is not None:
            channels.append(F.embedding(words, self.vectors, sparse=True))
        return channels[0] if len(channels) == 1 else torch.cat(channels, dim=1)

    def dense_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that every step changes as a whole: all but the word vectors."""
        return [parameter for parameter in self.parameters() if parameter is not self.vectors]

    @torch.no_grad()
    def limit_norm(self) -> None:
        """Scale each class's output row down to `max_norm` where it is longer (Hinton et al. 2012)."""
        if self.model.max_norm is not None:
            self.output.weight.copy_(torch.renorm(self.output.weight, 2, 0, self.model.max_norm))


def _uniform(shape: tuple[int, ...], bound: float, generator: torch.Generator) -> nn.Parameter:
    return nn.Parameter((torch.rand(shape, generator=generator) * 2 - 1) * bound)


def as_tensor(vectors: np.ndarray) -> Tensor:
    """Return vectors as a tensor that shares their memory and is only read."""
    with warnings.catch_warnings():
        # Static vectors are mapped read-only from the object store; nothing here writes to them.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(vectors)
