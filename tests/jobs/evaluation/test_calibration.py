"""Calibration: the fitted temperature, the expected calibration error, the reliability diagram."""

import json
import tracemalloc
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from jobs.evaluation import metrics
from jobs.evaluation.calibration import (
    NUM_BINS,
    NUM_SIMULATIONS,
    Calibration,
    compute_bins,
    compute_curves,
    draw_reliability,
    measure_calibration,
    remove_temperature,
    write_calibration,
)
from jobs.evaluation.metrics import PRIOR_DEVIATION, LogitSample, fit_temperature
from tests.support.checkpoints import checkpoint_of


def softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def draw(rows: int, temperature: float, classes: int = 4, scale: float = 3) -> tuple[np.ndarray, np.ndarray]:
    """Return logits, and labels that are drawn with the probabilities of the logits at a temperature."""
    random = np.random.default_rng(0)
    logits = scale * random.normal(size=(rows, classes))
    cumulated = softmax(logits / temperature).cumsum(axis=1)
    return logits, (random.random((rows, 1)) > cumulated).sum(axis=1).clip(max=classes - 1)


def measure(probabilities: np.ndarray, labels: np.ndarray, temperature: float) -> Calibration:
    return measure_calibration(probabilities, compute_curves(probabilities, labels, temperature), temperature)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_the_temperature_of_the_labels_is_found(temperature: float) -> None:
    """Many rows have the temperature that the labels were drawn with."""
    assert fit_temperature(*draw(20_000, temperature)) == pytest.approx(temperature, rel=0.05)


@pytest.mark.parametrize(("rows", "scale"), [(3, 1), (50, 3), (300, 30), (300, 1e-3)])
def test_the_temperature_minimizes_cross_entropy_and_prior(rows: int, scale: float) -> None:
    """The minimum is that of scipy; labels at chance, where none is best, have a finite one."""
    logits, _ = draw(rows, 1, scale=scale)
    labels = np.random.default_rng(1).integers(0, 4, rows)

    def loss(inverse: float) -> float:
        chosen = softmax(inverse * logits)[np.arange(rows), labels]
        return float(-np.log(np.maximum(chosen, 1e-300)).sum() + (inverse - 1) ** 2 / (2 * PRIOR_DEVIATION**2))

    expected = minimize_scalar(loss, bounds=(0.05, 20), method="bounded", options={"xatol": 1e-9}).x
    assert 1 / fit_temperature(logits, labels) == pytest.approx(expected, rel=1e-4)


def test_a_few_correct_rows_do_not_make_every_prediction_certain() -> None:
    logits, _ = draw(10, 1)
    temperature = fit_temperature(logits, logits.argmax(axis=1))
    assert 0.4 < temperature < 1


def test_a_temperature_is_fitted_to_a_part_of_many_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows may be added in any order."""
    logits, labels = draw(1001, 2)
    fitted = []
    for limit in (10_000, 1000):
        monkeypatch.setattr(metrics, "MAX_FITTED_VALUES", limit)
        sample = LogitSample(labels, logits.shape[1])
        for rows in np.array_split(np.random.default_rng(2).permutation(len(logits)), 7):
            sample.add(rows, logits[rows])
        fitted.append(sample.fit_temperature())
    assert fitted[0] == fit_temperature(logits, labels)
    assert fitted[1] == fit_temperature(logits[::5], labels[::5])


def test_with_several_labels_only_the_temperature_is_fitted_to_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thresholds of rare labels are chosen on all rows."""
    logits = draw(1001, 2)[0].astype(np.float32)
    labels = (np.random.default_rng(3).random(logits.shape) < 1 / (1 + np.exp(-logits))).astype(np.uint8)
    monkeypatch.setattr(metrics, "MAX_FITTED_VALUES", 1000)
    sample = LogitSample(labels, logits.shape[1])
    sample.add(np.arange(len(logits)), logits)
    assert np.array_equal(sample.logits, logits)
    assert np.array_equal(sample.labels, labels)
    assert sample.fit_temperature() == fit_temperature(logits[::5], labels[::5])


