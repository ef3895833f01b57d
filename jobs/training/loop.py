"""Training loop, in one process or as one of several equal workers, without Ray.

The workers divide the rows of each batch (data parallelism): worker r of n takes the rows r, r + n, r + 2 n and so on.
A step sums the gradients over the workers (`jobs.training.exchange.gradients`), and each worker updates its copy of the
network. The order of rows and the dropout masks depend only on the seed, the epoch and the step. So the number of
workers changes nothing but rounding, and on the same number of workers a run resumed in the middle of an epoch has
bit-identical results.
"""

import math
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from cluster import UsageError
from jobs.config.training_defaults import choose_batch_size, choose_vectors_learning_rate
from jobs.datasets.label_sets import compute_log_odds
from jobs.evaluation.metrics import LogitSample
from jobs.model.batches import Collator, copy_to_device, iter_batches_by_length
from jobs.model.dense_adamw import DenseAdamW
from jobs.model.dropout import MaskNumber, draw_mask
from jobs.model.gpu.rates import LearningRates, schedule_rates
from jobs.model.gpu.static_steps import StaticSteps
from jobs.model.gpu.step import StepOptions
from jobs.model.lazy_adam import LazyAdam
from jobs.model.network import Network, compute_loss_sum, limit_norm
from jobs.training.corpora.block_reader import BlockReader
from jobs.training.exchange.gradients import GradientExchange
from jobs.training.history import Epoch, EpochProgress, Progress
from jobs.training.linear.preparation import prepare_linear_classifier
from jobs.training.linear.weight import iter_validation_scores
from jobs.training.process_group import ProcessGroup
from jobs.training.validation import Metrics, Validation

if TYPE_CHECKING:
    from jobs.config.experiment import Experiment
    from jobs.config.settings import TrainSettings
    from jobs.training.corpora.corpus import Corpus

STEPS_PER_TIME_CHECK = 16  # a check costs an all-reduce: the first worker's clock decides for all of them
VALIDATION_BATCH_SIZE = 256  # rows of each worker


class TrainingDiverged(UsageError):
    """The loss became NaN or infinite."""


