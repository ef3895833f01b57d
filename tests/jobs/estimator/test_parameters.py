"""Parameters of the estimator: settings that it cannot use, and searches of a parameter."""

from typing import Any

import pytest

from jobs.config.experiment import ExperimentError
from jobs.estimator.text_cnn import TextCNNClassifier

TEXTS, LABELS = ["a good film", "a bad film"] * 20, ["good", "bad"] * 20


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model.dropout": 0.9}, r"model\.dropout is the parameter dropout; set that, and remove it from settings"),
        ({"vectors.path": "v.bin"}, r"vectors\.path is the parameter vectors"),
        ({"seed": 1}, "seed is the parameter random_state"),
        ({"train.workers": 4}, r"train\.workers is the parameter n_workers"),
        ({"train.class_weights.good": 2.0}, r"train\.class_weights is the parameter class_weight"),
        ({"train": {"weight_decay": 0.1}}, "epochs; set that, and name single settings by dotted path"),
        ({"data.validation": "/nonexistent.csv"}, "'data.validation' has no effect, since the rows are in memory"),
        ({"data.out_of_scope": "/nonexistent.csv"}, "'data.out_of_scope' has no effect"),
        ({"data": {"validation_share": 0.2}}, "'data' has no effect"),
    ],
)
def test_settings_without_effect_and_those_of_parameters_are_errors(settings: dict[str, Any], message: str) -> None:
    """Otherwise a search of the parameter would train with the same value each time."""
    model = TextCNNClassifier(embedding="rand", settings=settings)
    for method in (model.fit, model.tune, model.train_loop_config, model.trainable):
        with pytest.raises(ExperimentError, match=message):
            method(TEXTS, LABELS)
