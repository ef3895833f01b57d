"""Trials as Trainables of Ray Tune: in processes that several trials use in turn, or as runs of Ray Train.

The processes of the trials import torch, which takes seconds; the driver only names the classes.
"""

import gc
import queue
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
import ray.tune
from ray.exceptions import RayError, RayTaskError
from ray.tune.result import DONE

from cluster import UsageError
from cluster.storage import join, write_text
from jobs.config.conflicts import FINE_TUNING_SETTINGS
from jobs.config.experiment import Experiment, ExperimentError
from jobs.model.checkpoint import load_training_state
from jobs.search.records import (
    NUMBER_KEY,
    REPORT_KEY,
    RankingKey,
    TrialReport,
    apply_trial_settings,
    objective_metric,
    ranking_key,
    split_config,
    trial_folder_name,
)
from jobs.search.shared_state import SavedCheckpoint
from jobs.search.space import Dimension, check_searchable
from jobs.training.corpora.corpus import Corpus
from jobs.training.corpora.sharing import corpus_key
from jobs.training.history import Progress, replace_epoch
from jobs.training.monitor import RunStatus
from jobs.training.run_files.checkpoint_store import CheckpointStore
from jobs.training.run_files.run_folder import RunFolder

if TYPE_CHECKING:
    from jobs.search.trial import Trial
    from jobs.training.worker_messages import WorkerResult

# Corpora that a process holds. Processes of a node share the arrays, but each has its own copy of the words.
MAX_CACHED_CORPORA = 2

# Parts of a result for the search of this project, which a user's own tuner does not have.
OWN_KEYS = (REPORT_KEY, "finished", "failed", "objective")

# Interval in which a trial checks whether its workers have ended.
EPOCH_POLL_S = 0.2


@dataclass(frozen=True)
class TrialInputs:
    """Inputs that all trials of a search share.

    path: folder of the search; None if no checkpoint is saved there. corpora: object references by key. corpus_cache:
    handle of the actor that builds further corpora; None if no trial needs one. shared_state: handle of the actor; None
    if no checkpoint is saved. use_gpu: the workers of a distributed trial use GPUs.
    """

    experiment: Experiment
    path: str | None
    corpora: dict[str, Any]
    corpus_cache: Any
    shared_state: Any
    use_gpu: bool = False

    def corpus_reference(self, experiment: Experiment) -> Any:
        """Return the object reference of a trial's corpus; UsageError if nothing builds it."""
        reference = self.corpora.get(corpus_key(experiment))
        if reference is None and self.corpus_cache is None:
            raise UsageError(
                "your own Tuner searches no settings of `text`, and other kinds of embedding than rand only with a "
                "file of vectors; `TextCNNClassifier.tune` does"
            )
        return reference or ray.get(self.corpus_cache.get.remote(experiment))[0]

    def is_new_best(self, key: RankingKey) -> bool:
        """Return whether a checkpoint with this key is to be saved."""
        return self.shared_state is not None and bool(ray.get(self.shared_state.is_new_best.remote(key)))

    def record_checkpoint(self, key: RankingKey, checkpoint: SavedCheckpoint) -> None:
        """Send a saved checkpoint to the driver."""
        ray.get(self.shared_state.record_checkpoint.remote(key, checkpoint))


def build_trainable(inputs: TrialInputs, *, distributed: bool) -> Any:
    """Return the Trainable of a search's trials; distributed: each is a run of Ray Train with several workers."""
    return ray.tune.with_parameters(DistributedTrial if distributed else InProcessTrial, inputs=inputs)


