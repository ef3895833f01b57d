"""Folder of a run in the storage, and its best.json, which names the best checkpoint.

    <storage>/<name>/best.json                best checkpoint of the experiment's current run: the newest finished one,
                                              unless an earlier one is better on the same validation rows
    <storage>/<name>/<kind>-<key>/best.json   best checkpoint of this run; written last, so it marks a finished run.
                                              A search updates it earlier, with `finished: false`

The key is a digest of everything that decides the result: settings, seed, texts and vectors. So the same command
resumes its run, and another command never continues it by mistake. A file of the test part (`data.test`) decides
nothing: with another one a finished run stays finished. Both files name the test part of the newest command.
"""

import logging
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from cluster.console.logs import RESULT
from cluster.storage import absolute_path, exists, join, write_json
from jobs.config.experiment import Experiment, digest
from jobs.config.label_thresholds import OPTIONAL_METRICS
from jobs.config.settings import (
    EARLIER_VALUES,
    NEWER_SETTINGS,
    ModelSettings,
    Source,
    TextSettings,
    TrainSettings,
)
from jobs.config.training_defaults import RAND_LEARNING_RATE_FACTOR, VECTORS_LEARNING_RATE_FACTOR
from jobs.datasets.sources import locate_source
from jobs.model.checkpoint import CheckpointError, verify_sizes
from jobs.model.checkpoint_files import read_json
from jobs.training.history import Progress, comparison_key
from jobs.training.run_files.checkpoint_store import CheckpointStore, checkpoint_name

if TYPE_CHECKING:
    from jobs.datasets.readers import Split
    from jobs.training.corpora.corpus import Corpus

logger = logging.getLogger(__name__)

# Metrics of the best epoch in best.json.
BEST_EPOCH_METRICS = ("epoch", "train_loss", "loss", "accuracy", "macro_f1", *OPTIONAL_METRICS)
# Metrics that runs are compared by; the loss decides between equals.
VALIDATION_METRICS = ("accuracy", "macro_f1", "loss", *OPTIONAL_METRICS)

# Settings that change the speed of a run, not its result; and a path, whose content is in the key of the corpus.
TRAIN_SETTINGS_NOT_IN_RUN_KEY = {"workers", "cpus_per_worker", "use_gpu", "checkpoint_minutes", "start_from"}
TUNE_SETTINGS_NOT_IN_RUN_KEY = {"max_concurrent", "gpus_per_trial", "mlflow"}

RUN_README = """\
experiment.yaml     all settings of this run
epoch-*/            checkpoints: the newest two and that of the best epoch, each a complete classifier
best.json           path and metrics of the best checkpoint; written when the run is finished
learning-curve.png  losses, accuracy and macro F1 by epoch
tensorboard/        the same for `tensorboard --logdir`
checkpoint_manager_snapshot.json    reports of a run on Ray processes, for `ray.train.Result.from_path`

Each checkpoint's manifest.json lists its files with their checksums. To resume an interrupted run, repeat the same
command. The folder can be moved or copied as a whole.
"""


@dataclass(frozen=True)
class BestCheckpoint:
    """Contents of a best.json.

    checkpoint: its folder, relative to the file. metric: name of the metric that selected it. metrics: of its epoch,
    including the number (`epoch`); None without a validation part.
    In a search, settings: those of its trial, by dotted path; trial: its number, from 1. After a refit, rows: number
    of training rows. finished: False while a search runs. validation: digest of the validation rows; None if an earlier
    version wrote the file. test: path or URI of the texts that `evaluate` measures, or several, if the run's newest
    command named them. In an experiment's best.json only, run: name of the run.
    """

    checkpoint: str
    metric: str
    metrics: Mapping[str, float | None]
    settings: Mapping[str, Any] | None = None
    trial: int | None = None
    rows: int | None = None
    refit: bool = False
    finished: bool = True
    validation: str | None = None
    run: str | None = None
    test: Source | None = None

    @property
    def epoch(self) -> int:
        """Number of the checkpoint's epoch, from 1."""
        return int(self.metrics["epoch"] or 0)

    def describe(self) -> str:
        """Return the epoch and its metrics as text."""
        if self.metrics["loss"] is None:
            return f"epoch {self.epoch}, the last; there is no validation part"
        names = dict.fromkeys(("micro_f1", "accuracy", "macro_f1", _comparison_metric(self), "loss"))
        values = " ".join(f"{name} {value:.4f}" for name in names if (value := self.metrics.get(name)) is not None)
        return f"epoch {self.epoch}, validation {values}"

    def to_json(self) -> dict[str, Any]:
        """Return the JSON value of the file, without fields that do not apply."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        defaults = {item.name: item.default for item in fields(self) if item.default is not MISSING}
        return {name: value for name, value in values.items() if name not in defaults or value != defaults[name]}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "BestCheckpoint":
        """Return the contents of a file's JSON value; fields of other versions are ignored."""
        known = {item.name: values[item.name] for item in fields(cls) if item.name in values}
        return cls(**{"metric": "", "metrics": {}} | known)

    @classmethod
    def read(cls, path: str) -> "BestCheckpoint":
        """Return the contents of a best.json at a path or URI; CheckpointError if it is not one."""
        try:
            best = cls.from_json(read_json(path))
            if not isinstance(best.checkpoint, str) or not isinstance(best.metrics, Mapping):
                raise TypeError("it does not name a checkpoint and its metrics")
        except (TypeError, AttributeError) as error:
            raise CheckpointError(f"{path}: is not a best.json: {error}") from error
        return best