class Loop:
    """Training of a network, one epoch at a time.

    Args:
        network: this worker's copy; those of all workers are created with the same seed.
        corpus, settings, seed: the same for all workers.
        group: process group of the workers; by default this process alone.
        device: device of the network.
        row_weights: of the training rows in the loss, `(rows,)` float64 with a mean of 1; None if they are equal.
        label_weights: as of `compute_row_losses`, `(labels,)` float64.
    """

    def __init__(
        self,
        network: Network,
        corpus: "Corpus",
        settings: "TrainSettings",
        seed: int,
        group: ProcessGroup | None = None,
        device: torch.device | str = "cpu",
        *,
        row_weights: np.ndarray | None = None,
        label_weights: np.ndarray | None = None,
    ) -> None:
        self.network, self.corpus, self.settings, self.seed = network, corpus, settings, seed
        self.group = group or ProcessGroup()
        self.device = torch.device(device)
        self.progress = Progress()
        # Classes of the validation rows after the best epoch; with several labels per text as of `encode_row_counts`.
        self.predicted = np.empty(0, np.int64)
        self.validation: Validation | None = None  # after the last epoch
        self.logits = LogitSample(corpus.validation.labels, len(corpus.labels))  # of these rows after the last epoch
        # Steps of this process, their duration, the bytes sent in them, and the end of the first in seconds since 1970.
        self.steps, self.step_seconds, self.step_bytes, self.first_step_time = 0, 0.0, 0, 0.0
        self._train_loss, self._started = torch.zeros(()), 0.0
        self.batch_size = settings.batch_size or choose_batch_size(len(corpus.train))
        self._exchange = GradientExchange(self.group, len(corpus.vectors))
        # Without decay a single group: each one takes a kernel of its own.
        dense, decay = network.dense_parameters(), settings.weight_decay
        biases = [dense.pop(name) for name in ("biases", "output_bias")] if decay else []
        groups = [{"params": dense.values(), "weight_decay": decay}, {"params": biases, "weight_decay": 0.0}]
        self.dense_optimizer = DenseAdamW(groups if decay else groups[:1], settings.learning_rate)
        self.vectors_optimizer: LazyAdam | None = None
        is_random = network.settings.embedding == "rand"
        self.vectors_learning_rate = choose_vectors_learning_rate(settings, is_random=is_random)
        if network.vectors is not None:
            some_words = network.settings.trained_words == "out-of-vocabulary" and not is_random
            self.vectors_optimizer = LazyAdam(
                network.vectors.detach(), self.vectors_learning_rate, network.initial_vectors, settings.vectors_pull,
                torch.from_numpy(~corpus.pretrained).to(self.device) if some_words else None,
            )  # fmt: skip
        self.texts = BlockReader(corpus.token_blocks, len(corpus.vectors), self.batch_size, seed, self.device)
        self.validation_collator = Collator(corpus.validation.tokens, len(corpus.vectors), self.device)
        self._labels = torch.from_numpy(corpus.train.labels).to(self.device)
        self._weights, self._label_weights = (
            None if weights is None else torch.from_numpy(weights).to(self.device, torch.float32)
            for weights in (row_weights, label_weights)
        )
        self.static_steps: StaticSteps | None = None
        if self.device.type == "cuda" and self.group.world_size == 1:
            self.use_static_steps()

    def use_static_steps(self, **choices: bool) -> None:
        """Train with steps of static shapes from now on; `choices` are those of `StaticSteps`."""
        self.static_steps = StaticSteps(
            self.network, self.dense_optimizer, self.vectors_optimizer, self.texts.collator, self._labels,
            self._weights, self.batch_size, self.seed,
            StepOptions(self.settings.precision, self._label_weights), **choices,
        )  # fmt: skip

    def train_epochs(self) -> Iterator[tuple[Epoch, bool]]:
        """Train as `train_with_intervals`, without an interval; yield each epoch, and whether it is the best so far."""
        for epoch in self.train_with_intervals():
            assert epoch is not None, "without an interval only epochs are yielded"
            yield epoch, self.progress.best == epoch.epoch

    def train_with_intervals(self, interval_s: float | None = None) -> Iterator[Epoch | None]:
        """Train until the last epoch or `patience` ends; yield each epoch, and None within one after `interval_s`.

        Args:
            interval_s: seconds since the last yield, by the first worker's clock. None: only ends of epochs.

        Raises:
            TrainingDiverged: the loss became NaN or infinite.
        """
        settings, progress = self.settings, self.progress
        prepare_linear_classifier(self)
        yielded = time.monotonic()
        while not progress.is_finished(settings.last_epoch, settings.patience, settings.frozen_epochs):
            share = 1 - progress.steps / self.texts.num_batches
            seconds_before = self.step_seconds
            self._started = time.perf_counter()
            for _ in self._train_epoch():
                if interval_s is not None and self.group.broadcast_bool(time.monotonic() - yielded >= interval_s):
                    progress.train_loss = self._train_loss.item()
                    self.step_seconds += time.perf_counter() - self._started
                    yield None
                    yielded, self._started = time.monotonic(), time.perf_counter()
            self.step_seconds += time.perf_counter() - self._started
            yield self._end_epoch(share * len(self.corpus.train), self.step_seconds - seconds_before)
            yielded = time.monotonic()

    def epoch_progress(self) -> EpochProgress:
        """Return the position in the current epoch."""
        rows, size, finished = len(self.corpus.train), self.batch_size, len(self.progress.epochs)
        done = rows * self.progress.steps / self.texts.num_batches
        speed = self.steps * size / max(self.step_seconds + time.perf_counter() - self._started, 1e-9)
        return EpochProgress(
            epoch=finished + 1,
            step=self.progress.steps,
            steps=self.texts.num_batches,
            train_loss=self._train_loss.item() / done,
            examples_per_second=speed,
            seconds_left=((self.settings.last_epoch - finished) * rows - done) / speed,
        )

    def _train_epoch(self) -> Iterator[None]:
        """Take the remaining steps of the epoch, and yield at each time check."""
        network, progress = self.network, self.progress
        network.train()
        number = len(progress.epochs) + 1
        if network.vectors is not None:
            network.vectors.requires_grad_(number > self.settings.frozen_epochs)
        self._train_loss = torch.tensor(progress.train_loss, dtype=torch.float64, device=self.device)
        num_batches = self.texts.num_batches
        rates = schedule_rates(self.settings, self.vectors_learning_rate, number, num_batches)
        for _ in self._iter_steps(number, rates):
            progress.steps += 1
            self.steps += 1
            if self.steps == 1:
                self.first_step_time = time.time()
            if progress.steps % STEPS_PER_TIME_CHECK == 0 and progress.steps < num_batches:
                yield
        limit_norm(network)
        progress.train_loss = self._train_loss.item()  # waits for the device

    def _iter_steps(self, epoch: int, rates: LearningRates) -> Iterator[None]:
        """Take the remaining steps of an epoch, and yield after each."""
        done = self.progress.steps
        for first, batches in self.texts.iter_batches(epoch, done):
            if self.static_steps is not None:  # on a GPU these are all batches
                self._train_loss = self.static_steps.loss_sum
                yield from self.static_steps.iter_steps(batches, done, epoch, rates, self.progress.train_loss)
                return
            for step, rows in enumerate(batches[max(0, done - first) :], max(first, done)):
                bytes_before = self.group.bytes_sent
                self._set_learning_rates(*rates.at_step(step))
                self._train_loss += self.step(rows, epoch, step)
                self.step_bytes += self.group.bytes_sent - bytes_before
                yield

    def _end_epoch(self, rows: float, seconds: float) -> Epoch:
        """Validate, record the epoch and return it; this process trained about `rows` of it in `seconds`."""
        start = time.perf_counter()
        progress = self.progress
        mean = progress.train_loss / len(self.corpus.train)
        number = len(progress.epochs) + 1
        metrics, predicted = self.validate() if len(self.corpus.validation) and math.isfinite(mean) else (None, None)
        for name, value in (("training", mean), ("validation", metrics.loss if metrics else None)):
            if value is not None and not math.isfinite(value):
                raise TrainingDiverged(
                    f"epoch {number}: the {name} loss is {value}; lower train.learning_rate "
                    f"({self.settings.learning_rate})"
                )
        epoch = Epoch(
            epoch=number,
            train_loss=mean,
            **(vars(metrics) if metrics else dict.fromkeys(("loss", "accuracy", "macro_f1"))),
            examples_per_second=rows / seconds,
            seconds=seconds + time.perf_counter() - start,
        )
        # Processors may differ in the last bit, but all workers must end at the same epoch.
        epoch = self.group.broadcast(epoch)
        progress.add(epoch, self.settings.metric)
        if predicted is not None and progress.best == number:
            self.predicted = predicted
        return epoch

    def _set_learning_rates(self, dense: float, words: float) -> None:
        for group in self.dense_optimizer.param_groups:
            group["lr"] = dense
        if self.vectors_optimizer is not None:
            self.vectors_optimizer.learning_rate = words

    def step(self, rows: np.ndarray, epoch: int = 1, number: int = 0) -> Tensor:
        """Take a step on rows `(batch,)` of the current block; return the sum of their losses, a scalar on the device.

        The epoch (from 1) and the number of the step in it (from 0) determine the dropout mask.

        Args:
            rows: of all workers, the same on each.
        """
        network, rank, size = self.network, self.group.rank, self.group.world_size
        own = np.arange(rank, len(rows), size)
        batch = self.texts.collator.collate(rows[own])
        vectors = network.lookup_trained_vectors(batch.word_ids)
        trains_vectors = vectors is not None and vectors.requires_grad
        if trains_vectors:
            counts = [self.texts.collator.count_tokens(rows[worker::size]) for worker in range(size)]
            self._exchange.send_word_ids(batch.word_ids, counts)
        hidden = network.forward_features(batch, vectors, bfloat16=self.settings.precision == "bfloat16")
        if network.settings.dropout:
            hidden = hidden * self.dropout_mask(own, epoch, number)
        limit_norm(network)
        output = network.output.detach()
        scores = (hidden.detach() @ output.T + network.output_bias.detach()).requires_grad_()
        indices = copy_to_device(self.texts.rows[rows], self.device)
        own_indices = indices[rank::size]
        weights = None if self._weights is None else self._weights[own_indices]
        loss = compute_loss_sum(scores, self._labels[own_indices], weights, self._label_weights)
        [gradient] = torch.autograd.grad(loss / self._sum_weights(indices), [scores])  # (own rows, classes)
        network.output.grad = gradient.T @ hidden.detach()
        network.output_bias.grad = gradient.sum(dim=0)
        network.filters.grad = network.biases.grad = None
        # Of a scalar, since torch imports sympy for a gradient that it is given, which takes half a second.
        torch.autograd.backward((hidden * (gradient @ output)).sum())
        loss, word_ids, vectors_gradient = self._exchange.sum_gradients(
            list(network.dense_parameters().values()), loss.detach(), vectors.grad if vectors is not None else None
        )
        self.dense_optimizer.step()
        if trains_vectors:
            assert self.vectors_optimizer is not None
            assert vectors_gradient is not None
            self.vectors_optimizer.step(word_ids, vectors_gradient)
        return loss

    def _sum_weights(self, indices: Tensor) -> Tensor | int:
        """Return the sum of the weights of some rows, by which their loss is divided, more than 0."""
        if self._weights is None:
            return len(indices)
        return self._weights[indices].sum().clamp(min=torch.finfo(self._weights.dtype).tiny)

    def dropout_mask(self, rows: np.ndarray, epoch: int, step: int) -> Tensor:
        """Return the factors of the features of some rows of the batch, `(rows, features)`: 0 or 1 / (1 - dropout)."""
        output, number = self.network.output, MaskNumber(self.seed, epoch, step)
        return draw_mask(rows, output.shape[1], self.network.settings.dropout, number, self.device).to(output.dtype)

    @torch.inference_mode()
    def iter_scores(self, collator: Collator, lengths: np.ndarray) -> Iterator[tuple[np.ndarray, Tensor]]:
        """Yield row numbers and their logits `(rows, classes)` on the CPU, for all rows; the workers divide the rows.

        Args:
            lengths: `(rows,)` tokens of the collator's texts.
        """
        self.network.eval()
        rank, size = self.group.rank, self.group.world_size
        for rows in iter_batches_by_length(lengths, VALIDATION_BATCH_SIZE * size):
            scores = torch.zeros(len(rows), len(self.corpus.labels), device=self.device)
            scores[rank::size] = self.network(collator.collate(rows[rank::size]))
            yield rows, self.group.all_reduce(scores).cpu()

    def validate(self) -> tuple[Metrics, np.ndarray]:
        """Return the metrics and the predictions, as of `Validation.measure`, and store logits to calibrate."""
        labels = self.corpus.validation.labels
        self.validation = validation = Validation(labels, self.logits, self.settings, self.corpus.labels)
        for rows, scores in iter_validation_scores(self):
            validation.add(rows, scores)
        return validation.measure()


def create_loop(
    experiment: "Experiment", corpus: "Corpus", group: ProcessGroup | None = None, device: torch.device | str = "cpu"
) -> Loop:
    """Return a loop of an experiment on a corpus, with a new network."""
    network = Network(
        experiment.model,
        corpus.vectors,
        len(corpus.labels),
        experiment.seed,
        num_trainable_words=len(corpus.word_counts()),
    )
    if corpus.train.labels.ndim == 2:
        # Otherwise the first epochs learn that most labels are rare.
        network.output_bias.data = torch.from_numpy(compute_log_odds(corpus.train.labels))
    settings = experiment.train
    rows, labels = corpus.row_weights(settings.class_weights), corpus.label_weights(settings.class_weights)
    return Loop(
        network.to(device), corpus, settings, experiment.seed, group, device, row_weights=rows, label_weights=labels
    )
