"""Trials as Ray Tune runs them: in processes that are used again, or around a run of Ray Train."""

import queue
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from cluster.storage import join, write_text
from jobs.config.experiment import Experiment
from jobs.search.records import ranking_key
from jobs.search.trial import Trial, apply_trial_settings, build_failure_result, build_trial_result, trial_folder_name
from jobs.training.checkpoint_store import CheckpointStore
from jobs.training.corpus import Corpus
from jobs.training.corpus_cache import corpus_key
from jobs.training.history import Epoch, Progress
from jobs.training.monitor import RunStatus
from jobs.training.run_folder import RunFolder
from jobs.training.train import fit

# Corpora that a process holds; the arrays are the node's, but their words are its own.
MAX_CACHED_CORPORA = 2

# So often a trial looks whether its workers have ended.
EPOCH_POLL_S = 0.2


def build_in_process_trainable(
    experiment: Experiment, path: str, corpora: dict[str, Any], library: Any, board: Any
) -> Any:
    """Return Tune's Trainable of trials that train in their own process.

    Args:
        path: of the search.
        corpora: references by key; library: the actor that prepares others, if there may be others.
        board: the actor that trials tell what they have kept; without one nothing is.
    """
    import ray
    import ray.tune

    class InProcess(ray.tune.Trainable):
        def setup(self, config: dict[str, Any]) -> None:
            import torch

            torch.set_num_threads(experiment.train.cpus_per_worker)
            on_gpu = bool(ray.get_gpu_ids()) and torch.cuda.is_available()
            self._device = "cuda" if on_gpu else "cpu"
            self._given = config
            self._trial: Trial | None = None
            self._held: dict[str, Corpus] = {}

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self.cleanup()
            self._given, self._trial = new_config, None
            return True

        def step(self) -> dict[str, Any]:
            try:
                if self._trial is None:
                    self._trial = self._begin()
                return self._trial.step()
            except Exception as error:
                if is_system_failure(error):
                    raise  # Tune begins the trial again
                return build_failure_result(error, self._trial and self._trial.loop.progress)

        def cleanup(self) -> None:
            if self._trial is not None:
                self._trial.close()

        def _begin(self) -> Trial:
            chosen = apply_trial_settings(experiment, self._given["settings"])
            number, settings = self._given["number"], self._given["settings"]

            def kept(rank: tuple, epoch: int, figures: dict[str, Any]) -> None:
                ray.get(board.record_checkpoint.remote(rank, (number, epoch, figures, settings)))

            return Trial(
                number,
                chosen,
                self._corpus(chosen),
                path,
                is_new_best=lambda rank: board is not None and ray.get(board.is_new_best.remote(rank)),
                on_checkpoint=kept,
                device=self._device,
            )

        def _corpus(self, chosen: Experiment) -> Corpus:
            key = corpus_key(chosen)
            if key not in self._held:
                reference = corpora.get(key) or ray.get(library.get.remote(chosen))[0]
                while len(self._held) >= MAX_CACHED_CORPORA:
                    self._held.pop(next(iter(self._held)))
                self._held[key] = ray.get(reference)
            return self._held[key]

    return InProcess


def build_distributed_trainable(
    experiment: Experiment, path: str, corpora: dict[str, Any], library: Any, board: Any
) -> Any:
    """Return Tune's Trainable of trials that are runs of Ray Train, with several workers each.

    Args:
        path, corpora, library, board: see `in_process`.
    """
    import ray
    import ray.tune

    class AroundTrain(ray.tune.Trainable):
        def setup(self, config: dict[str, Any]) -> None:
            self._number, self._settings = config["number"], config["settings"]
            self._chosen = apply_trial_settings(experiment, self._settings)
            self._run = RunFolder(path, trial_folder_name(self._number))
            self._progress, self._heard = Progress(), RunStatus(time.time())
            self._ended: Future[dict[str, Any]] | None = None

        def step(self) -> dict[str, Any]:
            try:
                if self._ended is None:
                    found = CheckpointStore(self._run.path).load_newest_valid()
                    self._progress = Progress.from_json(found[1].progress) if found else Progress()
                    self._ended = ThreadPoolExecutor(1).submit(self._train)
                while not self._ended.done():
                    with suppress(queue.Empty):
                        epoch = self._heard.finished_epochs.get(timeout=EPOCH_POLL_S)
                        self._progress = with_epoch(self._progress, epoch, self._chosen.train.metric)
                        return self._outcome(finished=False)
                self._progress = Progress.from_json(self._ended.result()["progress"])
                self._keep()
                return self._outcome(finished=True)
            except Exception as error:
                return build_failure_result(error, self._progress)

        def _train(self) -> dict[str, Any]:
            reference = corpora.get(corpus_key(self._chosen)) or ray.get(library.get.remote(self._chosen))[0]
            gpu = bool(self._chosen.train.use_gpu)
            write_text(join(self._run.path, "experiment.yaml"), self._chosen.to_yaml())  # which workers look for
            return fit(self._chosen, reference, self._run, gpu, lambda line: None, self._heard, sole_workload=False)

        def _outcome(self, *, finished: bool) -> dict[str, Any]:
            return build_trial_result(self._progress, self._chosen.train.metric, finished=finished)

        def _keep(self) -> None:
            best = vars(self._progress.epochs[self._progress.best - 1])
            mine = ranking_key(best, self._chosen.train.metric, self._number)
            if board is not None and ray.get(board.is_new_best.remote(mine)):
                ray.get(board.record_checkpoint.remote(mine, (self._number, self._progress.best, best, self._settings)))

    return AroundTrain


def with_epoch(progress: Progress, epoch: Epoch, metric: str) -> Progress:
    """Return progress with an epoch, in place of it and those after it, which were lost and are done again."""
    found = Progress()
    for each in [*progress.epochs[: epoch.epoch - 1], epoch]:
        found.add(each, metric)
    return found


def is_system_failure(error: Exception) -> bool:
    """Tell whether an error is that of Ray, of an actor or an object that went with a process or a node."""
    from ray.exceptions import RayError, RayTaskError

    return isinstance(error, RayError) and not isinstance(error, RayTaskError)
