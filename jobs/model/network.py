"""The convolutional network of Kim (2014), over the distinct words of a batch.

    words (words,) -> vectors (words, columns) -> one matrix product with all filters
    -> max over time (rows, filters) -> ReLU -> dropout -> scores (rows, classes)

The initial vectors are only a starting point: `static` keeps them, `non-static` trains a copy of them,
`multichannel` has both, side by side, each with filter weights of its own. Of the vocabulary only the
words that training sees have a copy; those behind them keep their initial vectors.
"""

import math
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jobs.model.batches import Batch
from jobs.model.convolution import max_over_time
from jobs.model.tensor_parallel import FilterShard

if TYPE_CHECKING:
    from jobs.config.settings import ModelSettings


class Network(nn.Module):
    """Scores of texts for each class, or one worker's share of it.

    Args:
        model: the settings.
        vectors: `(vocabulary, dimensions)` initial word vectors; row 0 is padding, all zero. Not written to.
        num_classes: classes.
        seed: of the initial filters.
        num_trained: words from the start of the vocabulary whose vectors may be trained; None for all.
        rank, size: which worker's share of the filters, of how many; see `jobs.model.tensor_parallel`.
    """

    def __init__(
        self,
        settings: "ModelSettings",
        vectors: np.ndarray,
        num_classes: int,
        seed: int = 0,
        *,
        num_trainable_words: int | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        super().__init__()
        self.settings = settings
        self.shard = FilterShard(rank, world_size, settings.filter_widths, settings.feature_maps)
        initial = from_read_only_numpy(vectors)
        self.register_buffer("initial", initial, persistent=False)
        trained = settings.embedding != "static"
        self.register_parameter("vectors", nn.Parameter(initial[:num_trainable_words].clone()) if trained else None)

        columns = (self.has_fixed + trained) * initial.shape[1]
        generator = torch.Generator().manual_seed(seed)
        filters, biases = [], []
        for width in settings.filter_widths:
            bound = 1 / math.sqrt(width * columns)
            filters.append(_uniform((width * settings.feature_maps, columns), bound, generator))
            biases.append(_uniform((settings.feature_maps,), bound, generator))
        features = len(settings.filter_widths) * settings.feature_maps
        bound = 1 / math.sqrt(features)
        output = _uniform((num_classes, features), bound, generator)
        output_bias = _uniform((num_classes,), bound, generator)
        share, kind = self.shard, initial.dtype
        self.filters = nn.Parameter(share.shard_filters(filters).to(kind))  # (sum(widths) * maps, columns)
        self.biases = nn.Parameter(share.shard_features(torch.cat(biases)[None])[0].to(kind))  # (features,)
        self.output = nn.Parameter(share.shard_features(output).to(kind))  # (classes, features)
        self.output_bias = nn.Parameter(output_bias.to(kind))  # (classes,)

    @property
    def has_fixed(self) -> bool:
        """Tell whether the initial vectors are a channel that stays as it is."""
        return self.settings.embedding in ("static", "multichannel")

    def forward(self, batch: Batch) -> Tensor:
        """Return scores (logits) of a batch's texts, `(rows, classes)`; of a share, what it adds to the scores."""
        scores = self.forward_features(batch) @ self.output.T
        return scores + self.output_bias if self.shard.rank == 0 else scores

    def forward_features(
        self,
        batch: Batch,
        trained: Tensor | None = None,
        *,
        bfloat16: bool = False,
        on_trained_gradient: Callable[[Tensor], None] | None = None,
    ) -> Tensor:
        """Return each filter's maximum, as far as it is above zero, `(rows, features)`.

        Args:
            trained: the batch's `trained_rows`, for their gradient; by default they are looked up.
            bfloat16, ready: see `max_over_time`.
        """
        fixed = self.initial.index_select(0, batch.word_ids) if self.has_fixed else None
        if trained is None:
            trained = self.lookup_trained_vectors(batch.word_ids)
        best = max_over_time(
            fixed,
            trained,
            self.filters,
            batch,
            self.settings.filter_widths,
            bfloat16=bfloat16,
            on_trained_gradient=on_trained_gradient,
        )
        return F.relu(best + self.biases)

    def lookup_trained_vectors(self, word_ids: Tensor) -> Tensor | None:
        """Return the trained vectors of words, `(words, dimensions)`, as a leaf: gradients stop there."""
        if self.vectors is None:
            return None
        with torch.no_grad():
            if self.training or len(self.vectors) == len(self.initial):
                rows = self.vectors.index_select(0, word_ids)
            elif not len(self.vectors):
                rows = self.initial.index_select(0, word_ids)
            else:  # words that training never saw
                last = len(self.vectors) - 1
                inside = (word_ids <= last)[:, None]
                rows = torch.where(inside, self.vectors[word_ids.clamp(max=last)], self.initial[word_ids])
        return rows.requires_grad_(self.vectors.requires_grad and torch.is_grad_enabled())

    def dense_parameters(self) -> dict[str, nn.Parameter]:
        """Return the parameters that every step changes as a whole, by name: all but the word vectors."""
        names = ("filters", "biases", "output", "output_bias")
        return {name: getattr(self, name) for name in names}

    def to_checkpoint_tensors(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return tensors shaped as the dense parameters as a checkpoint names them, whole.

        Elements that belong to other shares are zero, so that the sum over the shares is the whole.
        """
        wholes = self.shard.zero_pad_filters(tensors["filters"])
        biases = self.shard.zero_pad_features(tensors["biases"][None])[0].chunk(len(wholes))
        found = {f"filters.{number}": whole for number, whole in enumerate(wholes)}
        found |= {f"biases.{number}": whole.contiguous() for number, whole in enumerate(biases)}
        found["output.weight"] = self.shard.zero_pad_features(tensors["output"])
        first = self.shard.rank == 0  # every worker has the same
        found["output.bias"] = tensors["output_bias"].clone() if first else torch.zeros_like(tensors["output_bias"])
        return found

    def from_checkpoint_tensors(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return this share of tensors as a checkpoint names them, named as the dense parameters."""
        widths = range(len(self.settings.filter_widths))
        biases = torch.cat([tensors[f"biases.{number}"] for number in widths])
        return {
            "filters": self.shard.shard_filters([tensors[f"filters.{number}"] for number in widths]),
            "biases": self.shard.shard_features(biases[None])[0],
            "output": self.shard.shard_features(tensors["output.weight"]),
            "output_bias": tensors["output.bias"],
        }

    @torch.no_grad()
    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Take over a checkpoint's weights, as far as they are trained."""
        for name, value in self.from_checkpoint_tensors(weights).items():
            getattr(self, name).copy_(value)
        if self.vectors is not None:
            self.vectors.copy_(weights["vectors"][: len(self.vectors)])

    @torch.no_grad()
    def vectors_by_channel(self) -> dict[str, Tensor]:
        """Return the whole vocabulary's vectors as a checkpoint names them, on the CPU."""
        found = {}
        if self.has_fixed:
            found["fixed_vectors"] = self.initial.cpu()
        if self.vectors is not None:
            found["vectors"] = torch.cat([self.vectors.detach(), self.initial[len(self.vectors) :]]).cpu()
        return found

    def weights(self) -> dict[str, Tensor]:
        """Return all tensors as a checkpoint names them; filters and output are zero where other shares are."""
        dense = {name: value.detach() for name, value in self.dense_parameters().items()}
        return self.vectors_by_channel() | self.to_checkpoint_tensors(dense)


def _uniform(shape: tuple[int, ...], bound: float, generator: torch.Generator) -> Tensor:
    return (torch.rand(shape, generator=generator) * 2 - 1) * bound


def from_read_only_numpy(vectors: np.ndarray) -> Tensor:
    """Return vectors as a tensor that shares their memory and is only read."""
    with warnings.catch_warnings():
        # They are mapped read-only from the object store; nothing here writes to them.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(vectors)
