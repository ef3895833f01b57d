"""The convolutional network of Kim (2014), computed over the distinct words of a batch.

    words (words,) -> vectors (words, columns) -> one matrix product with all filters
    -> max over time (texts, filters) -> ReLU -> dropout -> scores (texts, classes)
       + scores of a linear classifier over words and pairs of words, if the settings have one

The initial vectors are a starting point: `static` keeps them, `non-static` trains a copy, and `multichannel` has both
as two channels, each with filter weights of its own. Of the vocabulary, only the words of the training texts have
a trained copy; the words after them keep their initial vectors.
"""

import math
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jobs.model.batches import Batch
from jobs.model.convolution import max_over_time
from jobs.model.linear.classifier import LinearClassifier
from jobs.model.linear.tensors import WEIGHT

if TYPE_CHECKING:  # a GPU machine that only trains needs no pydantic
    from jobs.config.settings import ModelSettings


class Network(nn.Module):
    """Scores of texts for each class.

    Args:
        settings: the network's settings.
        vectors: `(vocabulary, dimensions)` float, the initial word vectors; row 0 is padding, all zero. They are not
            written to.
        num_classes: number of classes.
        seed: of the initial filters.
        num_trainable_words: words from the start of the vocabulary whose vectors may be trained; None for all.
    """

    initial_vectors: Tensor  # (vocabulary, dimensions)
    vectors: nn.Parameter | None  # (trainable words, dimensions); None if they are static
    linear: LinearClassifier | None  # of `model.linear`; it is trained on its own, and set then

    def __init__(
        self,
        settings: "ModelSettings",
        vectors: np.ndarray,
        num_classes: int,
        seed: int = 0,
        *,
        num_trainable_words: int | None = None,
    ) -> None:
        super().__init__()
        self.settings = settings
        self.linear = None
        initial = from_read_only_numpy(vectors)
        self.register_buffer("initial_vectors", initial, persistent=False)
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
        dtype = initial.dtype
        self.filters = nn.Parameter(torch.cat(filters).to(dtype))  # (sum(widths) * maps, columns)
        self.biases = nn.Parameter(torch.cat(biases).to(dtype))  # (features,)
        self.output = nn.Parameter(output.to(dtype))  # (classes, features)
        self.output_bias = nn.Parameter(output_bias.to(dtype))  # (classes,)

    @property
    def has_fixed(self) -> bool:
        """Return whether the initial vectors are a channel that training does not change."""
        return self.settings.embedding in ("static", "multichannel")

    def forward(self, batch: Batch) -> Tensor:
        """Return the logits of a batch's texts, `(texts, classes)`."""
        scores = self.forward_features(batch) @ self.output.T + self.output_bias
        return scores if self.linear is None else scores + self.linear.scale * self.linear(batch)

    def forward_features(self, batch: Batch, trained: Tensor | None = None, *, bfloat16: bool = False) -> Tensor:
        """Return each filter's maximum over time after ReLU, `(texts, features)`.

        Args:
            trained: the batch's `lookup_trained_vectors`, where the caller needs their gradient; by default they are
                looked up here.
            bfloat16: see `max_over_time`.
        """
        fixed = self.initial_vectors.index_select(0, batch.word_ids) if self.has_fixed else None
        if trained is None:
            trained = self.lookup_trained_vectors(batch.word_ids)
        maxima = max_over_time(fixed, trained, self.filters, batch, self.settings.filter_widths, bfloat16=bfloat16)
        return F.relu(maxima + self.biases)

    def lookup_trained_vectors(self, word_ids: Tensor) -> Tensor | None:
        """Return the trained vectors of words, `(words, dimensions)`, as a leaf of the graph; None if static."""
        if self.vectors is None:
            return None
        with torch.no_grad():
            if self.training or len(self.vectors) == len(self.initial_vectors):
                rows = self.vectors.index_select(0, word_ids)
            elif not len(self.vectors):
                rows = self.initial_vectors.index_select(0, word_ids)
            else:  # some of the words are not in the training texts
                last = len(self.vectors) - 1
                is_trained = (word_ids <= last)[:, None]
                rows = torch.where(is_trained, self.vectors[word_ids.clamp(max=last)], self.initial_vectors[word_ids])
        return rows.requires_grad_(self.vectors.requires_grad and torch.is_grad_enabled())

    def dense_parameters(self) -> dict[str, nn.Parameter]:
        """Return the parameters of which every step changes all elements, by name: all but the word vectors."""
        return {
            "filters": self.filters,
            "biases": self.biases,
            "output": self.output,
            "output_bias": self.output_bias,
        }

    def to_checkpoint_tensors(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return tensors, named and shaped as the dense parameters, with the names and shapes of a checkpoint."""
        widths = self.settings.filter_widths
        filters = torch.split(tensors["filters"], [width * self.settings.feature_maps for width in widths])
        named = {f"filters.{index}": value for index, value in enumerate(filters)}
        named |= {f"biases.{index}": value for index, value in enumerate(tensors["biases"].chunk(len(widths)))}
        return named | {"output.weight": tensors["output"], "output.bias": tensors["output_bias"]}

    def from_checkpoint_tensors(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return a checkpoint's tensors, named and shaped as the dense parameters."""
        indices = range(len(self.settings.filter_widths))
        return {
            "filters": torch.cat([tensors[f"filters.{index}"] for index in indices]),
            "biases": torch.cat([tensors[f"biases.{index}"] for index in indices]),
            "output": tensors["output.weight"],
            "output_bias": tensors["output.bias"],
        }

    @torch.no_grad()
    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Copy a checkpoint's weights into the parameters."""
        parameters = self.dense_parameters()
        for name, value in self.from_checkpoint_tensors(weights).items():
            parameters[name].copy_(value)
        if self.vectors is not None:
            self.vectors.copy_(weights["vectors"][: len(self.vectors)])
        if WEIGHT in weights:
            self.linear = LinearClassifier(weights).to(self.output.device)

    @torch.no_grad()
    def vectors_by_channel(self) -> dict[str, Tensor]:
        """Return the vectors of the complete vocabulary on the CPU, by their names in a checkpoint."""
        channels = {}
        if self.has_fixed:
            channels["fixed_vectors"] = self.initial_vectors.cpu()
        if self.vectors is not None:
            unseen = self.initial_vectors[len(self.vectors) :]
            channels["vectors"] = torch.cat([self.vectors.detach(), unseen]).cpu()
        return channels

    def weights(self) -> dict[str, Tensor]:
        """Return all tensors by their names in a checkpoint."""
        dense = {name: value.detach() for name, value in self.dense_parameters().items()}
        linear = {} if self.linear is None else self.linear.tensors()
        return self.vectors_by_channel() | self.to_checkpoint_tensors(dense) | linear


@torch.no_grad()
def limit_norm(network: Network) -> None:
    """Scale the output weights of a class down to `max_norm` if they are longer (Hinton et al. 2012)."""
    if (limit := network.settings.max_norm) is not None:
        output = network.output
        output.mul_((limit / output.norm(dim=1, keepdim=True)).clamp(max=1))


def compute_row_losses(scores: Tensor, labels: Tensor, label_weights: Tensor | None = None) -> Tensor:
    """Return the loss of each text with several labels, `(texts,)`: the sum of the labels' binary cross-entropies.

    Args:
        scores, labels: `(texts, labels)`; labels are 0 or 1.
        label_weights: weight of the texts with each label, relative to those without, `(labels,)`.
    """
    losses = F.binary_cross_entropy_with_logits(
        scores, labels.to(scores.dtype), pos_weight=label_weights, reduction="none"
    )
    return losses.sum(dim=1)


def compute_loss_sum(
    scores: Tensor, labels: Tensor, weights: Tensor | None, label_weights: Tensor | None = None
) -> Tensor:
    """Return the sum of the cross-entropies of texts, a scalar; weighted by the weights of the texts, if there are any.

    Divided by the sum of the weights of all texts it is torch's CrossEntropyLoss with weights of the classes.

    Args:
        scores: `(texts, classes)`. labels: `(texts,)` int64, or `(texts, labels)` of 0 and 1 with several per text.
        weights: of the texts, `(texts,)`; None if all are equal. label_weights: as of `compute_row_losses`.
    """
    if labels.dim() == 2:
        losses = compute_row_losses(scores, labels, label_weights)
    elif weights is None:
        return F.cross_entropy(scores, labels, reduction="sum")
    else:
        losses = F.cross_entropy(scores, labels, reduction="none")
    return losses.sum() if weights is None else losses @ weights


def _uniform(shape: tuple[int, ...], bound: float, generator: torch.Generator) -> Tensor:
    return (torch.rand(shape, generator=generator) * 2 - 1) * bound


def from_read_only_numpy(vectors: np.ndarray) -> Tensor:
    """Return vectors as a tensor that shares their memory and must not be written to."""
    with warnings.catch_warnings():
        # Vectors from the object store are mapped read-only; the network does not write to them.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(vectors)
