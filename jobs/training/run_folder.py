"""Folder of a run in the storage, and its best.json, which names the best checkpoint.

    <storage>/<name>/best.json                best checkpoint of the experiment's newest finished run
    <storage>/<name>/<kind>-<key>/best.json   best checkpoint of this run; written last, so it marks a finished run.
                                              A search updates it earlier, with `finished: false`

The key is a digest of everything that decides the result: settings, seed, texts and vectors. So the same command
resumes its run, and another command never continues it by mistake.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from cluster.storage import absolute_path, exists, join, read_text, write_json
from jobs.config.experiment import Experiment, digest
from jobs.config.settings import TrainSettings
from jobs.model.checkpoint import verify_sizes
from jobs.training.corpus import Corpus

# Metrics of the best epoch in best.json.
BEST_EPOCH_METRICS = ("epoch", "train_loss", "loss", "accuracy", "macro_f1")

# Settings that change the speed of a run, not its result.
TRAIN_SETTINGS_NOT_IN_RUN_KEY = {"workers", "cpus_per_worker", "use_gpu", "checkpoint_minutes"}
TUNE_SETTINGS_NOT_IN_RUN_KEY = {"max_concurrent", "gpus_per_trial", "mlflow"}


@dataclass(frozen=True)
class BestCheckpoint:
    """Contents of a best.json.

    checkpoint: its folder, relative to the file. metric: name of the metric that selected it. metrics: of its epoch,
    including the number (`epoch`); None without a validation part.
    In a search, settings: those of its trial, by dotted path; trial: its number, from 1. After a refit, rows: number
    of training rows. finished: False while a search runs. run: name of the run, in an experiment's best.json only.
    """

    checkpoint: str
    metric: str
    metrics: Mapping[str, float | None]
    settings: Mapping[str, Any] | None = None
    trial: int | None = None
    rows: int | None = None
    refit: bool = False
    finished: bool = True
    run: str | None = None

    @property
    def epoch(self) -> int:
        """Number of the checkpoint's epoch, from 1."""
        return int(self.metrics["epoch"] or 0)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON value of the file, without fields that do not apply."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        defaults = {"settings": None, "trial": None, "rows": None, "refit": False, "finished": True, "run": None}
        return {name: value for name, value in values.items() if name not in defaults or value != defaults[name]}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "BestCheckpoint":
        """Return the contents of a file's JSON value; fields of other versions are ignored."""
        known = {item.name: values[item.name] for item in fields(cls) if item.name in values}
        return cls(**{"metric": "", "metrics": {}} | known)


@dataclass(frozen=True)
class RunFolder:
    """Folder of one run. experiment_folder: `<storage>/<name>`; name: `<kind>-<key>`."""

    experiment_folder: str
    name: str

    @property
    def path(self) -> str:
        """The run's own folder."""
        return join(self.experiment_folder, self.name)

    def read_best(self) -> BestCheckpoint | None:
        """Return the run's best.json, also that of an unfinished search; None if there is none."""
        return _read(join(self.path, "best.json"))

    def read_finished_best(self) -> BestCheckpoint | None:
        """Return the run's best.json if the run is finished, else None."""
        best = self.read_best()
        return best if best is not None and best.finished else None

    def update_best(self, best: BestCheckpoint) -> None:
        """Write the best.json of an unfinished run.

        The experiment's best.json is written too, unless it names another run, which is finished.

        Raises:
            CheckpointError: a file of the checkpoint is missing or truncated.
        """
        verify_sizes(join(self.path, best.checkpoint))
        write_json(join(self.path, "best.json"), replace(best, finished=False).to_json())
        published = _read(join(self.experiment_folder, "best.json"))
        if published is None or published.run == self.name:
            self.publish(best)

    def is_published(self) -> bool:
        """Return whether the experiment's best.json names a checkpoint of this run."""
        published = _read(join(self.experiment_folder, "best.json"))
        return published is not None and published.run == self.name

    def finish(self, best: BestCheckpoint) -> str:
        """Write the best.json of a finished run and return the path of the experiment's best.json.

        Raises:
            CheckpointError: a file of the checkpoint is missing or truncated.
        """
        self.finish_without_publishing(best)
        return self.publish(best)

    def finish_without_publishing(self, best: BestCheckpoint) -> None:
        """Write the best.json of a finished run, and leave the experiment's best.json unchanged."""
        verify_sizes(join(self.path, best.checkpoint))
        write_json(join(self.path, "best.json"), best.to_json())

    def publish(self, best: BestCheckpoint) -> str:
        """Write the experiment's best.json, which names this run as the newest, and return its path."""
        path = join(self.experiment_folder, "best.json")
        write_json(path, replace(best, checkpoint=f"{self.name}/{best.checkpoint}", run=self.name).to_json())
        return path


def _read(path: str) -> BestCheckpoint | None:
    return BestCheckpoint.from_json(json.loads(read_text(path))) if exists(path) else None


def resolve_run_folder(kind: str, experiment: Experiment, corpus: Corpus) -> RunFolder:
    """Return the folder of a run of this kind (train, tune)."""
    key: dict[str, Any] = {
        "seed": experiment.seed,
        "corpus": corpus.key,
        "text": experiment.text.model_dump(),
        "model": experiment.model.model_dump(),
        "train": train_settings_key(experiment.train),
    }
    if kind == "tune":
        key["tune"] = experiment.tune.model_dump(exclude=TUNE_SETTINGS_NOT_IN_RUN_KEY)
    return RunFolder(join(absolute_path(experiment.storage), experiment.name), f"{kind}-{digest(key)}")


def train_settings_key(settings: TrainSettings, folds: int | None = None) -> Mapping[str, Any]:
    """Return the training settings that decide the result of a run, for its key."""
    # Cross-validation was a setting, `train.folds`; with it in the keys, runs of earlier versions are found again.
    return settings.model_dump(exclude=TRAIN_SETTINGS_NOT_IN_RUN_KEY) | {"folds": folds}
