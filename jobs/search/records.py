"""Records of a search's trials: a JSON file each, written when a trial ends and read when the search resumes."""

import base64
import json
import time
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from cluster.storage import exists, join, list_file_sizes, read_text, write_json, write_text
from jobs.config.experiment import Experiment
from jobs.config.label_thresholds import OPTIONAL_METRICS
from jobs.training.history import Epoch, Progress, comparison_key, negate_if_minimized

# Folder of the settings of trials that were started.
STARTED_FOLDER = "begun"

# File of the seconds that commands spent on the search, in the folder of the records.
ELAPSED_FILE = "elapsed.txt"

# Predictions of more rows are not recorded: the choice of so many rows hardly matters.
MAX_RECORDED_ROWS = 100_000

# Key of a trial's number in its configuration in Tune; the other keys are its settings.
NUMBER_KEY = "trial"

# Key of the report in a result of Tune. The driver removes it before other callbacks see the result.
REPORT_KEY = "report"

# Metrics of the best epoch in a result of Tune, as `best/loss`.
BEST_METRICS = ("epoch", "accuracy", "macro_f1", "loss")

RankingKey = tuple[float, float, int]
"""Key that epochs of all trials of a search are compared by; the greater one is better."""


@dataclass(frozen=True)
class TrialReport:
    """State of a trial after an epoch, or when it failed, as it is reported to Ray Tune.

    finished: no further epoch follows. error: why the trial failed, in one line; empty if it did not. detail: more
    about the error. predicted: as of `TrialRecord`.
    """

    progress: Progress
    finished: bool = False
    error: str = ""
    detail: str = ""
    predicted: str = ""

    def to_tune_result(self, metric: str) -> dict[str, Any]:
        """Return the result for Tune: numbers of the last epoch and of the best one, and the report itself.

        `objective` is the last epoch's metric, greater is better.
        """
        result: dict[str, Any] = {"finished": self.finished, "failed": self.error, REPORT_KEY: self}
        if self.error:
            return result
        last, best = self.progress.epochs[-1], self.progress.epochs[self.progress.best - 1]
        names = (*BEST_METRICS, *OPTIONAL_METRICS)
        best_metrics = {f"best/{name}": value for name, value in best.to_json().items() if name in names}
        objective = negate_if_minimized(getattr(last, metric), metric)
        return result | last.to_json() | best_metrics | {"objective": objective}


@dataclass(frozen=True)
class TrialRecord:
    """A trial that has ended.

    number: from 1. settings: by dotted path. status: `finished` reached its last epoch, `stopped` was ended by the
    scheduler or a limit of the search, `failed` raised an error; reason: why, in one line; detail: more about it.
    best: number of the best epoch, from 1; 0 if no epoch ended. ended: seconds since 1970. seconds: of training and
    validating. predicted: predicted classes of the validation rows in the best epoch (`encode_predictions`); empty if
    they were not recorded, as in earlier versions, in failed trials and in those of several workers.
    """

    number: int
    settings: dict[str, Any]
    status: Literal["finished", "stopped", "failed"]
    reason: str = ""
    detail: str = ""
    epochs: list[Epoch] = field(default_factory=list)
    best: int = 0
    ended: float = 0.0
    seconds: float = 0.0
    predicted: str = ""

    @property
    def best_epoch(self) -> Epoch | None:
        """The best epoch; None if no epoch ended."""
        return self.epochs[self.best - 1] if self.best else None

    def best_value(self, metric: str) -> float:
        """Return a metric of the best epoch; ValueError if no epoch ended."""
        if self.best_epoch is None:
            raise ValueError(f"trial {self.number} has no epoch")
        return float(getattr(self.best_epoch, metric))

    def ranking_key(self, metric: str) -> RankingKey:
        """Return the ranking key of the best epoch; ValueError if no epoch ended."""
        if self.best_epoch is None:
            raise ValueError(f"trial {self.number} has no epoch")
        return ranking_key(vars(self.best_epoch), metric, self.number)

    @classmethod
    def from_report(
        cls, number: int, settings: Mapping[str, Any], report: TrialReport, stop_reason: str = ""
    ) -> "TrialRecord":
        """Return the record of a trial that ends now with its last report.

        Args:
            stop_reason: why the trial was stopped; empty if it was not.
        """
        progress = report.progress
        return cls(
            number,
            dict(settings),
            status="failed" if report.error else "stopped" if stop_reason else "finished",
            reason=report.error or stop_reason,
            detail=report.detail,
            epochs=progress.epochs,
            best=progress.best,
            ended=time.time(),
            seconds=sum(epoch.seconds for epoch in progress.epochs),
            predicted=report.predicted,
        )

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "TrialRecord":
        """Return the record in a file's JSON value."""
        return cls(**values | {"epochs": [Epoch(**epoch) for epoch in values["epochs"]]})


