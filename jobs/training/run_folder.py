"""A run's place in the storage, and the file that names its best checkpoint.

    <storage>/<name>/best.json                the newest finished run's best checkpoint
    <storage>/<name>/<kind>-<key>/best.json   this run's; written last, so it marks a finished run; by a search
                                              whenever there is a better one, with `finished: false` until then

The key is made of everything that decides the result: settings, seed, texts and vectors. So the same
command finds its run again, and another one never continues it by mistake.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from cluster.storage import absolute_path, exists, join, read_text, write_json
from jobs.config.experiment import Experiment, digest
from jobs.model.checkpoint import verify_sizes
from jobs.training.corpus import Corpus

# They change how fast a run is, not what it gives.
TRAIN_SETTINGS_NOT_IN_RUN_KEY = {"workers", "cpus_per_worker", "use_gpu", "checkpoint_minutes"}
TUNE_SETTINGS_NOT_IN_RUN_KEY = {"max_concurrent", "gpus_per_trial", "mlflow"}


@dataclass(frozen=True)
class BestCheckpoint:
    """Contents of a best.json.

    checkpoint: its folder, relative to the file. metric: the one that it was chosen by. metrics: the values of its
    epoch, `epoch` (its number) among them; None without a validation part.
    Of a search, settings: those of its trial, by dotted path; trial: its number, from 1. Of a refit, rows: training
    rows. finished: False while a search runs. run: name of the run, in the file of an experiment.
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
        """Return the run's best.json, of a search also before it is finished; None if there is none."""
        return _read(join(self.path, "best.json"))

    def read_finished_best(self) -> BestCheckpoint | None:
        """Return the run's best.json if the run is finished, else None."""
        best = self.read_best()
        return best if best is not None and best.finished else None

    def update_best(self, best: BestCheckpoint) -> None:
        """Name the best checkpoint so far of a run that is not finished.

        The experiment's best.json is written only where it names no other run: that one is finished.

        Raises:
            CheckpointError: a file of the checkpoint is missing in the storage, or cut off.
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
        """Name the best checkpoint (relative to the run) and return the path of the experiment's best.json.

        Raises:
            CheckpointError: a file of the checkpoint is missing in the storage, or cut off.
        """
        self.finish_without_publishing(best)
        return self.publish(best)

    def finish_without_publishing(self, best: BestCheckpoint) -> None:
        """Like `finish`, but leave the experiment's best.json unchanged."""
        verify_sizes(join(self.path, best.checkpoint))
        write_json(join(self.path, "best.json"), best.to_json())

    def publish(self, best: BestCheckpoint) -> str:
        """Make this the newest finished run of the experiment; return the path of its best.json."""
        path = join(self.experiment_folder, "best.json")
        write_json(path, replace(best, checkpoint=f"{self.name}/{best.checkpoint}", run=self.name).to_json())
        return path


def _read(path: str) -> BestCheckpoint | None:
    return BestCheckpoint.from_json(json.loads(read_text(path))) if exists(path) else None


def resolve_run_folder(kind: str, experiment: Experiment, corpus: Corpus) -> RunFolder:
    """Return the place of a run of this kind (train, tune)."""
    decides: dict[str, Any] = {
        "seed": experiment.seed,
        "corpus": corpus.key,
        "text": experiment.text.model_dump(),
        "model": experiment.model.model_dump(),
        "train": experiment.train.model_dump(exclude=TRAIN_SETTINGS_NOT_IN_RUN_KEY),
    }
    if kind == "tune":
        decides["tune"] = experiment.tune.model_dump(exclude=TUNE_SETTINGS_NOT_IN_RUN_KEY)
    return RunFolder(join(absolute_path(experiment.storage), experiment.name), f"{kind}-{digest(decides)}")
