"""Calibration of probabilities: temperature scaling, expected calibration error, reliability diagram.

A checkpoint's temperature divides the logits before softmax (Guo et al. 2017), so that of the texts with a score of
0.8 about 80 % have the predicted label. It changes no label, since all logits of a text are divided by it.

With several labels per text, every pair of a text and a label is a row here: its score is that of the label, and it is
correct if the text has the label. Since most scores are near 0, bins have equal sums of scores, not equal numbers.
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
MAX_DRAWN = 50_000_000  # rows of all simulations; ten times as many take a minute
MIN_SIMULATIONS = 10


@dataclass(frozen=True)
class Bins:
    """Rows sorted by the score of their predicted label, in `NUM_BINS` bins with equal numbers of rows.

    With several labels per text: pairs of a text and a label, in bins with equal sums of scores.

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
    """Return the bins of probabilities and labels; arguments as of `compute_curves`."""
    confidence = _select_confidence(probabilities, is_multi_label=labels.ndim == 2)
    correct = labels.reshape(-1) > 0 if labels.ndim == 2 else probabilities.argmax(axis=1) == labels
    return _make_bins(confidence, correct, _divide(confidence, by_sum=labels.ndim == 2))


def compute_curves(probabilities: np.ndarray, labels: np.ndarray, temperature: float) -> list[Curve]:
    """Return the lines of the reliability diagram: without the temperature if it is not 1, then with it.

    Args:
        probabilities: `(rows, classes)`, with the temperature. labels: class indices, `(rows,)`; or `(rows, labels)` of
            0 and 1.
    """
    sides = []
    if temperature != 1:
        without = remove_temperature(probabilities, temperature, is_multi_label=labels.ndim == 2)
        sides.append(("without temperature", without))
    sides.append((f"temperature {temperature:.2f}", probabilities))
    all_bins = [(name, compute_bins(values, labels)) for name, values in sides]
    return [Curve(f"{name}, error {bins.error:.3f}", bins, name != "without temperature") for name, bins in all_bins]


def measure_calibration(
    probabilities: np.ndarray, curves: Sequence[Curve], temperature: float, *, is_multi_label: bool = False
) -> Calibration:
    """Return the calibration of probabilities `(rows, classes)` with a temperature; curves: as of `compute_curves`."""
    confidence = _select_confidence(probabilities, is_multi_label=is_multi_label)
    parts = _divide(confidence, by_sum=is_multi_label)
    random = np.random.default_rng(0)
    count = min(NUM_SIMULATIONS, max(MIN_SIMULATIONS, MAX_DRAWN // len(confidence)))
    drawn = (random.random(len(confidence)) < confidence for _ in range(count))
    return Calibration(
        temperature,
        error=curves[-1].bins.error,
        uncalibrated_error=curves[0].bins.error,
        chance_error=float(np.mean([_make_bins(confidence, correct, parts).error for correct in drawn])),
    )


def remove_temperature(probabilities: np.ndarray, temperature: float, *, is_multi_label: bool = False) -> np.ndarray:
    """Return the probabilities without the temperature, `(rows, classes)` float64."""
    if is_multi_label:
        from scipy.special import expit, logit

        return np.asarray(expit(logit(probabilities.astype(np.float64)) * temperature))
    with np.errstate(divide="ignore"):
        logits = np.log(probabilities.astype(np.float64)) * temperature
    return softmax(logits)


def _select_confidence(probabilities: np.ndarray, *, is_multi_label: bool) -> np.ndarray:
    """Return the scores of predicted labels, `(rows,)`; of several labels per text, of all pairs, `(pairs,)`."""
    return (probabilities.reshape(-1) if is_multi_label else probabilities.max(axis=1)).astype(np.float64)


def _divide(confidence: np.ndarray, *, by_sum: bool) -> list[np.ndarray]:
    """Return the indices of the rows of each bin that has some; by_sum: bins have equal sums of scores."""
    order = np.argsort(confidence, kind="stable")
    if by_sum:
        sums = confidence[order].cumsum()
        parts = np.split(order, np.searchsorted(sums, sums[-1] * np.arange(1, NUM_BINS) / NUM_BINS))
    else:
        parts = np.array_split(order, NUM_BINS)
    return [part for part in parts if len(part)]


def _make_bins(confidence: np.ndarray, correct: np.ndarray, parts: Sequence[np.ndarray]) -> Bins:
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
    is_multi_label = checkpoint.is_multi_label
    calibration = measure_calibration(probabilities, curves, checkpoint.temperature, is_multi_label=is_multi_label)
    logger.info(calibration.describe())
    save_figure(
        draw_reliability(curves, checkpoint.experiment.name, is_multi_label=is_multi_label), folder / "reliability.png"
    )
    write_json(str(folder / "calibration.json"), asdict(calibration))
    rows = "The rows are sorted by the score of their predicted label"
    if is_multi_label:
        rows = "All pairs of a text and a label are sorted by the score of the label"
    return [
        "## Calibration",
        "",
        f"The {calibration.describe()}. {rows} and divided into "
        f"{describe_bins(is_multi_label=is_multi_label)}; the error is the mean difference of a bin's accuracy and its "
        "mean score. A perfectly calibrated classifier has the error by chance on as many rows.",
        "",
        "![reliability diagram](reliability.png)",
        "",
    ]


def describe_bins(*, is_multi_label: bool) -> str:
    """Return the number of bins and their sizes as text."""
    return f"{NUM_BINS} bins with equal {'sums of scores' if is_multi_label else 'numbers of rows'}"


def name_axes(*, is_multi_label: bool) -> tuple[str, str]:
    """Return the labels of both axes of the reliability diagram."""
    if is_multi_label:
        return "mean score of a label", "share of texts with the label"
    return "mean score of the predicted label", "share of correct predictions"


@figure_style()
def draw_reliability(curves: Sequence[Curve], name: str, *, is_multi_label: bool = False) -> "Figure":
    """Return the reliability diagram: the accuracy of each bin over its mean score, with and without temperature.

    Args:
        curves: as of `compute_curves`. name: of the experiment.
    """
    kind = "pairs of a test row and a label" if is_multi_label else "test rows"
    title = f"{shorten_label(name)}: calibration on {curves[0].bins.rows.sum():,} {kind}"
    figure = create_figure(6, 6.5, title)
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, label="perfect calibration")
    for curve in curves:
        color, marker = (BLUE, "o") if curve.is_calibrated else (VERMILLION, "^")
        points = curve.bins.confidence, curve.bins.accuracy
        axes.plot(*points, color=color, marker=marker, markersize=5, label=curve.name)
    xlabel, ylabel = name_axes(is_multi_label=is_multi_label)
    axes.set(xlabel=xlabel, ylabel=ylabel, aspect="equal")
    axes.set(xlim=(0, 1.02), ylim=(0, 1.02))
    add_legend(figure, [axes])
    return figure