class RecordStore:
    """The records in a folder, a path or URI."""

    def __init__(self, path: str) -> None:
        self.path = path

    def read(self) -> list[TrialRecord]:
        """Return all records, by number."""
        names = sorted(name for name in list_file_sizes(self.path) if name.endswith(".json") and "/" not in name)
        return [TrialRecord.from_json(json.loads(read_text(join(self.path, name)))) for name in names]

    def read_started(self) -> dict[int, dict[str, Any]]:
        """Return the settings of all trials that were started, by number."""
        folder = join(self.path, STARTED_FOLDER)
        names = [name for name in list_file_sizes(folder) if name.endswith(".json")]
        return {int(name[:5]): json.loads(read_text(join(folder, name))) for name in names}

    def write_started(self, number: int, settings: dict[str, Any]) -> None:
        """Save the settings of a trial that starts; StorageError if they cannot be written."""
        write_json(join(self.path, STARTED_FOLDER, f"{number:05d}.json"), settings)

    def read_elapsed(self) -> float:
        """Return the seconds that earlier commands spent on the search."""
        path = join(self.path, ELAPSED_FILE)
        return float(read_text(path)) if exists(path) else 0.0

    def write_elapsed(self, seconds: float) -> None:
        """Save the seconds that commands spent on the search; StorageError if they cannot be written."""
        write_text(join(self.path, ELAPSED_FILE), f"{seconds:.1f}\n")

    def write(self, record: TrialRecord) -> None:
        """Save a record; StorageError if it cannot be written."""
        values = {key: value for key, value in asdict(record).items() if key != "predicted" or value}
        values["epochs"] = [epoch.to_json() for epoch in record.epochs]
        write_json(join(self.path, f"{record.number:05d}.json"), values, ascii_only=True)


def encode_predictions(predicted: np.ndarray) -> str:
    """Return class indices, `(rows,)` int64, as text: the number type, and base64 of the compressed numbers.

    Empty without rows, and for more than `MAX_RECORDED_ROWS`.
    """
    if not 0 < len(predicted) <= MAX_RECORDED_ROWS:
        return ""
    numbers = predicted.astype(np.min_scalar_type(predicted.max(initial=0)).newbyteorder("<"))
    return f"{numbers.dtype.str}:{base64.b64encode(zlib.compress(numbers.tobytes())).decode()}"


def decode_predictions(text: str) -> np.ndarray:
    """Return the class indices that `encode_predictions` encoded, `(rows,)` int64."""
    number_type, _, content = text.partition(":")
    return np.frombuffer(zlib.decompress(base64.b64decode(content)), number_type).astype(np.int64)


def trial_folder_name(number: int) -> str:
    """Return the name of a trial's folder."""
    return f"trial-{number:05d}"


def split_config(config: Mapping[str, Any]) -> tuple[int, Mapping[str, Any]]:
    """Return the number and the settings in a trial's configuration in Tune."""
    return config[NUMBER_KEY], {path: value for path, value in config.items() if path != NUMBER_KEY}


def apply_trial_settings(experiment: Experiment, settings: Mapping[str, Any]) -> Experiment:
    """Return the experiment that a trial trains."""
    epochs = {"train.epochs": experiment.tune.epochs} if experiment.tune.epochs else {}
    return experiment.replace({"train.metric": objective_metric(experiment), **epochs, **settings})


def objective_metric(experiment: Experiment) -> str:
    """Return the metric that trials are compared by, the name of a field of `Epoch`."""
    return experiment.tune.metric or experiment.train.metric


def objective_label(experiment: Experiment) -> str:
    """Return the name of this metric in figures."""
    return f"validation {objective_metric(experiment).replace('_f1', ' F1')}"


def ranking_key(figures: Mapping[str, Any], metric: str, number: int) -> RankingKey:
    """Return the ranking key of an epoch's figures; among equals the earlier trial is better."""
    return *comparison_key(figures, metric), -number


def select_best_record(records: Iterable[TrialRecord], metric: str) -> TrialRecord | None:
    """Return the record with the best epoch; None if no trial has ended an epoch."""
    ranked = (record for record in records if record.best)
    return max(ranked, key=lambda record: record.ranking_key(metric), default=None)


def format_trial_line(record: TrialRecord, metric: str, total_suffix: str) -> str:
    """Return the outcome of a trial in one line; total_suffix: see `Search`."""
    outcome = ""
    if record.best:
        outcome = f"{metric} {record.best_value(metric):.4f} in epoch {record.best} of {len(record.epochs)}"
    if record.status == "failed":
        outcome = f"failed: {record.reason}{f', after {outcome}' if outcome else ''}"
    elif record.status == "stopped":
        outcome += " (stopped early)"
    return f"trial {record.number:3d}{total_suffix}   {outcome}   {format_settings(record.settings)}"


def format_settings(settings: Mapping[str, Any]) -> str:
    """Return settings in one line, by the last word of their paths."""
    values = {path: f"{value:.3g}" if isinstance(value, float) else str(value) for path, value in settings.items()}
    return " ".join(f"{path.rpartition('.')[2]}={value}" for path, value in values.items())
