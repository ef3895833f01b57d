"""A run's place in the storage, and the file that names its best checkpoint.

    <storage>/<name>/best.json                the newest finished run's best checkpoint
    <storage>/<name>/<kind>-<key>/best.json   this run's; written last, so it marks a finished run; by a search
                                              whenever there is a better one, with `finished: false` until then

The key is made of everything that decides the result: settings, seed, texts and vectors. So the same
command finds its run again, and another one never continues it by mistake.
"""

import json
from dataclasses import dataclass
from typing import Any

from cluster.storage import absolute_path, exists, join, read_text, write_text
from jobs.config.experiment import Experiment, digest
from jobs.model.checkpoint import verify_sizes
from jobs.training.corpus import Corpus

# They change how fast a run is, not what it gives.
TRAIN_SETTINGS_NOT_IN_RUN_KEY = {"workers", "cpus_per_worker", "use_gpu", "checkpoint_minutes"}
TUNE_SETTINGS_NOT_IN_RUN_KEY = {"max_concurrent", "gpus_per_trial", "mlflow"}


@dataclass(frozen=True)
class RunFolder:
    """Where one run keeps its files. folder: `<storage>/<name>`; name: `<kind>-<key>`."""

    experiment_folder: str
    name: str

    @property
    def path(self) -> str:
        """The run's own folder."""
        return join(self.experiment_folder, self.name)

    def read_best(self) -> dict[str, Any] | None:
        """Return what best.json says, of a search also before it is finished."""
        path = join(self.path, "best.json")
        return json.loads(read_text(path)) if exists(path) else None

    def read_finished_best(self) -> dict[str, Any] | None:
        """Return what best.json says when the run is finished."""
        found = self.read_best()
        return None if found is None or found.get("finished") is False else found

    def update_best(self, best: dict[str, Any]) -> None:
        """Name the best checkpoint so far of a run that goes on.

        It is the experiment's best only where no other run's is named: that one is finished.

        Raises:
            CheckpointError: it did not arrive in the storage whole.
        """
        verify_sizes(join(self.path, best["checkpoint"]))
        write_text(join(self.path, "best.json"), _json(best | {"finished": False}))
        path = join(self.experiment_folder, "best.json")
        if not exists(path) or json.loads(read_text(path)).get("run") == self.name:
            self.publish(best)

    def finish(self, best: dict[str, Any]) -> str:
        """Name the best checkpoint (relative to the run) and return the path of the experiment's best.json.

        Raises:
            CheckpointError: it did not arrive in the storage whole.
        """
        self.finish_without_publishing(best)
        return self.publish(best)

    def finish_without_publishing(self, best: dict[str, Any]) -> None:
        """As `finish`, but leave the experiment's best.json as it is."""
        verify_sizes(join(self.path, best["checkpoint"]))
        write_text(join(self.path, "best.json"), _json(best))

    def publish(self, best: dict[str, Any]) -> str:
        """Make this the newest finished run of the experiment; return the path of its best.json."""
        path = join(self.experiment_folder, "best.json")
        write_text(path, _json(best | {"checkpoint": f"{self.name}/{best['checkpoint']}", "run": self.name}))
        return path


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


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"