@dataclass(frozen=True)
class RunFolder:
    """Folder of one run.

    experiment_folder: `<storage>/<name>`; name: `<kind>-<key>`. test: file of the test part. validation: digest of the
    validation rows. promote: the run becomes current even if it is worse than the current one.
    """

    experiment_folder: str
    name: str
    test: Source | None = None
    validation: str | None = None
    promote: bool = False

    @property
    def path(self) -> str:
        """The run's own folder."""
        return join(self.experiment_folder, self.name)

    def read_best(self) -> BestCheckpoint | None:
        """Return the run's best.json, also that of an unfinished search; None if there is none."""
        return read_best(self.path)

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
        self.write_best(best := replace(best, finished=False))
        published = read_best(self.experiment_folder)
        if published is None or published.run == self.name:
            self.publish(best)

    def is_published(self) -> bool:
        """Return whether the experiment's best.json names a checkpoint of this run."""
        published = read_best(self.experiment_folder)
        return published is not None and published.run == self.name

    def publish(self, best: BestCheckpoint) -> str:
        """Make this run current in the experiment's best.json, unless it is worse than the current run.

        Two runs are compared if their validation rows are the same; otherwise the newer one becomes current. If this
        command names another test part than the run's own best.json, that file is written again.

        Returns:
            The path of the best.json that names the run's best checkpoint: the experiment's, or else the run's own.
        """
        path = join(self.experiment_folder, "best.json")
        if (own := self.read_best()) is not None and own.test != self.test:
            self.write_best(own)
        checkpoint = f"{self.name}/{best.checkpoint}"
        best = replace(best, checkpoint=checkpoint, validation=self.validation, run=self.name, test=self.test)
        current = self._read_other_run()
        if current is not None:
            order = _compare(best, current)
            if order is None:
                comparison = "the two cannot be compared: their validation rows differ or are not recorded"
            else:
                comparison = f"{_format_comparison(best, current)} on the same validation rows"
            if order == -1 and not self.promote:
                logger.log(
                    RESULT,
                    f"{current.run} remains the current run of {self.experiment_folder}: this run is worse, with "
                    f"{comparison}; to make it current, repeat the command with --promote",
                )
                return join(self.path, "best.json")
            message = f"{self.name} is the current run of {self.experiment_folder} now, instead of {current.run}"
            logger.log(RESULT, f"{message}: {comparison}")
        write_json(path, best.to_json())
        return path

    def write_best(self, best: BestCheckpoint) -> None:
        """Write the run's own best.json; CheckpointError if a file of the checkpoint is missing or truncated."""
        verify_sizes(join(self.path, best.checkpoint))
        write_json(join(self.path, "best.json"), replace(best, validation=self.validation, test=self.test).to_json())

    def _read_other_run(self) -> BestCheckpoint | None:
        """Return the current run of the experiment's best.json if it is another one and its checkpoint exists."""
        current = read_best(self.experiment_folder)
        if current is None or current.run in (None, self.name):
            return None
        try:
            verify_sizes(join(self.experiment_folder, current.checkpoint))
        except CheckpointError:
            return None
        return current


