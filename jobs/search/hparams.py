"""Trials in TensorBoard's HParams page: a log for each, with its settings and what its epochs gave."""

import json
import time
from typing import Any

from cluster.storage import join
from jobs.search.records import TrialRecord
from jobs.search.trial import trial_folder_name
from jobs.training.history import Epoch
from jobs.training.learning_curve import TensorBoardLog


def log_to_tensorboard(path: str, record: TrialRecord) -> None:
    """Write a trial's log into a folder, a path or URI, for `tensorboard --logdir`; StorageError if it cannot be."""
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.summary import hparams

    with TensorBoardLog(join(path, trial_folder_name(record.number))) as scalars:
        best = {f"best/{key}": record.best_metrics[key] for key in ("accuracy", "macro_f1", "loss") if record.best}
        for summary in hparams({key: _plain(value) for key, value in record.settings.items()}, best):
            scalars.add_event(Event(wall_time=time.time(), summary=summary))
        for name, value in best.items():
            scalars.add_event(scalars.scalar_event(name, value, record.best))
        for epoch in record.epochs:
            scalars.add_epoch(Epoch(**epoch))
        scalars.flush()


def _plain(value: Any) -> str | float | bool:
    """Return a setting as HParams knows it."""
    return value if isinstance(value, str | bool | int | float) else json.dumps(value)
