"""The training loop, in one process or as one of several equal workers. No Ray here.

Each worker sees every text of the global batch with its share of the filters (`jobs.model.tensor_parallel`). A step
adds up the workers' scores, then their gradients of the word vectors that it touched. The order of rows and dropout
masks are drawn from the seed, the epoch and the step. So the workers' number changes nothing but rounding, and
a run that goes on in the middle of an epoch is, on the same number of workers, bit for bit one that never stopped.
"""

import math
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cluster import UsageError
from jobs.model.batches import Batch, Collator, copy_to_device, iter_batches_by_length, make_epoch_batches
from jobs.model.lazy_adam import LazyAdam
from jobs.model.network import Network
from jobs.training.history import Epoch, Progress
from jobs.training.process_group import ProcessGroup

if TYPE_CHECKING:
    from jobs.config.experiment import Experiment
    from jobs.config.settings import TrainSettings
    from jobs.training.corpus import Corpus, EncodedSplit

# How much faster random word vectors learn than all else, unless train.vectors_learning_rate says how fast. On
# rows held out of the training part this gave 86.8 % on TREC where the same rate gave 85.0 (mean of 4 seeds), and
# 78.3 % on SST-2 where it gave 78.9 (2 seeds).
RAND_LEARNING_RATE_FACTOR = 3

# Steps between two looks at the clock, which all workers take together.
STEPS_PER_CLOCK_CHECK = 16

# Rows of a batch while validating.
VALIDATION_BATCH_SIZE = 256


class TrainingDiverged(UsageError):
    """The loss became NaN or infinite."""


