"""Calibration of probabilities: temperature scaling, expected calibration error, reliability diagram.

A checkpoint's temperature divides the logits before softmax (Guo et al. 2017), so that of the texts with a score of
0.8 about 80 % have the predicted label. It changes no label, since all logits of a text are divided by it.
"""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cluster.storage import write_json
from jobs.config.settings import MAX_TEMPERATURE, MIN_TEMPERATURE
from jobs.evaluation.figures import (
    BLUE,
    GREY,
    VERMILLION,
    add_legend,
    create_figure,
    figure_style,
    save_figure,
    shorten_label,
)
from jobs.model.checkpoint import Checkpoint

if TYPE_CHECKING:
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)

NUM_BINS = 15
NUM_SIMULATIONS = 200

# Standard deviation of the prior of the inverse temperature, whose mean is 1. With hundreds of validation rows it has
# no effect. Without it, a few rows that are all predicted correctly would make every prediction certain.
PRIOR_DEVIATION = 0.5
MAX_FITTED_VALUES = 5_000_000  # logits that a temperature is fitted to; more change only its last digits
MAX_ITERATIONS = 50


class LogitSample:
    """Logits of validation rows that a temperature is fitted to: of all rows, or of rows at equal distances."""

    def __init__(self, num_rows: int, num_classes: int) -> None:
        self._stride = -(-num_rows * num_classes // MAX_FITTED_VALUES)
        self._logits = np.zeros((len(range(0, num_rows, self._stride)), num_classes))

    def add(self, rows: np.ndarray, logits: np.ndarray) -> None:
        """Add the logits `(len(rows), classes)` of some rows, given by their numbers."""
        is_sampled = rows % self._stride == 0
        self._logits[rows[is_sampled] // self._stride] = logits[is_sampled]

    def fit_temperature(self, labels: np.ndarray) -> float:
        """Return the temperature; labels: class indices of all validation rows, `(rows,)`."""
        return fit_temperature(self._logits, labels[:: self._stride])


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the temperature with which the probabilities have the least cross-entropy.

    The loss is convex in the inverse temperature; Newton's method with bisection finds its minimum.

    Args:
        logits: `(rows, classes)`, finite. labels: class indices, `(rows,)`.
    """
    margins = logits.astype(np.float64) - logits[np.arange(len(labels)), labels][:, None]
    low, high, inverse = 1 / MAX_TEMPERATURE, 1 / MIN_TEMPERATURE, 1.0
    for _ in range(MAX_ITERATIONS):
        probabilities = _softmax(inverse * margins)
        means = (probabilities * margins).sum(axis=1)  # derivative of each row's loss
        slope = means.sum() + (inverse - 1) / PRIOR_DEVIATION**2
        variances = (probabilities * margins**2).sum() - (means**2).sum()
        low, high = (low, inverse) if slope > 0 else (inverse, high)
        previous, inverse = inverse, float(inverse - slope / (variances + PRIOR_DEVIATION**-2))
        if not low <= inverse <= high:
            inverse = (low + high) / 2
        if abs(inverse - previous) < 1e-9:
            break
    return 1 / inverse


@dataclass(frozen=True)
class Bins:
    """Rows sorted by the score of their predicted label, in `NUM_BINS` bins with equal numbers of rows.

    confidence: mean score; accuracy: share of correct predictions; rows: number; `(bins,)` each, without empty bins.
    """

    confidence: np.ndarray
    accuracy: np.ndarray
    rows: np.ndarray

    @property
    def error(self) -> float:
        """Expected calibration error: the mean of the bins' differences of score and accuracy, weighted by rows."""
        return float(np.average(np.abs(self.confidence - self.accuracy), weights=self.rows))


@dataclass(frozen=True)
class Calibration:
    """Calibration on a test part, with the checkpoint's temperature and without it.

    error, uncalibrated_error: expected calibration errors. chance_error: mean error of a perfectly calibrated
    classifier with the same scores, since even that differs from its scores on few rows.
    """

    temperature: float
    error: float
    uncalibrated_error: float
    chance_error: float

    def describe(self) -> str:
        """Return the errors as text."""
        before = "" if self.temperature == 1 else f" ({self.uncalibrated_error:.4f} without the temperature"
        before += f" {self.temperature:.3f})" if before else ""
        return f"expected calibration error {self.error:.4f}{before}; by chance about {self.chance_error:.4f}"


def compute_bins(probabilities: np.ndarray, labels: np.ndarray) -> Bins:
    """Return the bins of probabilities `(rows, classes)` and class indices `(rows,)`."""
    confidence = probabilities.max(axis=1).astype(np.float64)
    return _make_bins(confidence, probabilities.argmax(axis=1) == labels)


def measure_calibration(probabilities: np.ndarray, labels: np.ndarray, temperature: float) -> Calibration:
    """Return the calibration of probabilities `(rows, classes)` with a temperature, and class indices `(rows,)`."""
    confidence = probabilities.max(axis=1).astype(np.float64)
    drawn = np.random.default_rng(0).random((NUM_SIMULATIONS, len(labels))) < confidence
    return Calibration(
        temperature,
        error=compute_bins(probabilities, labels).error,
        uncalibrated_error=compute_bins(remove_temperature(probabilities, temperature), labels).error,
        chance_error=float(np.mean([_make_bins(confidence, correct).error for correct in drawn])),
    )


def remove_temperature(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Return the probabilities without the temperature, `(rows, classes)` float64."""
    with np.errstate(divide="ignore"):
        logits = np.log(probabilities.astype(np.float64)) * temperature
    return _softmax(logits)


def _make_bins(confidence: np.ndarray, correct: np.ndarray) -> Bins:
    order = np.argsort(confidence, kind="stable")
    parts = [part for part in np.array_split(order, NUM_BINS) if len(part)]
    means = [(confidence[part].mean(), correct[part].mean(), len(part)) for part in parts]
    return Bins(*(np.array(values) for values in zip(*means, strict=True)))


def _softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True))


def write_calibration(
    folder: Path, checkpoint: Checkpoint, labels: Sequence[str], probabilities: np.ndarray
) -> list[str]:
    """Measure, log and write the calibration, and return the section of report.md on it, as lines of Markdown.

    The files are calibration.json and reliability.png.

    Args:
        folder: of the report. labels: of the test rows; probabilities: `(rows, classes)`.
    """
    indices = {label: index for index, label in enumerate(checkpoint.labels)}
    true = np.array([indices[label] for label in labels])
    calibration = measure_calibration(probabilities, true, checkpoint.temperature)
    logger.info(calibration.describe())
    figure = draw_reliability(probabilities, true, checkpoint.temperature, checkpoint.experiment.name)
    save_figure(figure, folder / "reliability.png")
    write_json(str(folder / "calibration.json"), asdict(calibration))
    return [
        "## Calibration",
        "",
        f"The {calibration.describe()}. The rows are sorted by the score of their predicted label and divided into "
        f"{NUM_BINS} bins with equal numbers of rows; the error is the mean difference of a bin's accuracy and its "
        "mean score. A perfectly calibrated classifier has the error by chance on as many rows.",
        "",
        "![reliability diagram](reliability.png)",
        "",
    ]


@figure_style()
def draw_reliability(probabilities: np.ndarray, labels: np.ndarray, temperature: float, name: str) -> "Figure":
    """Return the reliability diagram: the accuracy of each bin over its mean score, with and without temperature.

    Args:
        probabilities, labels, temperature: as of `measure_calibration`. name: of the experiment.
    """
    figure = create_figure(6, 6.5, f"{shorten_label(name)}: calibration on {len(labels):,} test rows")
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, label="perfect calibration")
    sides = [(probabilities, BLUE, "o", f"temperature {temperature:.2f}")]
    if temperature != 1:
        sides.insert(0, (remove_temperature(probabilities, temperature), VERMILLION, "^", "without temperature"))
    for values, color, marker, label in sides:
        bins = compute_bins(values, labels)
        axes.plot(
            bins.confidence,
            bins.accuracy,
            color=color,
            marker=marker,
            markersize=5,
            label=f"{label}, error {bins.error:.3f}",
        )
    axes.set(xlabel="mean score of the predicted label", ylabel="share of correct predictions", aspect="equal")
    axes.set(xlim=(0, 1.02), ylim=(0, 1.02))
    add_legend(figure, [axes])
    return figure
