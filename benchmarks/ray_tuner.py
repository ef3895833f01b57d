"""A search with Ray Tune's own features around this project's training: the other side of benchmarks/tuning.py.

`OptunaSearch` has a define-by-run space, trials reuse processes, ASHA is on, the loggers are Tune's default ones
(TensorBoard, JSON, csv), and Tune writes its state after every event. A callback asks for a checkpoint only when an
epoch is the best of the search.
"""

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import ray.tune
import torch
from ray.tune.experiment import Trial
from ray.tune.result import SHOULD_CHECKPOINT
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

from jobs.config.experiment import Experiment
from jobs.datasets.dataset import load_dataset
from jobs.model.checkpoint import CheckpointError, load_checkpoint, verify_checksums
from jobs.search.records import apply_trial_settings, objective_metric
from jobs.search.space import Dimension, is_active, parse_space
from jobs.training.corpora.building import build_corpus
from jobs.training.corpora.corpus import Corpus
from jobs.training.history import negate_if_minimized
from jobs.training.loop import create_loop
from jobs.training.run_files import snapshot

# None: Tune's default, also after a search of this project in the same process.
TUNE_ENVIRONMENT: dict[str, str | None] = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": None,
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": None,
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}
NUM_TO_KEEP = 2  # with 1, Tune deletes the checkpoint that its state on disk still names


class EpochTrainable(ray.tune.Trainable):
    """Trainable that trains one epoch per step, in a process that trials reuse."""

    def setup(self, config: dict[str, Any], experiment: Experiment | None = None, corpus: Corpus | None = None) -> None:
        """Prepare the first trial."""
        assert experiment is not None
        assert corpus is not None
        torch.set_num_threads(experiment.train.cpus_per_worker)
        self._base, self._corpus = experiment, corpus
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Replace the trial by another one."""
        self._experiment = apply_trial_settings(self._base, new_config)
        self._loop = create_loop(self._experiment, self._corpus)
        self._epochs = self._loop.train_epochs()
        return True

    def step(self) -> dict[str, Any]:
        """Train one epoch."""
        epoch, _ = next(self._epochs)
        train, metric = self._experiment.train, objective_metric(self._experiment)
        finished = self._loop.progress.is_finished(train.last_epoch, train.patience, train.frozen_epochs)
        objective = negate_if_minimized(getattr(epoch, metric), metric)
        return {**vars(epoch), "objective": objective, "done": finished}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Write what this project's searches write: what evaluation and serving need."""
        snapshot.capture(self._experiment, self._corpus, self._loop, resumable=False)(Path(checkpoint_dir))

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Do nothing: an interrupted trial is trained again, as in this project's searches."""


class DefineByRunSpace:
    """The space of an experiment as a function for `OptunaSearch`. It is pickled with the searcher's state."""

    def __init__(self, experiment: Experiment, space: list[Dimension]) -> None:
        self._experiment, self._space = experiment, space

    def __call__(self, trial: Any) -> dict[str, Any]:
        """Return the settings of a trial; lists of values replace the JSON texts that Optuna has."""
        settings: dict[str, Any] = {}
        for dimension in self._space:
            if is_active(dimension, settings, self._space, self._experiment):
                settings[dimension.path] = dimension.suggest(trial)
        return settings


class SearchCallback(ray.tune.Callback):
    """Asks for checkpoints of epochs that are the best of the search, and calls `on_end` for each ended trial."""

    def __init__(self, on_end: Callable[[float, float], None]) -> None:
        self._best, self._on_end = float("-inf"), on_end
        self._seconds: dict[str, float] = {}

    def on_trial_result(self, iteration: int, trials: list[Trial], trial: Trial, result: Any, **info: Any) -> None:
        """Ask for a checkpoint if the epoch is the best so far."""
        self._seconds[trial.trial_id] = self._seconds.get(trial.trial_id, 0.0) + result["seconds"]
        if result["objective"] > self._best:
            self._best = result["objective"]
            result[SHOULD_CHECKPOINT] = True

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Report the end of a trial, with its seconds of training."""
        self._on_end(self._seconds.pop(trial.trial_id), time.time())

    def get_state(self) -> dict[str, Any]:
        """Return the state that Tune saves."""
        return {"best": self._best}

    def set_state(self, state: dict[str, Any]) -> None:
        """Load the state that Tune saved."""
        self._best = state["best"]


def run_ray_search(
    experiment: Experiment,
    path: str,
    on_end: Callable[[float, float], None],
    *,
    concurrent: int = 2,
    checkpoint_frequency: int = 0,
    state_period: str = "0",
) -> ray.tune.ResultGrid:
    """Run the search in a folder, or restore it.

    Args:
        on_end: called with the seconds of training and the time at each trial's end.
        concurrent: number of concurrent trials.
        checkpoint_frequency: epochs between checkpoints of each trial, in addition to the best ones of the search.
        state_period: seconds between writes of Tune's state; 0: after every event; auto: 10, or more if it is slow.
    """
    for name, value in (TUNE_ENVIRONMENT | {"TUNE_GLOBAL_CHECKPOINT_S": state_period}).items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
    silence_tune()
    corpus = build_corpus(experiment, load_dataset(experiment), use_pretrained=experiment.model.embedding != "rand")
    trainable = ray.tune.with_parameters(EpochTrainable, experiment=experiment, corpus=corpus)
    trainable = ray.tune.with_resources(trainable, {"cpu": experiment.train.cpus_per_worker})
    if ray.tune.Tuner.can_restore(path):
        return ray.tune.Tuner.restore(path, trainable, resume_unfinished=True, restart_errored=True).fit()
    space = DefineByRunSpace(experiment, parse_space(experiment))
    sampler = optuna.samplers.TPESampler(seed=experiment.seed)
    storage, _, name = path.rpartition("/")
    epochs = experiment.tune.epochs or experiment.train.epochs
    return ray.tune.Tuner(
        trainable,
        tune_config=ray.tune.TuneConfig(
            num_samples=experiment.tune.trials or 1,
            max_concurrent_trials=concurrent,
            search_alg=OptunaSearch(space, metric="objective", mode="max", sampler=sampler),
            scheduler=ASHAScheduler("epoch", metric="objective", mode="max", max_t=epochs + 1, grace_period=epochs),
            reuse_actors=True,
        ),
        run_config=ray.tune.RunConfig(
            name=name,
            storage_path=storage,
            verbose=0,
            callbacks=[SearchCallback(on_end)],
            checkpoint_config=ray.tune.CheckpointConfig(
                num_to_keep=NUM_TO_KEEP,
                checkpoint_score_attribute="objective",
                checkpoint_score_order="max",
                checkpoint_at_end=False,
                checkpoint_frequency=checkpoint_frequency,
            ),
        ),
    ).fit()


def silence_tune() -> None:
    """Log errors only."""
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def find_best_checkpoint(path: str) -> str:
    """Return why no complete best checkpoint can be found in the folder of a search; empty if one can.

    The best checkpoint is that of the highest objective among those in the newest experiment state.
    """
    try:
        results = ray.tune.ResultGrid(ray.tune.ExperimentAnalysis(path))
        saved = [item for result in results for item in result.best_checkpoints]
        if not saved:
            return "no checkpoint in the state"
        best, metrics = max(saved, key=lambda item: item[1]["objective"])
    except Exception as error:
        return f"the state cannot be read: {type(error).__name__}"
    try:
        verify_checksums(best.path)
        loaded = load_checkpoint(best.path).metrics
        return "" if loaded["loss"] == metrics["loss"] else "the checkpoint is of another epoch"
    except CheckpointError:
        return "the named checkpoint is missing or incomplete"
