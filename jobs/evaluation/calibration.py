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
class Curve:
    """A line of the reliability diagram. is_calibrated: with the temperature."""

    name: str
    bins: Bins
    is_calibrated: bool


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


def compute_curves(probabilities: np.ndarray, labels: np.ndarray, temperature: float) -> list[Curve]:
    """Return the lines of the reliability diagram: without the temperature if it is not 1, then with it.

    Args:
        probabilities: `(rows, classes)`, with the temperature. labels: class indices, `(rows,)`.
    """
    sides = [("without temperature", remove_temperature(probabilities, temperature))] if temperature != 1 else []
    sides.append((f"temperature {temperature:.2f}", probabilities))
    all_bins = [(name, compute_bins(values, labels)) for name, values in sides]
    return [Curve(f"{name}, error {bins.error:.3f}", bins, name != "without temperature") for name, bins in all_bins]


def measure_calibration(probabilities: np.ndarray, curves: Sequence[Curve], temperature: float) -> Calibration:
    """Return the calibration of probabilities `(rows, classes)` with a temperature; curves: as of `compute_curves`."""
    confidence = probabilities.max(axis=1).astype(np.float64)
    drawn = np.random.default_rng(0).random((NUM_SIMULATIONS, len(confidence))) < confidence
    return Calibration(
        temperature,
        error=curves[-1].bins.error,
        uncalibrated_error=curves[0].bins.error,
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


def write_calibration(
    folder: Path, checkpoint: Checkpoint, curves: Sequence[Curve], probabilities: np.ndarray
) -> list[str]:
    """Measure, log and write the calibration, and return the section of report.md on it, as lines of Markdown.

    The files are calibration.json and reliability.png.

    Args:
        folder: of the report. curves, probabilities: as of `measure_calibration`.
    """
    calibration = measure_calibration(probabilities, curves, checkpoint.temperature)
    logger.info(calibration.describe())
    save_figure(draw_reliability(curves, checkpoint.experiment.name), folder / "reliability.png")
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
def draw_reliability(curves: Sequence[Curve], name: str) -> "Figure":
    """Return the reliability diagram: the accuracy of each bin over its mean score, with and without temperature.

    Args:
        curves: as of `compute_curves`. name: of the experiment.
    """
    title = f"{shorten_label(name)}: calibration on {curves[0].bins.rows.sum():,} test rows"
    figure = create_figure(6, 6.5, title)
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, label="perfect calibration")
    for curve in curves:
        color, marker = (BLUE, "o") if curve.is_calibrated else (VERMILLION, "^")
        points = curve.bins.confidence, curve.bins.accuracy
        axes.plot(*points, color=color, marker=marker, markersize=5, label=curve.name)
    axes.set(xlabel="mean score of the predicted label", ylabel="share of correct predictions", aspect="equal")
    axes.set(xlim=(0, 1.02), ylim=(0, 1.02))
    add_legend(figure, [axes])
    return figure
