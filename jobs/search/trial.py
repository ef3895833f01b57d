"""One trial of a search: a training in the trial's own process, an epoch at a time.

A checkpoint is written when an epoch is the best of the whole search so far; of all others only figures are kept.
A trial longer than `train.checkpoint_minutes` keeps besides what it needs to go on.
"""

import json
import time
import traceback
from collections.abc import Callable
from typing import Any

from cluster import UsageError
from cluster.storage import join
from jobs.config.experiment import Experiment
from jobs.search.records import objective_metric, ranking_key
from jobs.training import snapshot
from jobs.training.checkpoint_store import BackgroundExecutor, CheckpointStore, checkpoint_name
from jobs.training.corpus import Corpus
from jobs.training.history import Progress, negate_if_minimized
from jobs.training.loop import create_loop


class Trial:
    """Trains.

    Args:
        number: of the trial, from 1.
        experiment: with the trial's settings.
        path: of the search.
        beats: tells whether an epoch's rank is above all that were kept.
        kept: is told of a checkpoint that was written: its rank, its epoch, and the figures.
    """

    def __init__(
        self,
        number: int,
        experiment: Experiment,
        corpus: Corpus,
        path: str,
        is_new_best: Callable[[tuple], bool],
        on_checkpoint: Callable[[tuple, int, dict[str, Any]], None],
        device: str = "cpu",
    ) -> None:
        self.number, self.experiment, self.corpus = number, experiment, corpus
        self._beats, self._kept = is_new_best, on_checkpoint
        self.loop = create_loop(experiment, corpus, device=device)
        folder = join(path, trial_folder_name(number))
        # Whoever names the best one removes the others, when it is named.
        self._best, self._unfinished = (
            CheckpointStore(folder, num_to_keep=None),
            CheckpointStore(join(folder, "unfinished")),
        )
        self._background = BackgroundExecutor()
        self._written = time.monotonic()
        found = self._unfinished.load_newest_valid(require_best=False)
        if found is not None:
            snapshot.restore(self.loop, found[1])
        self._epochs = self.loop.train_epochs()

    def step(self) -> dict[str, Any]:
        """Train an epoch and return its figures, and `finished`, whether it was the last.

        Raises:
            TrainingDiverged, StorageError.
        """
        progress = self.loop.progress
        epoch, improved = next(self._epochs)
        settings = self.experiment.train
        finished = progress.is_finished(settings.last_epoch, settings.patience, settings.frozen_epochs)
        mine = ranking_key(vars(epoch), settings.metric, self.number)
        if improved and self._beats(mine):
            # Not beside the training: what is told of an epoch is there.
            write = snapshot.capture(self.experiment, self.corpus, self.loop, resumable=False)
            self._best.write(checkpoint_name(epoch.epoch), write, epoch.epoch)
            self._kept(mine, epoch.epoch, vars(epoch))
        if not finished and time.monotonic() - self._written > settings.checkpoint_minutes * 60:
            self._written = time.monotonic()
            later = snapshot.capture(self.experiment, self.corpus, self.loop, resumable=True)
            self._background.submit(lambda: self._unfinished.write(checkpoint_name(epoch.epoch), later, 0))
        if finished:
            self.close()
        return build_trial_result(progress, settings.metric, finished=finished)

    def close(self) -> None:
        """Wait until all that is to be kept is."""
        self._background.wait()


def trial_folder_name(number: int) -> str:
    """Return the name of a trial's folder."""
    return f"trial-{number:05d}"


def apply_trial_settings(experiment: Experiment, settings: dict[str, Any]) -> Experiment:
    """Return the experiment that a trial trains."""
    epochs = {"train.epochs": experiment.tune.epochs} if experiment.tune.epochs else {}
    chosen = {"train.metric": objective_metric(experiment)} | epochs | settings
    return experiment.replace(chosen)


def build_trial_result(progress: Progress, metric: str, *, finished: bool) -> dict[str, Any]:
    """Return what a trial tells after an epoch."""
    last = progress.epochs[-1]
    return {
        "epoch": last.epoch,
        "goodness": negate_if_minimized(getattr(last, metric), metric),
        "finished": finished,
        "progress": json.dumps(progress.to_json()),  # as text: Tune would look into every epoch of it
    }


def build_failure_result(error: Exception, progress: Progress | None) -> dict[str, Any]:
    """Return what is told of a trial that went wrong, with the epochs before."""
    error = getattr(error, "cause", None) or error  # of one that another process told
    memory = isinstance(error, MemoryError) or "not enough memory" in str(error) or "out of memory" in str(error)
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    reason = lines[0] if isinstance(error, UsageError) else f"{type(error).__name__}: {lines[0]}"
    return {
        "finished": True,
        "failed": f"out of memory: {lines[0]}" if memory else reason,
        "detail": "" if isinstance(error, UsageError) else traceback.format_exc(),
        "progress": json.dumps((progress or Progress()).to_json()),
    }
