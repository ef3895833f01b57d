"""Metrics of the validation part, with one and with several labels per text."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, f1_score, matthews_corrcoef

from jobs.config.experiment import Experiment
from jobs.evaluation.metrics import LogitSample
from jobs.training.validation import Metrics, Validation, score_texts
from tests.support.loops import make_loop
from tests.support.torch_network import predict_logits

LABELS = np.array([[1, 0], [1, 0], [0, 1], [0, 1], [0, 0], [1, 1]])
LOGITS = np.array([[3, -4], [1, -4], [0, 2], [-2, -1], [-3, -3], [2, 4]], np.float32)


def measure(**settings: Any) -> Metrics:
    sample = LogitSample(LABELS, 2)
    train = Experiment.model_validate({"train": settings}).train
    validation = Validation(LABELS, sample, train, ["price", "sound"])
    validation.add(np.arange(len(LABELS)), torch.from_numpy(LOGITS))
    return validation.measure()[0]


def measure_selected(is_selected: np.ndarray) -> tuple[float, float]:
    """Return the micro F1 and the share of texts whose labels are all correct."""
    correct = (is_selected & (LABELS == 1)).sum()
    return 2 * correct / (is_selected.sum() + LABELS.sum()), (is_selected == (LABELS == 1)).all(axis=1).mean()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("thresholds", [0.2, 0.9, {"sound": 0.3, "price": 0.8}])
def test_fixed_thresholds_apply_to_scores_with_the_temperature(temperature: float, thresholds: Any) -> None:
    values = np.array([0.8, 0.3]) if isinstance(thresholds, dict) else thresholds
    is_selected = 1 / (1 + np.exp(-LOGITS / temperature)) >= values
    metrics = measure(thresholds=thresholds, temperature=temperature)
    assert (metrics.micro_f1, metrics.accuracy) == pytest.approx(measure_selected(is_selected))


def test_with_one_label_per_text_the_metrics_are_those_of_scikit_learn() -> None:
    labels, predicted = np.array([0, 0, 0, 0, 1, 2]), np.array([0, 0, 0, 1, 1, 0])
    validation = Validation(labels, LogitSample(labels, 3), Experiment().train, ["a", "b", "c"])
    validation.add(np.arange(6), torch.from_numpy(np.eye(3, dtype=np.float32)[predicted]))
    metrics = validation.measure()[0]
    assert metrics.macro_f1 == pytest.approx(f1_score(labels, predicted, average="macro"))
    assert metrics.balanced_accuracy == pytest.approx(balanced_accuracy_score(labels, predicted))
    assert metrics.matthews_correlation == pytest.approx(matthews_corrcoef(labels, predicted))
    assert metrics.micro_f1 is None


def test_without_fixed_thresholds_one_is_chosen_for_the_objective() -> None:
    """Micro F1 is best with one wrong label, which a precision of 0.99 excludes."""
    assert measure().micro_f1 == pytest.approx(measure_selected(LOGITS >= -1)[0])
    precise = measure(threshold_objective=0.99)
    assert precise.micro_f1 == pytest.approx(measure_selected(LOGITS >= 1)[0])


def test_scores_of_texts_are_those_of_the_network(make_experiment: Callable[..., Experiment]) -> None:
    """In the order of the texts, which are batched by length."""
    loop = make_loop(make_experiment())
    tokens = loop.corpus.train.tokens
    torch.testing.assert_close(score_texts(loop, tokens), predict_logits(loop.network, tokens))
