"""What the epochs of a run gave, and which is the best."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Epoch:
    """What one epoch gave; loss, accuracy and macro F1 on the validation part, None without one. Speed counts
    training only."""

    epoch: int
    train_loss: float
    loss: float | None
    accuracy: float | None
    macro_f1: float | None
    examples_per_second: float
    seconds: float


@dataclass
class Progress:
    """How far a run has come: what a resumed run must know besides the weights and the optimisers' state.

    epochs: the finished ones. best: the best of them, from 1; 0 before the first. steps: those of the epoch that
    is not finished; train_loss: the sum of their losses. Which rows a step sees and which features it drops
    follow from the seed, the epoch and the step, so that this is the position in the data and the random state.
    """

    epochs: list[Epoch] = field(default_factory=list)
    best: int = 0
    steps: int = 0
    train_loss: float = 0.0

    def add(self, epoch: Epoch, metric: str) -> bool:
        """Record a finished epoch; tell whether it is the best so far: without a validation part the last one is."""
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
        """Tell whether the last epoch was reached, or `patience` epochs after the frozen ones brought nothing."""
        done = len(self.epochs)
        since = max(self.best, min(frozen_epochs, done))
        return done >= epochs or done - since >= patience

    def to_json(self) -> dict[str, Any]:
        """Return the progress as JSON values; floating-point numbers keep every bit."""
        return vars(self) | {"epochs": [asdict(epoch) for epoch in self.epochs]}

    @classmethod
    def from_json(cls, tree: dict[str, Any]) -> "Progress":
        """Return the progress that `to_json` gave."""
        return cls(**tree | {"epochs": [Epoch(**epoch) for epoch in tree["epochs"]]})


# Of an epoch's figures, more is better but for these.
MINIMIZED_METRICS = {"loss", "train_loss", "seconds"}


def negate_if_minimized(value: float, metric: str) -> float:
    """Return a value of a metric so that more is better."""
    return -value if metric in MINIMIZED_METRICS else value


def comparison_key(figures: Mapping[str, float], metric: str) -> tuple[float, float]:
    """Return what epochs are compared by, more is better: the metric, and among equals the loss."""
    return negate_if_minimized(figures[metric], metric), -figures["loss"]