def test_a_temperature_is_fitted_once_to_the_same_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thresholds of the settings need it for the metrics of an epoch, and the checkpoint stores it."""
    fit = Mock(wraps=fit_temperature)
    monkeypatch.setattr(metrics, "fit_temperature", fit)
    logits, labels = draw(50, 2)
    sample = LogitSample(labels, logits.shape[1])
    sample.add(np.arange(50), logits)
    assert sample.fit_temperature() == sample.fit_temperature()
    assert fit.call_count == 1
    sample.add(np.arange(50), 2 * logits)
    assert sample.fit_temperature() == fit_temperature(2 * logits, labels)
    assert fit.call_count == 2


def test_the_error_is_the_mean_difference_of_score_and_accuracy() -> None:
    """Bins have equal numbers of rows; fewer rows than bins are a bin each."""
    confidence = np.repeat([0.6, 0.9], [NUM_BINS * 20, NUM_BINS * 10])
    correct = np.tile([True, False], len(confidence) // 2)
    probabilities = np.stack([confidence, 1 - confidence], axis=1)
    bins = compute_bins(probabilities, np.where(correct, 0, 1))
    assert bins.rows.tolist() == [30] * NUM_BINS
    assert bins.error == pytest.approx((0.1 * 2 + 0.4) / 3)
    few = compute_bins(np.array([[0.75, 0.25], [0.2, 0.8]]), np.array([0, 0]))
    assert few.rows.tolist() == [1, 1]
    assert few.error == pytest.approx((0.25 + 0.8) / 2)


def test_the_error_by_chance_is_that_of_labels_drawn_with_the_scores() -> None:
    """With the right temperature the error is what chance explains, without it far larger."""
    logits, labels = draw(2000, 2.0)
    probabilities = softmax(logits / 2).astype(np.float32)
    measured = measure(probabilities, labels, 2.0)
    assert measured.error == pytest.approx(measured.chance_error, abs=0.01)
    assert measured.uncalibrated_error > 4 * measured.chance_error
    assert measured.uncalibrated_error == pytest.approx(compute_bins(softmax(logits), labels).error, abs=1e-5)
    np.testing.assert_allclose(remove_temperature(probabilities, 2.0), softmax(logits), atol=1e-5)
    assert "without the temperature 2.000" in measured.describe()
    assert "without" not in measure(probabilities, labels, 1.0).describe()


def test_with_several_labels_every_pair_of_a_text_and_a_label_is_measured(tmp_path: Path) -> None:
    """Bins have equal sums of scores: those with equal numbers of rows would nearly all have scores near 0."""
    random = np.random.default_rng(0)
    logits = random.normal(-3, 2, (500, 20))
    labels = (random.random(logits.shape) < 1 / (1 + np.exp(-logits / 2))).astype(np.uint8)
    probabilities = (1 / (1 + np.exp(-logits / 2))).astype(np.float32)
    without, own = compute_curves(probabilities, labels, 2.0)
    assert len(own.bins.rows) == NUM_BINS
    assert own.bins.rows.sum() == labels.size
    sums = own.bins.confidence * own.bins.rows
    assert sums.max() < 1.1 * sums.min()
    assert own.bins.confidence[-1] > 0.6
    expected = np.abs(own.bins.confidence - own.bins.accuracy) @ own.bins.rows / labels.size
    assert own.bins.error == pytest.approx(expected)
    checkpoint = replace(checkpoint_of("static", **{"data.multi_label": True}), metrics={"temperature": 2.0})
    section = "\n".join(write_calibration(tmp_path, checkpoint, [without, own], probabilities))
    assert "All pairs of a text and a label are sorted by the score of the label" in section
    assert "15 bins with equal sums of scores" in section
    values = json.loads((tmp_path / "calibration.json").read_text())
    assert values["error"] == own.bins.error < 2 * values["chance_error"]
    assert values["uncalibrated_error"] == without.bins.error > 5 * values["error"]
    np.testing.assert_allclose(
        remove_temperature(probabilities, 2.0, is_multi_label=True), 1 / (1 + np.exp(-logits)), atol=1e-5
    )
    [axes] = draw_reliability([without, own], "name", is_multi_label=True).axes
    assert axes.get_ylabel() == "share of texts with the label"


def test_the_error_by_chance_of_many_rows_takes_the_memory_of_one_simulation() -> None:
    """And it is that of all simulations drawn at once, which would take 36 MB here."""
    logits, labels = draw(20_000, 1.0)
    probabilities = softmax(logits)
    confidence, curves = probabilities.max(axis=1), compute_curves(probabilities, labels, 1.0)
    tracemalloc.start()
    try:
        measured = measure_calibration(probabilities, curves, 1.0)
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()
    drawn = np.random.default_rng(0).random((NUM_SIMULATIONS, len(confidence))) < confidence
    predicted = probabilities.argmax(axis=1)
    errors = [compute_bins(probabilities, np.where(correct, predicted, -1)).error for correct in drawn]
    assert measured.chance_error == np.mean(errors)


def test_scores_of_zero_have_no_logarithm() -> None:
    """Float32 has no smaller number than 1e-45."""
    assert remove_temperature(np.array([[1, 0]], np.float32), 2.0).tolist() == [[1, 0]]


def test_the_report_has_the_errors_and_a_diagram_with_both_sides(tmp_path: Path) -> None:
    logits, numbers = draw(60, 2.0, classes=3)
    checkpoint = replace(checkpoint_of("static"), metrics={"temperature": 2.0})
    probabilities = softmax(logits / 2)
    section = write_calibration(tmp_path, checkpoint, compute_curves(probabilities, numbers, 2.0), probabilities)
    values = json.loads((tmp_path / "calibration.json").read_text())
    assert values == vars(measure(probabilities, numbers, 2.0))
    assert any(f"expected calibration error {values['error']:.4f}" in line for line in section)
    assert (tmp_path / "reliability.png").read_bytes().startswith(b"\x89PNG")
    [axes] = draw_reliability(compute_curves(probabilities, numbers, 2.0), "name").axes
    labels = [str(line.get_label()) for line in axes.lines]
    before, after = values["uncalibrated_error"], values["error"]
    assert labels[1:] == [f"without temperature, error {before:.3f}", f"temperature 2.00, error {after:.3f}"]
    [axes] = draw_reliability(compute_curves(probabilities, numbers, 1.0), "name").axes
    assert len(axes.lines) == 2