class Loop:
    """Trains a network, an epoch at a time.

    Args:
        network: this worker's share; all are made with the same seed.
        corpus, settings, seed: the same for all workers.
        group: this process's place among the workers.
        device: where the network is.
    """

    def __init__(
        self,
        network: Network,
        corpus: "Corpus",
        settings: "TrainSettings",
        seed: int,
        group: ProcessGroup | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.network = network
        self.corpus = corpus
        self.settings = settings
        self.seed = seed
        self.group = group or ProcessGroup()
        self.device = torch.device(device)
        self.progress = Progress()
        # Of this process: steps, the seconds they took, and the bytes that it sent for them.
        self.steps, self.step_seconds, self.step_bytes = 0, 0.0, 0
        self.first_step_time = 0.0
        """When the first of them was taken, in seconds since 1970."""
        self._train_loss, self._started = torch.zeros(()), 0.0
        self.dense_optimizer = torch.optim.AdamW(
            network.dense_parameters().values(),
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
            fused=True,
        )
        self.vectors_optimizer: LazyAdam | None = None
        usual = settings.learning_rate * (RAND_LEARNING_RATE_FACTOR if network.settings.embedding == "rand" else 1)
        self.vectors_learning_rate = settings.vectors_learning_rate or usual
        # Of each word, whether its vector is trained; None for all.
        self.trained_words_mask: Tensor | None = None
        if network.vectors is not None:
            self.vectors_optimizer = LazyAdam(network.vectors.detach(), self.vectors_learning_rate)
            if network.settings.trained_words == "out-of-vocabulary" and network.settings.embedding != "rand":
                self.trained_words_mask = torch.from_numpy(~corpus.pretrained).to(self.device)
        num_words = len(corpus.vectors)
        self.train_collator = Collator(corpus.train.tokens, num_words, self.device)
        self.validation_collator = Collator(corpus.validation.tokens, num_words, self.device)
        self._labels = torch.from_numpy(corpus.train.labels).to(self.device)

    def train_epochs(self) -> Iterator[tuple[Epoch, bool]]:
        """Train and yield each epoch with whether it is the best so far, until the last one or `patience` ends.

        Raises:
            TrainingDiverged: the loss is no longer a number.
        """
        for epoch in self.train_with_pauses():
            assert epoch is not None, "without an interval there are no other moments"
            yield epoch, self.progress.best == epoch.epoch

    def train_with_pauses(
        self, interval_s: float | None = None, on_clock_check: Callable[["Loop"], None] = lambda loop: None
    ) -> Iterator[Epoch | None]:
        """Train and yield each epoch as it ends; and None within one, where state was last yielded so long ago.

        Args:
            interval_s: seconds, by the first worker's clock. None: only at the ends of epochs.
            looked: is called every `CLOCK_STEPS` steps, with the loop as it is then.

        Raises:
            TrainingDiverged: the loss is no longer a number.
        """
        settings, progress = self.settings, self.progress
        yielded = time.monotonic()
        while not progress.is_finished(settings.last_epoch, settings.patience, settings.frozen_epochs):
            rows = len(self.corpus.train) - progress.steps * settings.batch_size
            seconds_before = self.step_seconds
            self._started = time.perf_counter()
            for _ in self._train_epoch():
                on_clock_check(self)
                if interval_s is not None and self.group.broadcast_bool(time.monotonic() - yielded >= interval_s):
                    progress.train_loss = self._train_loss.item()
                    self.step_seconds += time.perf_counter() - self._started
                    yield None
                    yielded, self._started = time.monotonic(), time.perf_counter()
            self.step_seconds += time.perf_counter() - self._started
            yield self._end_epoch(rows, self.step_seconds - seconds_before)
            yielded = time.monotonic()

    def epoch_progress(self) -> dict[str, float]:
        """Return where the loop is: epoch, step, of how many steps, train_loss, examples_per_second, seconds_left."""
        rows, size, finished = len(self.corpus.train), self.settings.batch_size, len(self.progress.epochs)
        done = self.progress.steps * size
        speed = self.steps * size / max(self.step_seconds + time.perf_counter() - self._started, 1e-9)
        return {
            "epoch": finished + 1,
            "step": self.progress.steps,
            "steps": -(-rows // size),
            "train_loss": self._train_loss.item() / done,
            "examples_per_second": speed,
            "seconds_left": ((self.settings.last_epoch - finished) * rows - done) / speed,
        }

    def _train_epoch(self) -> Iterator[None]:
        """Take the epoch's remaining steps; pause where the clock may be looked at."""
        network, part, progress = self.network, self.corpus.train, self.progress
        network.train()
        number = len(progress.epochs) + 1
        if network.vectors is not None:
            network.vectors.requires_grad_(number > self.settings.frozen_epochs)
        batches = make_epoch_batches(part.tokens.lengths, self.settings.batch_size, self.seed, number)
        self._train_loss = torch.tensor(progress.train_loss, dtype=torch.float64, device=self.device)
        while progress.steps < len(batches):
            self._set_rates((number - 1 + progress.steps / len(batches)) / self.settings.epochs)
            bytes_before = self.group.bytes_sent
            self._train_loss += self.step(batches[progress.steps], number, progress.steps)
            progress.steps += 1
            self.steps += 1
            if self.steps == 1:
                self.first_step_time = time.time()
            self.step_bytes += self.group.bytes_sent - bytes_before
            if progress.steps % STEPS_PER_CLOCK_CHECK == 0 and progress.steps < len(batches):
                yield
        self._limit_norm(self.group.all_reduce(self._squares()))
        progress.train_loss = self._train_loss.item()  # waits for the device

    def _end_epoch(self, rows: int, seconds: float) -> Epoch:
        """Validate, record the epoch and return it; so many of its rows took so many seconds here."""
        from jobs.evaluation.metrics import accuracy, macro_f1

        start = time.perf_counter()
        progress, part = self.progress, self.corpus.validation
        mean = progress.train_loss / len(self.corpus.train)
        number = len(progress.epochs) + 1
        loss, labels = self._validate(part) if len(part) and math.isfinite(mean) else (None, None)
        for name, value in (("training", mean), ("validation", loss)):
            if value is not None and not math.isfinite(value):
                raise TrainingDiverged(
                    f"epoch {number}: the {name} loss is {value}; lower train.learning_rate "
                    f"({self.settings.learning_rate})"
                )
        epoch = Epoch(
            epoch=number,
            train_loss=mean,
            loss=loss,
            accuracy=None if labels is None else accuracy(part.labels, labels),
            macro_f1=None if labels is None else macro_f1(part.labels, labels),
            examples_per_second=rows / seconds,
            seconds=seconds + time.perf_counter() - start,
        )
        # Processors may differ in the last bit, and no worker may end before the others.
        epoch = self.group.broadcast(epoch)
        progress.add(epoch, self.settings.metric)
        return epoch

    def _set_rates(self, done: float) -> None:
        """Set the learning rates for when a share of the run is done."""
        left = 1 - done if self.settings.decay == "linear" else 1
        for group in self.dense_optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * left
        if self.vectors_optimizer is not None:
            self.vectors_optimizer.learning_rate = self.vectors_learning_rate * left

    def step(self, rows: np.ndarray, epoch: int = 1, number: int = 0) -> Tensor:
        """Take a step on some rows of the training part and return the sum of their losses, a scalar on the device."""
        batch = self.train_collator.collate(rows)
        labels = self._labels[copy_to_device(rows, self.device)]
        network = self.network
        kept = self.dropout_mask(len(rows), epoch, number)
        vectors = network.lookup_trained_vectors(batch.word_ids)
        sums: list[Callable[[], Tensor]] = []  # of the vectors' gradients, under way while the filters' are computed
        hidden = network.forward_features(
            batch,
            vectors,
            bfloat16=self.settings.precision == "bfloat16",
            on_trained_gradient=lambda gradient: sums.append(self.group.all_reduce_async(gradient)),
        )
        if kept is not None:
            hidden = hidden * kept
        scores = self._scores(hidden.detach(), limit=True).requires_grad_()
        total = F.cross_entropy(scores, labels, reduction="sum")
        (total / len(rows)).backward()
        slopes = scores.grad  # (rows, classes)
        network.output.grad = slopes.T @ hidden.detach()
        network.output_bias.grad = slopes.sum(dim=0)
        network.filters.grad = network.biases.grad = None
        hidden.backward(slopes @ network.output)
        self.dense_optimizer.step()
        if self.vectors_optimizer is not None and network.vectors.requires_grad:
            self._step_vectors(batch, vectors, sums[0]() if sums else self.group.all_reduce(vectors.grad))
        return total.detach()

    def _step_vectors(self, batch: Batch, vectors: Tensor, gradient: Tensor) -> None:
        """Step on the word vectors of a batch, with the sum of the workers' gradients."""
        words = batch.word_ids
        if self.settings.vectors_pull:
            gradient = gradient + self.settings.vectors_pull * (vectors.detach() - self.network.initial[words])
        if self.trained_words_mask is not None:
            chosen = self.trained_words_mask[words]
            if words.is_cuda:  # without waiting for how many there are; rows without a gradient stay as they are
                gradient = gradient * chosen[:, None]
            else:
                words, gradient = words[chosen], gradient[chosen]
        self.vectors_optimizer.step(words, gradient)

    def dropout_mask(self, rows: int, epoch: int, step: int) -> Tensor | None:
        """Return what features are multiplied by in a step, `(rows, features)`: 0 or 1 / (1 - dropout)."""
        kept = 1 - self.network.settings.dropout
        if kept == 1:
            return None
        model = self.network.settings
        random = np.random.Generator(np.random.SFC64([self.seed, epoch, step]))
        drawn = random.random((rows, len(model.filter_widths) * model.feature_maps), np.float32) < kept
        return (
            self.network.shard.shard_features(copy_to_device(drawn, self.device))
            .to(self.network.output.dtype)
            .div_(kept)
        )

    @torch.no_grad()
    def _scores(self, hidden: Tensor, *, limit: bool = False) -> Tensor:
        """Return the scores (logits) of features, added up over the workers, `(rows, classes)`.

        Args:
            limit: scale each class's output row down to `max_norm` first, where the last step made it longer
                (Hinton et al. 2012). Its length is that of all shares, which comes with the same message.
        """
        network = self.network
        added = hidden @ network.output.T
        if self.group.world_size > 1 or limit:
            message = self.group.all_reduce(torch.cat([added.flatten(), self._squares()]))
            added, squares = message[: added.numel()].view_as(added), message[added.numel() :]
            if limit:
                added = added * self._limit_norm(squares)
        return added + network.output_bias

    def _squares(self) -> Tensor:
        """Return the squared length of each class's output row, `(classes,)`."""
        return self.network.output.detach().square().sum(dim=1)

    @torch.no_grad()
    def _limit_norm(self, squares: Tensor) -> Tensor:
        """Limit the output rows, given the squares of their lengths; return what each was multiplied by."""
        limit = self.network.settings.max_norm
        scale = torch.ones_like(squares) if limit is None else (limit / squares.sqrt()).clamp(max=1)
        self.network.output.mul_(scale[:, None])
        return scale

    @torch.inference_mode()
    def _validate(self, part: "EncodedSplit") -> tuple[float, np.ndarray]:
        """Return the mean loss, and the predicted label of every row."""
        self.network.eval()
        labels = torch.from_numpy(part.labels)
        predicted = torch.empty(len(part), dtype=torch.int64)
        total = 0.0
        for rows in iter_batches_by_length(part.tokens.lengths, VALIDATION_BATCH_SIZE):
            scores = self._scores(self.network.forward_features(self.validation_collator.collate(rows))).cpu()
            total += F.cross_entropy(scores, labels[rows], reduction="sum").item()
            predicted[rows] = scores.argmax(dim=1)
        return total / len(part), predicted.numpy()


def create_loop(
    experiment: "Experiment",
    corpus: "Corpus",
    group: ProcessGroup | None = None,
    device: torch.device | str = "cpu",
) -> Loop:
    """Return the loop of an experiment on a corpus, with a new network; of several workers, with this one's shard."""
    group = group or ProcessGroup()
    network = Network(
        experiment.model,
        corpus.vectors,
        len(corpus.labels),
        experiment.seed,
        num_trainable_words=len(corpus.word_counts()),
        rank=group.rank,
        world_size=group.world_size,
    )
    return Loop(network.to(device), corpus, experiment.train, experiment.seed, group, device)
