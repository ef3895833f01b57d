"""Trials in TensorBoard's HParams page: a log for each, with its settings and what its epochs gave."""

import json
import time
from typing import Any

from cluster.storage import join
from jobs.search.records import Record
from jobs.search.trial import folder_of
from jobs.training.history import Epoch
from jobs.training.learning_curve import Scalars


def log(path: str, record: Record) -> None:
    """Write a trial's log into a folder, a path or URI, for `tensorboard --logdir`; StorageError if it cannot be."""
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.summary import hparams

    with Scalars(join(path, folder_of(record.number))) as scalars:
        best = {f"best/{key}": record.figures[key] for key in ("accuracy", "macro_f1", "loss") if record.best}
        for summary in hparams({key: _plain(value) for key, value in record.settings.items()}, best):
            scalars.write(Event(wall_time=time.time(), summary=summary))
        for name, value in best.items():
            scalars.write(scalars.event(name, value, record.best))
        for epoch in record.epochs:
            scalars.note(Epoch(**epoch))
        scalars.bring()


def _plain(value: Any) -> str | float | bool:
    """Return a setting as HParams knows it."""
    return value if isinstance(value, str | bool | int | float) else json.dumps(value)