def _compare(best: BestCheckpoint, other: BestCheckpoint) -> int | None:
    """Return 1 if a run is better than another one, -1 if it is worse, 0 if they are equal.

    Returns:
        None if they cannot be compared: they were not measured on the same validation rows.
    """
    metric = _comparison_metric(best)
    keys = []
    for metrics in (best.metrics, other.metrics):
        values = {name: value for name in (metric, "loss") if (value := metrics.get(name)) is not None}
        if len(values) == len({metric, "loss"}):
            keys.append(comparison_key(values, metric))
    if len(keys) < 2 or best.validation is None or best.validation != other.validation:
        return None
    return (keys[0] > keys[1]) - (keys[0] < keys[1])


def _comparison_metric(best: BestCheckpoint) -> str:
    return best.metric if best.metric in VALIDATION_METRICS else "accuracy"


def _format_comparison(best: BestCheckpoint, other: BestCheckpoint) -> str:
    """Return the metric that two runs are compared by, and the loss if it decides, as text."""
    metric = name = _comparison_metric(best)
    equal = ""
    if metric != "loss" and best.metrics[metric] == other.metrics[metric]:
        equal, name = f"equal {metric} {best.metrics[metric]:.4f}, so that the loss decides: ", "loss"
    return equal + " against ".join(f"{name} {run.metrics[name]:.4f}" for run in (best, other))


def read_best(folder: str) -> BestCheckpoint | None:
    """Return the contents of the best.json in a folder, None if there is none; CheckpointError if it is not one."""
    path = join(folder, "best.json")
    return BestCheckpoint.read(path) if exists(path) else None


def resolve_run_folder(
    kind: str, experiment: Experiment, corpus: "Corpus", validation: "Split | None" = None, *, promote: bool = False
) -> RunFolder:
    """Return the folder of a run of this kind (train, tune).

    Args:
        validation: validation part of the run's data.
        promote: as of `RunFolder`.
    """
    key: dict[str, Any] = {
        "seed": experiment.seed,
        "corpus": corpus.key,
        "text": text_settings_key(experiment.text),
        "model": model_settings_key(experiment.model),
        "train": train_settings_key(experiment.train),
    }
    if kind == "tune":
        key["tune"] = experiment.tune.model_dump(exclude=TUNE_SETTINGS_NOT_IN_RUN_KEY)
    test = experiment.data.test
    return RunFolder(
        join(absolute_path(experiment.storage), experiment.name),
        f"{kind}-{digest(key)}",
        test=locate_source(test, experiment.data) if test is not None else None,
        validation=validation.digest() if validation is not None else None,
        promote=promote,
    )


def text_settings_key(settings: TextSettings) -> Mapping[str, Any]:
    """Return the settings of the texts for the key of a run."""
    # Without the default tokenizer, so that runs of earlier versions are found if their texts have the same tokens.
    default = TextSettings()
    unset = {name for name in EARLIER_VALUES["text"] if getattr(settings, name) == getattr(default, name)}
    return settings.model_dump(exclude=unset)


def model_settings_key(settings: ModelSettings) -> Mapping[str, Any]:
    """Return the settings of the network for the key of a run; without newer ones that earlier versions imply."""
    implied = {name for name, value in EARLIER_VALUES["model"].items() if getattr(settings, name) == value}
    return settings.model_dump(exclude=implied)


def train_settings_key(settings: TrainSettings, folds: int | None = None) -> Mapping[str, Any]:
    """Return the training settings that decide the result of a run, for its key."""
    # With `folds`, a former setting, and without newer ones at their defaults: runs of earlier versions are found.
    unset = {name for name in NEWER_SETTINGS if getattr(settings, name) == TrainSettings.model_fields[name].default}
    key = settings.model_dump(exclude=TRAIN_SETTINGS_NOT_IN_RUN_KEY | unset) | {"folds": folds}
    if settings.vectors_learning_rate is None:  # earlier versions had other factors
        key["vectors_learning_rate"] = [VECTORS_LEARNING_RATE_FACTOR, RAND_LEARNING_RATE_FACTOR]
    return key


def select_best(progress: Progress, path: str, metric: str) -> BestCheckpoint | None:
    """Return the contents of the best.json of a run in a folder; None if the best checkpoint is not there."""
    name = checkpoint_name(progress.best)
    if not progress.best or not CheckpointStore(path).has(name):
        return None
    best = progress.epochs[progress.best - 1].to_json()
    return BestCheckpoint(name, metric, {key: best[key] for key in BEST_EPOCH_METRICS if key in best})
