"""What the trials of a search gave, a file each: written when a trial ends, read when the search goes on."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from cluster.storage import join, list_file_sizes, read_text, write_text
from jobs.config.experiment import Experiment
from jobs.training.history import comparison_key

# The folder of what trials were begun with.
STARTED_FOLDER = "begun"


@dataclass(frozen=True)
class TrialRecord:
    """A trial that has ended.

    number: its place in the search, from 1. settings: by dotted path. status: `finished` ran to its end, `stopped`
    was cut off by the scheduler or the search's limit, `failed` went wrong; reason says why, detail more.
    epochs: what each gave (`jobs.training.history.Epoch`). best: the best of them, from 1; 0 if there is none. ended:
    seconds since 1970. seconds: of training and validating.
    """

    number: int
    settings: dict[str, Any]
    status: Literal["finished", "stopped", "failed"]
    reason: str = ""
    detail: str = ""
    epochs: list[dict[str, Any]] = field(default_factory=list)
    best: int = 0
    ended: float = 0.0
    seconds: float = 0.0

    @property
    def best_metrics(self) -> dict[str, Any]:
        """What the best epoch gave."""
        return self.epochs[self.best - 1] if self.best else {}


class RecordStore:
    """The records in a folder, a path or URI."""

    def __init__(self, path: str) -> None:
        self.path = path

    def read(self) -> list[TrialRecord]:
        """Return all records, by number."""
        names = sorted(name for name in list_file_sizes(self.path) if name.endswith(".json") and "/" not in name)
        return [TrialRecord(**json.loads(read_text(join(self.path, name)))) for name in names]

    def read_started(self) -> dict[int, dict[str, Any]]:
        """Return the settings of all trials that were begun, by number."""
        folder = join(self.path, STARTED_FOLDER)
        names = [name for name in list_file_sizes(folder) if name.endswith(".json")]
        return {int(name[:5]): json.loads(read_text(join(folder, name))) for name in names}

    def write_started(self, number: int, settings: dict[str, Any]) -> None:
        """Keep the settings of a trial that begins."""
        write_text(join(self.path, STARTED_FOLDER, f"{number:05d}.json"), json.dumps(settings) + "\n")

    def write(self, record: TrialRecord) -> None:
        """Keep a record; StorageError if it cannot be written."""
        write_text(join(self.path, f"{record.number:05d}.json"), json.dumps(asdict(record)) + "\n")


def objective_metric(experiment: Experiment) -> str:
    """Return what trials are compared by, one of `Epoch`'s figures."""
    return experiment.tune.metric or experiment.train.metric


def ranking_key(figures: dict[str, Any], metric: str, number: int) -> tuple[float, float, int]:
    """Return what epochs of several trials are compared by, more is better; among equals the earlier trial's."""
    return *comparison_key(figures, metric), -number


def select_best_record(records: Iterable[TrialRecord], metric: str) -> TrialRecord | None:
    """Return the record with the best epoch, if any has one."""
    return max(
        (each for each in records if each.best),
        key=lambda each: ranking_key(each.best_metrics, metric, each.number),
        default=None,
    )