class InProcessTrial(ray.tune.Trainable):
    """Trainable that trains in its own process. Tune reuses it for further trials (`reset_config`)."""

    def setup(self, config: dict[str, Any], inputs: TrialInputs | None = None) -> None:
        """Prepare the process for trials with these inputs."""
        assert inputs is not None
        gc.disable()  # searching for garbage takes a sixth of the time of the imports
        import torch

        import jobs.search.trial  # noqa: F401 used by `step`

        gc.enable()
        torch.set_num_threads(inputs.experiment.train.cpus_per_worker)
        on_gpu = bool(ray.get_gpu_ids()) and torch.cuda.is_available()
        self._device = "cuda" if on_gpu else "cpu"
        self._inputs, self._trial_config = inputs, config
        self._trial: Trial | None = None
        self._corpora: dict[str, Corpus] = {}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Replace the trial by another one."""
        self.cleanup()
        self._trial_config, self._trial = new_config, None
        return True

    def step(self) -> dict[str, Any]:
        """Train one epoch and return the result for Tune."""
        metric = objective_metric(self._inputs.experiment)
        try:
            return self.train_epoch().to_tune_result(metric)
        except Exception as error:
            if is_system_failure(error):
                raise  # Tune restarts the trial
            from jobs.search.trial import build_failure_report

            failure = build_failure_report(error, self._trial.loop.progress if self._trial else None)
            return failure.to_tune_result(metric)

    def train_epoch(self) -> TrialReport:
        """Train one epoch and return the report."""
        if self._trial is None:
            self._trial = self._start()
        return self._trial.step()

    def cleanup(self) -> None:
        """Wait until the trial has written everything."""
        if self._trial is not None:
            self._trial.close()

    def _start(self) -> "Trial":
        from jobs.search.trial import Trial

        inputs, (number, settings) = self._inputs, split_config(self._trial_config)
        experiment = apply_trial_settings(inputs.experiment, settings)
        return Trial(
            number,
            experiment,
            self._load_corpus(experiment),
            inputs.path,
            is_new_best=inputs.is_new_best,
            on_checkpoint=lambda key, epoch: inputs.record_checkpoint(key, SavedCheckpoint(number, epoch, settings)),
            device=self._device,
        )

    def _load_corpus(self, experiment: Experiment) -> Corpus:
        key = corpus_key(experiment)
        if key not in self._corpora:
            reference = self._inputs.corpus_reference(experiment)
            while len(self._corpora) >= MAX_CACHED_CORPORA:
                self._corpora.pop(next(iter(self._corpora)))
            self._corpora[key] = ray.get(reference)
        return self._corpora[key]


class OwnTunerTrial(InProcessTrial):
    """Trainable of a user's own `Tuner`: Tune saves its checkpoints, and an error ends the trial as Tune is set to.

    Its configuration has settings by dotted path.
    """

    def setup(self, config: Mapping[str, Any], inputs: TrialInputs | None = None) -> None:
        """Prepare the process for trials with these inputs."""
        _check_configuration(config)
        super().setup({NUMBER_KEY: 1, **config}, inputs)

    def reset_config(self, new_config: Mapping[str, Any]) -> bool:
        """Replace the trial by another one."""
        _check_configuration(new_config)
        return super().reset_config({NUMBER_KEY: 1, **new_config})

    def step(self) -> Any:
        """Train one epoch and return its metrics, and those of the best epoch so far as `best/loss`."""
        result = self.train_epoch().to_tune_result(objective_metric(self._inputs.experiment))
        return {name: value for name, value in result.items() if name not in OWN_KEYS} | {DONE: result["finished"]}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Write a checkpoint of the last epoch, which `finetune_cnn.load` reads, with what resuming needs."""
        from jobs.training.run_files import snapshot

        assert self._trial is not None, "Tune saves a trial after a step"
        snapshot.capture(self._trial.experiment, self._trial.corpus, self._trial.loop, resumable=True)(
            Path(checkpoint_dir)
        )

    def load_checkpoint(self, checkpoint: str) -> None:  # type: ignore[override]  # Tune passes what it saved: a folder
        """Resume from a checkpoint."""
        from jobs.training.run_files import snapshot

        self._trial = self._start()
        snapshot.restore(self._trial.loop, load_training_state(Path(checkpoint)))


