"""Metrics of a run's epochs, its progress, and the comparison that selects the best epoch."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from jobs.config.label_thresholds import OPTIONAL_METRICS


@dataclass(frozen=True)
class Epoch:
    """Metrics of one epoch. epoch: its number, from 1.

    >>> import finetune_cnn
    >>> texts, labels, epochs = ["a good film", "a bad film"] * 20, ["good", "bad"] * 20, []
    >>> model = finetune_cnn.TextCNNClassifier(embedding="rand", epochs=2)
    >>> model = model.fit(texts, labels, callbacks=[epochs.append])
    >>> [(epoch.epoch, epoch.accuracy) for epoch in epochs]
    [(1, 1.0), (2, 1.0)]

    loss, accuracy, macro_f1: of the validation part, None without one. examples_per_second: of training only.
    seconds: with validation. The others are of the validation part: three with several labels per text only, the last
    two with one label only; None in epochs of earlier versions.
    """

    epoch: int
    train_loss: float
    loss: float | None
    accuracy: float | None
    macro_f1: float | None
    examples_per_second: float
    seconds: float
    micro_f1: float | None = None
    precision_at_1: float | None = None
    mean_average_precision: float | None = None
    balanced_accuracy: float | None = None
    matthews_correlation: float | None = None

    def to_json(self) -> dict[str, float | None]:
        """Return the metrics by name, without those that do not apply to the number of labels per text."""
        values = asdict(self)
        return {name: value for name, value in values.items() if name not in OPTIONAL_METRICS or value is not None}


class EpochReport(dict[str, Any]):
    """Metrics of an epoch as reported to Ray Train; those without a value are left out.

    messages: pairs (kind, value) for the run's own monitor, which is also called with reports without metrics. They are
    no item of the dictionary, since callbacks and loggers expect numbers.
    """

    def __init__(self, epoch: Epoch | None = None, messages: list[tuple[str, Any]] | None = None) -> None:
        super().__init__({key: value for key, value in asdict(epoch).items() if value is not None} if epoch else {})
        self.messages = messages or []


@dataclass(frozen=True)
class EpochProgress:
    """Position in an epoch that is not finished. seconds_left: until the last epoch ends."""

    epoch: int
    step: int
    steps: int
    train_loss: float
    examples_per_second: float
    seconds_left: float


@dataclass
class Progress:
    """Progress of a run: what resuming needs besides the weights and the optimizers' state.

    epochs: the finished ones. best: number of the best of them, from 1; 0 before the first. steps: steps done in the
    unfinished epoch; train_loss: the sum of their losses. Seed, epoch and step determine the rows and the dropout mask
    of a step, so this is also the position in the data and the random state.
    """

    epochs: list[Epoch] = field(default_factory=list)
    best: int = 0
    steps: int = 0
    train_loss: float = 0.0

    def add(self, epoch: Epoch, metric: str) -> bool:
        """Record a finished epoch; return whether it is the best so far. Without a validation part the last one is."""
        improved = (
            self.best == 0
            or epoch.loss is None
            or comparison_key(vars(epoch), metric) > comparison_key(vars(self.epochs[self.best - 1]), metric)
        )
        self.epochs.append(epoch)
        self.steps, self.train_loss = 0, 0.0
        if improved:
            self.best = epoch.epoch
        return improved

    def is_finished(self, epochs: int, patience: int, frozen_epochs: int) -> bool:
        """Return whether the last epoch is done, or none of the last `patience` epochs improved.

        Frozen epochs do not count towards `patience`.
        """
        done = len(self.epochs)
        since = max(self.best, min(frozen_epochs, done))
        return done >= epochs or done - since >= patience

    def to_json(self) -> dict[str, Any]:
        """Return the progress as JSON values; floating-point numbers keep every bit."""
        return vars(self) | {"epochs": [epoch.to_json() for epoch in self.epochs]}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Progress":
        """Return the progress of a value of `to_json`."""
        return cls(**values | {"epochs": [Epoch(**epoch) for epoch in values["epochs"]]})


def replace_epoch(progress: Progress, epoch: Epoch, metric: str) -> Progress:
    """Return progress up to an epoch: one of the same number and later ones were lost with their workers."""
    result = Progress()
    for item in [*progress.epochs[: epoch.epoch - 1], epoch]:
        result.add(item, metric)
    return result


# Metrics of an epoch for which less is better.
MINIMIZED_METRICS = {"loss", "train_loss", "seconds"}


def negate_if_minimized(value: float, metric: str) -> float:
    """Return a value of a metric with the sign that makes more better."""
    return -value if metric in MINIMIZED_METRICS else value


def comparison_key(metrics: Mapping[str, float], metric: str) -> tuple[float, float]:
    """Return the sort key of an epoch, more is better: the metric, and among equals the loss."""
    return negate_if_minimized(metrics[metric], metric), -metrics["loss"]
