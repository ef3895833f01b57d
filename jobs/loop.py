"""The training loop, in one process or as one of several equal workers. No Ray here.

Each worker takes its share of the global batch, scales its loss by the global batch's size, and the
workers add their gradients up: of the filters and output weights whole, of the word vectors only the
rows that the global batch touched. All draw the same dropout mask for the global batch and take their
rows of it. So the workers' number changes nothing but rounding.
"""

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor

from cluster import UsageError
from jobs.batches import Batch, collate, order
from jobs.corpus import Corpus, Encoded
from jobs.experiment import Train
from jobs.metrics import accuracy, macro_f1
from jobs.network import Network, as_tensor
from jobs.predict import scores

# How much faster random word vectors learn than all else, unless train.vectors_learning_rate says how fast. On
# rows held out of the training part this gave 86.8 % on TREC where the same rate gave 85.0 (mean of 4 seeds), and
# 78.3 % on SST-2 where it gave 78.9 (2 seeds).
RAND_RATE = 3


class TrainingDiverged(UsageError):
    """The loss became NaN or infinite."""


@dataclass(frozen=True)
class Workers:
    """This process's place among the workers, and how they add up."""

    rank: int = 0
    size: int = 1

    def add_up(self, tensor: Tensor) -> Tensor:
        """Replace a tensor by its sum over the workers, and return it."""
        if self.size > 1:
            torch.distributed.all_reduce(tensor)
        return tensor


@dataclass(frozen=True)
class Epoch:
    """What one epoch gave; all but `train_loss` on the validation part. Speed counts training only."""

    epoch: int
    train_loss: float
    loss: float
    accuracy: float
    macro_f1: float
    examples_per_second: float
    seconds: float


@dataclass
class Progress:
    """How far a run has come: what a resumed run must know besides the weights and the optimiser's state."""

    history: list[Epoch] = field(default_factory=list)
    best: int = 0
    """The best epoch so far, from 1; 0 before the first."""

    def add(self, epoch: Epoch, metric: str) -> bool:
        """Record an epoch; tell whether it is the best so far."""
        improved = self.best == 0 or score(vars(epoch), metric) > score(vars(self.history[self.best - 1]), metric)
        self.history.append(epoch)
        if improved:
            self.best = epoch.epoch
        return improved

    def to_json(self) -> dict[str, Any]:
        """Return the progress as JSON values."""
        return {"history": [asdict(epoch) for epoch in self.history], "best": self.best}

    @classmethod
    def from_json(cls, tree: dict[str, Any]) -> "Progress":
        """Return the progress that `to_json` gave."""
        return cls([Epoch(**epoch) for epoch in tree["history"]], tree["best"])


def score(figures: Mapping[str, float], metric: str) -> tuple[float, float]:
    """Return what epochs are compared by, more is better: the metric, and among equals the loss."""
    return (-figures["loss"] if metric == "loss" else figures[metric], -figures["loss"])


