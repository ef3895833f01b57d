"""Records of made-up trials."""

import random

import numpy as np

from jobs.config.experiment import Experiment
from jobs.search.records import TrialRecord

SPACE = {
    "model.embedding": {"grid": ["static", "non-static"]},
    "model.dropout": {"uniform": [0.0, 0.8]},
    "model.feature_maps": {"choice": [50, 100]},
    "train.vectors_learning_rate": {"loguniform": [1e-4, 1e-2]},
}


EXPERIMENT = Experiment().replace({"tune.space": SPACE})


def record(number: int, settings: dict, accuracy: float | None) -> TrialRecord:
    epochs = []
    if accuracy is not None:
        epochs = [{"epoch": 1, "accuracy": accuracy, "loss": 1 - accuracy, "macro_f1": accuracy, "train_loss": 0.1,
                   "examples_per_second": 10.0, "seconds": 0.5}]  # fmt: skip
    return TrialRecord(
        number, settings, "finished" if epochs else "failed", epochs=epochs, best=len(epochs), seconds=0.5
    )


def records(count: int) -> list[TrialRecord]:
    """Trials whose accuracy falls with dropout, and with the vectors' rate where there is one."""
    chance = random.Random(0)
    found = []
    for number in range(1, count + 1):
        settings = {
            "model.embedding": chance.choice(["static", "non-static"]),
            "model.dropout": chance.uniform(0, 0.8),
            "model.feature_maps": chance.choice([50, 100]),
        }
        accuracy = 0.9 - 0.5 * settings["model.dropout"] ** 2 + chance.gauss(0, 0.001)
        if settings["model.embedding"] == "non-static":
            settings["train.vectors_learning_rate"] = 10 ** chance.uniform(-4, -2)
            accuracy -= 0.1 * (np.log10(settings["train.vectors_learning_rate"]) + 4)
        found.append(record(number, settings, accuracy))
    return found
