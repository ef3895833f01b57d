"""Learning rates of the steps of an epoch, and the factors of Adam's steps, computed on the host in advance.

Step t of Adam with learning rate r is value -= r / (1 - beta1^t) * mean / (sqrt(mean_square) / sqrt(1 - beta2^t) + eps)
(Kingma & Ba 2015); AdamW first multiplies the value by 1 - r * weight_decay (Loshchilov & Hutter 2019). Columns of a
row: factor, correction and decay of the dense parameters; factor and correction of the word vectors.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from jobs.model.lazy_adam import BETAS

if TYPE_CHECKING:  # a GPU machine that only trains needs no pydantic
    from jobs.config.settings import TrainSettings

NUM_RATES = 5


@dataclass(frozen=True)
class LearningRates:
    """Learning rates of consecutive steps, `(steps,)` float64 each, and the weight decay."""

    dense: np.ndarray
    words: np.ndarray
    weight_decay: float = 0.0

    def select(self, first: int, last: int) -> "LearningRates":
        """Return those of the steps from `first` to before `last`."""
        return LearningRates(self.dense[first:last], self.words[first:last], self.weight_decay)

    def at_step(self, step: int) -> tuple[float, float]:
        """Return the learning rates of a step."""
        return float(self.dense[step]), float(self.words[step])

    def compute_factors(self, dense_steps: int, word_steps: int) -> np.ndarray:
        """Return the factors of the steps, `(steps, NUM_RATES)` float32.

        Args:
            dense_steps, word_steps: steps that the two optimizers have taken before.
        """
        numbers = np.arange(1, len(self.dense) + 1)
        columns = [*_correct(self.dense, dense_steps + numbers), 1 - self.dense * self.weight_decay]
        columns += _correct(self.words, word_steps + numbers)
        return np.stack(columns, axis=1).astype(np.float32)


def schedule_rates(settings: "TrainSettings", words: float, epoch: int, steps: int) -> LearningRates:
    """Return the learning rates of all steps of an epoch, from 1.

    Args:
        words: learning rate of the word vectors before its decay.
    """
    done = (epoch - 1 + np.arange(steps) / steps) / settings.epochs  # share of the run before each step
    factor = 1 - done if settings.decay == "linear" else np.ones(steps)
    return LearningRates(settings.learning_rate * factor, words * factor, settings.weight_decay)


def _correct(rates: np.ndarray, steps: np.ndarray) -> list[np.ndarray]:
    return [rates / (1 - BETAS[0] ** steps), 1 / np.sqrt(1 - BETAS[1] ** steps)]