class Loop:
    """Trains a network, an epoch at a time.

    Args:
        network: all workers' networks start alike.
        corpus, settings, seed: the same for all workers.
        workers: this process's place among them.
        device: where the network is.
    """

    def __init__(
        self,
        network: Network,
        corpus: Corpus,
        settings: Train,
        seed: int,
        workers: Workers = Workers(),
        device: torch.device | str = "cpu",
    ) -> None:
        self.network = network
        self.corpus = corpus
        self.settings = settings
        self.seed = seed
        self.workers = workers
        self.device = torch.device(device)
        self.progress = Progress()
        self.dense = torch.optim.AdamW(
            network.dense_parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        # The lazy variant: the moments of a word's vector move only in steps that touch the word.
        self.sparse = None
        usual = settings.learning_rate * (RAND_RATE if network.model.embedding == "rand" else 1)
        self.vectors_rate = settings.vectors_learning_rate or usual
        # Of each word, whether its vector is trained; None for all.
        self.trained_words: Tensor | None = None
        self.initial = torch.zeros(0)
        if network.vectors is not None:
            self.sparse = torch.optim.SparseAdam([network.vectors], lr=self.vectors_rate)
            if network.model.trained_words == "out-of-vocabulary" and network.model.embedding != "rand":
                self.trained_words = torch.from_numpy(~corpus.pretrained).to(self.device)
            if settings.vectors_pull:
                self.initial = as_tensor(corpus.vectors).to(self.device)

    def epochs(self) -> Iterator[tuple[Epoch, bool]]:
        """Train and yield each epoch with whether it is the best so far, until the last one or `patience` ends.

        Raises:
            TrainingDiverged: the loss is no longer a number.
        """
        while not self.finished():
            number = len(self.progress.history) + 1
            start = time.perf_counter()
            train_loss = self._train_epoch(number)
            trained = time.perf_counter()
            loss, labels = self._validate(self.corpus.validation)
            epoch = Epoch(
                epoch=number,
                train_loss=train_loss,
                loss=loss,
                accuracy=accuracy(self.corpus.validation.labels, labels),
                macro_f1=macro_f1(self.corpus.validation.labels, labels),
                examples_per_second=len(self.corpus.train) / (trained - start),
                seconds=time.perf_counter() - start,
            )
            yield epoch, self.progress.add(epoch, self.settings.metric)

    def finished(self) -> bool:
        """Tell whether the last epoch was reached, or `patience` epochs brought nothing."""
        done = len(self.progress.history)
        since = max(self.progress.best, min(self.settings.frozen_epochs, done))
        return done >= self.settings.epochs or done - since >= self.settings.patience

    def _train_epoch(self, number: int) -> float:
        """Return the mean loss over the training part."""
        self.network.train()
        if self.network.vectors is not None:
            self.network.vectors.requires_grad_(number > self.settings.frozen_epochs)
        torch.manual_seed(int(np.random.SeedSequence([self.seed, number]).generate_state(1)[0]))
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        part = self.corpus.train
        batches = order(part.tokens.lengths, self.settings.batch_size, self.seed, number)
        for place, rows in enumerate(batches):
            self._set_rates((number - 1 + place / len(batches)) / self.settings.epochs)
            batch = collate(part, rows, self.workers.rank, self.workers.size).to(self.device)
            total += self.step(batch)
        mean = self.workers.add_up(total).item() / len(part)
        if not math.isfinite(mean):
            raise TrainingDiverged(
                f"epoch {number}: the training loss is {mean}; lower train.learning_rate "
                f"({self.settings.learning_rate})"
            )
        return mean

    def _set_rates(self, done: float) -> None:
        """Set the learning rates for when a share of the run is done."""
        settings = self.settings
        rates = {"dense": settings.learning_rate, "sparse": self.vectors_rate}
        for name, optimizer in self._optimizers():
            for group in optimizer.param_groups:
                group["lr"] = rates[name] * (1 - done if settings.decay == "linear" else 1)

    def step(self, batch: Batch) -> Tensor:
        """Take one step and return this worker's share of the summed loss."""
        self.dense.zero_grad(set_to_none=True)
        if self.sparse is not None:
            self.sparse.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.device)
        kept = self.network.dropout_mask(batch.size)[self.workers.rank :: self.workers.size]
        if len(batch.labels):
            found = self.network(batch.words, batch.tokens, batch.lengths, kept)
            total = F.cross_entropy(found, batch.labels, reduction="sum")
            (total / batch.size).backward()
        self._exchange(batch)
        self.dense.step()
        if self.sparse is not None and self.network.vectors.requires_grad:
            self.sparse.step()
        self.network.limit_norm()
        return total.detach()

    def _exchange(self, batch: Batch) -> None:
        """Add up the workers' gradients, all in one message, and finish those of the word vectors."""
        dense = self.network.dense_parameters()
        vectors = self.network.vectors
        trained = vectors is not None and vectors.requires_grad
        rows = None  # gradients of the words' vectors, (words, dimensions)
        if self.workers.size == 1:
            if trained:
                rows = vectors.grad._values()
        else:
            for parameter in dense:
                if parameter.grad is None:  # the last batch had no row for this worker
                    parameter.grad = torch.zeros_like(parameter)
            pieces = [parameter.grad.flatten() for parameter in dense]
            if trained:
                rows = vectors.new_zeros(len(batch.all_words), vectors.shape[1])
                if vectors.grad is not None:
                    # F.embedding keeps the order of its indices, which are distinct and sorted.
                    rows[batch.places] = vectors.grad._values()
                pieces.append(rows.flatten())
            message = self.workers.add_up(torch.cat(pieces))
            start = 0
            for parameter in dense:
                parameter.grad.copy_(message[start : start + parameter.numel()].view_as(parameter))
                start += parameter.numel()
            if trained:
                rows = message[start:].view_as(rows)
        if trained:
            vectors.grad = self._finished(batch.all_words, rows)

    def _finished(self, words: Tensor, rows: Tensor) -> Tensor:
        """Return the gradient of the word vectors: pulled back, and only of words that are trained."""
        vectors = self.network.vectors
        if self.settings.vectors_pull:
            rows = rows + self.settings.vectors_pull * (vectors.detach()[words] - self.initial[words])
        if self.trained_words is not None:
            chosen = self.trained_words[words]
            words, rows = words[chosen], rows[chosen]
        return torch.sparse_coo_tensor(words[None], rows, vectors.shape, is_coalesced=True, check_invariants=False)

    def _validate(self, part: Encoded) -> tuple[float, np.ndarray]:
        """Return the mean loss, and the predicted label of every row; each worker computes its share."""
        rows = np.arange(len(part))[self.workers.rank :: self.workers.size]
        found = scores(self.network, part.tokens, rows, self.device)  # (rows, classes)
        total = F.cross_entropy(found, torch.from_numpy(part.labels[rows]), reduction="sum").double()
        predicted = torch.zeros(len(part), dtype=torch.int64)
        predicted[rows] = found.argmax(dim=1)
        if self.workers.size > 1:  # NCCL adds up on its own device only
            total = self.workers.add_up(total.to(self.device)).cpu()
            predicted = self.workers.add_up(predicted.to(self.device)).cpu()
        return total.item() / len(part), predicted.numpy()

    def state(self) -> dict[str, Tensor]:
        """Return the optimisers' state by name, to go on from later."""
        tensors = {}
        for name, optimizer in self._optimizers():
            for number, values in optimizer.state_dict()["state"].items():
                for key, value in values.items():
                    tensors[f"{name}.{number}.{key}"] = torch.as_tensor(value)
        return tensors

    def resume(self, weights: dict[str, Tensor], state: dict[str, Tensor], progress: Progress) -> None:
        """Go on where a run with the same settings stopped."""
        self.network.load_state_dict(weights)
        for name, optimizer in self._optimizers():
            tree = optimizer.state_dict()
            for key, value in state.items():
                owner, number, field_name = key.split(".")
                if owner == name:
                    # SparseAdam counts its steps in a plain number, AdamW in a tensor.
                    plain = name == "sparse" and field_name == "step"
                    tree["state"].setdefault(int(number), {})[field_name] = int(value) if plain else value
            optimizer.load_state_dict(tree)
        self.progress = progress

    def _optimizers(self) -> list[tuple[str, torch.optim.Optimizer]]:
        named = [("dense", self.dense), ("sparse", self.sparse)]
        return [(name, optimizer) for name, optimizer in named if optimizer is not None]