class DistributedTrial(ray.tune.Trainable):
    """Trainable that starts a run of Ray Train with several workers and reports its epochs."""

    def setup(self, config: dict[str, Any], inputs: TrialInputs | None = None) -> None:
        """Prepare the trial."""
        assert inputs is not None
        self._inputs = inputs
        self._number, self._settings = split_config(config)
        self._experiment = apply_trial_settings(inputs.experiment, self._settings)
        assert inputs.path is not None
        self._run = RunFolder(inputs.path, trial_folder_name(self._number))
        self._progress, self._run_status = Progress(), RunStatus(time.time())
        self._training: Future[WorkerResult] | None = None

    def step(self) -> dict[str, Any]:
        """Wait for the end of an epoch and return the result for Tune."""
        metric = self._experiment.train.metric
        try:
            return self._next_report().to_tune_result(metric)
        except Exception as error:
            if is_system_failure(error):
                raise  # Tune restarts the trial
            from jobs.search.trial import build_failure_report

            return build_failure_report(error, self._progress).to_tune_result(metric)

    def cleanup(self) -> None:
        """Stop the monitor of a run that Tune stopped; its thread waits for Ray Train until the process ends."""
        self._run_status.stop_monitor()

    def _next_report(self) -> TrialReport:
        if self._training is None:
            saved = CheckpointStore(self._run.path).load_newest_valid()
            self._progress = Progress.from_json(saved[1].progress) if saved else Progress()
            self._training = ThreadPoolExecutor(1).submit(self._train)
        while not self._training.done():
            with suppress(queue.Empty):
                epoch = self._run_status.finished_epochs.get(timeout=EPOCH_POLL_S)
                self._progress = replace_epoch(self._progress, epoch, self._experiment.train.metric)
                return TrialReport(self._progress)
        self._progress = self._training.result().progress
        self._record_best()
        return TrialReport(self._progress, finished=True)

    def _train(self) -> "WorkerResult":
        from jobs.training.train import fit

        reference = self._inputs.corpus_reference(self._experiment)
        write_text(join(self._run.path, "experiment.yaml"), self._experiment.to_yaml())  # the workers require it
        return fit(self._experiment, reference, self._run, self._inputs.use_gpu, self._run_status, sole_workload=False)

    def _record_best(self) -> None:
        best = self._progress.epochs[self._progress.best - 1]
        key = ranking_key(vars(best), self._experiment.train.metric, self._number)
        if self._inputs.is_new_best(key):
            self._inputs.record_checkpoint(key, SavedCheckpoint(self._number, best, self._settings))


def _check_configuration(config: Mapping[str, Any]) -> None:
    """Raise ExperimentError if a trial of a user's own `Tuner` cannot have a setting of its own: all share the rows."""
    for path in config:
        if path != "seed":
            check_searchable(path, "the configuration of your Tuner")


def to_tune_space(space: list[Dimension]) -> Mapping[str, Any]:
    """Return a search space with the distributions of Ray Tune, by dotted path.

    Raises:
        ExperimentError: a setting has conditions of its own (`if`).
    """
    result: dict[str, Any] = {}
    for item in space:
        if item.conditions and item.path not in FINE_TUNING_SETTINGS:
            raise ExperimentError(
                f"tune.space.{item.path}.if: Ray Tune has no conditions; `TextCNNClassifier.tune` has"
            )
        if item.kind == "grid":
            result[item.path] = ray.tune.grid_search(item.values)
        elif item.kind == "choice":
            result[item.path] = ray.tune.choice(item.values)
        elif item.step is None:
            low, high = item.values
            result[item.path] = getattr(ray.tune, item.kind)(low, high)  # Ray's names are the same
        else:
            result[item.path] = ray.tune.choice(item.list_steps())
    return result


def is_system_failure(error: Exception) -> bool:
    """Return whether an error is Ray's own: a process or node was lost, with an actor or object on it."""
    return isinstance(error, RayError) and not isinstance(error, RayTaskError)
