"""Calibration of probabilities: temperature scaling, expected calibration error, reliability diagram.

A checkpoint's temperature divides the logits before softmax (Guo et al. 2017), so that of the texts with a score of
0.8 about 80 % have the predicted label. It changes no label, since all logits of a text are divided by it.
"""

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cluster.storage import write_json
from jobs.evaluation.metrics import softmax
from jobs.evaluation.reports.figures import (
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
    return softmax(logits)


def _make_bins(confidence: np.ndarray, correct: np.ndarray) -> Bins:
    order = np.argsort(confidence, kind="stable")
    parts = [part for part in np.array_split(order, NUM_BINS) if len(part)]
    means = [(confidence[part].mean(), correct[part].mean(), len(part)) for part in parts]
    return Bins(*(np.array(values) for values in zip(*means, strict=True)))


def write_calibration(folder: Path, checkpoint: Checkpoint, labels: np.ndarray, probabilities: np.ndarray) -> list[str]:
    """Measure, log and write the calibration, and return the section of report.md on it, as lines of Markdown.

    The files are calibration.json and reliability.png.

    Args:
        folder: of the report. labels: class indices of the test rows, `(rows,)`; probabilities: `(rows, classes)`.
    """
    calibration = measure_calibration(probabilities, labels, checkpoint.temperature)
    logger.info(calibration.describe())
    figure = draw_reliability(probabilities, labels, checkpoint.temperature, checkpoint.experiment.name)
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
