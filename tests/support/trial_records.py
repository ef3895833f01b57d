"""Records of made-up trials."""

import random
from typing import Any

import numpy as np

from jobs.config.experiment import Experiment
from jobs.search.records import TrialRecord
from jobs.training.history import Epoch

SPACE = {
    "model.embedding": {"grid": ["static", "non-static"]},
    "model.dropout": {"uniform": [0.0, 0.8]},
    "model.feature_maps": {"choice": [50, 100]},
    "train.vectors_learning_rate": {"loguniform": [1e-4, 1e-2]},
}


EXPERIMENT = Experiment().replace({"tune.space": SPACE})


def make_epoch(number: int, accuracy: float, loss: float | None = None) -> Epoch:
    """Return an epoch of half a second; the loss is 1 - accuracy by default."""
    return Epoch(
        epoch=number,
        train_loss=0.1,
        loss=1 - accuracy if loss is None else loss,
        accuracy=accuracy,
        macro_f1=accuracy,
        examples_per_second=10.0,
        seconds=0.5,
    )


def make_record(number: int, settings: dict[str, Any], accuracy: float | None, ended: float = 0.0) -> TrialRecord:
    """Return the record of a trial with one epoch of this accuracy; of a failed trial if it is None."""
    epochs = [] if accuracy is None else [make_epoch(1, accuracy)]
    status = "finished" if epochs else "failed"
    return TrialRecord(number, settings, status, epochs=epochs, best=len(epochs), ended=ended, seconds=0.5)


def make_records(count: int) -> list[TrialRecord]:
    """Return trials whose accuracy falls with dropout, and with the vectors' learning rate where there is one."""
    generator = random.Random(0)
    records = []
    for number in range(1, count + 1):
        settings = {
            "model.embedding": generator.choice(["static", "non-static"]),
            "model.dropout": generator.uniform(0, 0.8),
            "model.feature_maps": generator.choice([50, 100]),
        }
        accuracy = 0.9 - 0.5 * settings["model.dropout"] ** 2 + generator.gauss(0, 0.001)
        if settings["model.embedding"] == "non-static":
            settings["train.vectors_learning_rate"] = 10 ** generator.uniform(-4, -2)
            accuracy -= 0.1 * (np.log10(settings["train.vectors_learning_rate"]) + 4)
        records.append(make_record(number, settings, accuracy))
    return records
