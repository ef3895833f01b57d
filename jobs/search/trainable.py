"""Trials as Ray Tune runs them: in processes that are used again, or around a run of Ray Train."""

import queue
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from cluster.storage import join, write_text
from jobs.config.experiment import Experiment
from jobs.search.records import rank
from jobs.search.trial import Trial, failed, folder_of, outcome, settings_of
from jobs.training.checkpoint_store import Checkpoints
from jobs.training.corpus import Corpus
from jobs.training.corpus_cache import key_of
from jobs.training.history import Epoch, Progress
from jobs.training.monitor import Heard
from jobs.training.run_folder import Run
from jobs.training.train import fit

# Corpora that a process holds; the arrays are the node's, but their words are its own.
HELD = 2

# So often a trial looks whether its workers have ended.
LOOK_S = 0.2


def in_process(experiment: Experiment, path: str, corpora: dict[str, Any], library: Any, board: Any) -> Any:
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
                if is_loss(error):
                    raise  # Tune begins the trial again
                return failed(error, self._trial and self._trial.loop.progress)

        def cleanup(self) -> None:
            if self._trial is not None:
                self._trial.close()

        def _begin(self) -> Trial:
            chosen = settings_of(experiment, self._given["settings"])
            number, settings = self._given["number"], self._given["settings"]

            def kept(rank: tuple, epoch: int, figures: dict[str, Any]) -> None:
                ray.get(board.kept.remote(rank, (number, epoch, figures, settings)))

            return Trial(
                number,
                chosen,
                self._corpus(chosen),
                path,
                beats=lambda rank: board is not None and ray.get(board.beats.remote(rank)),
                kept=kept,
                device=self._device,
            )

        def _corpus(self, chosen: Experiment) -> Corpus:
            key = key_of(chosen)
            if key not in self._held:
                reference = corpora.get(key) or ray.get(library.corpus.remote(chosen))[0]
                while len(self._held) >= HELD:
                    self._held.pop(next(iter(self._held)))
                self._held[key] = ray.get(reference)
            return self._held[key]

    return InProcess


def around_train(experiment: Experiment, path: str, corpora: dict[str, Any], library: Any, board: Any) -> Any:
    """Return Tune's Trainable of trials that are runs of Ray Train, with several workers each.

    Args:
        path, corpora, library, board: see `in_process`.
    """
    import ray
    import ray.tune

    class AroundTrain(ray.tune.Trainable):
        def setup(self, config: dict[str, Any]) -> None:
            self._number, self._settings = config["number"], config["settings"]
            self._chosen = settings_of(experiment, self._settings)
            self._run = Run(path, folder_of(self._number))
            self._progress, self._heard = Progress(), Heard(time.time())
            self._ended: Future[dict[str, Any]] | None = None

        def step(self) -> dict[str, Any]:
            try:
                if self._ended is None:
                    found = Checkpoints(self._run.path).resumable(lambda line: None)
                    self._progress = Progress.from_json(found[1].progress) if found else Progress()
                    self._ended = ThreadPoolExecutor(1).submit(self._train)
                while not self._ended.done():
                    with suppress(queue.Empty):
                        epoch = self._heard.epochs.get(timeout=LOOK_S)
                        self._progress = with_epoch(self._progress, epoch, self._chosen.train.metric)
                        return self._outcome(finished=False)
                self._progress = Progress.from_json(self._ended.result()["progress"])
                self._keep()
                return self._outcome(finished=True)
            except Exception as error:
                return failed(error, self._progress)

        def _train(self) -> dict[str, Any]:
            reference = corpora.get(key_of(self._chosen)) or ray.get(library.corpus.remote(self._chosen))[0]
            gpu = bool(self._chosen.train.use_gpu)
            write_text(join(self._run.path, "experiment.yaml"), self._chosen.to_yaml())  # which workers look for
            return fit(self._chosen, reference, self._run, gpu, lambda line: None, self._heard, alone=False)

        def _outcome(self, *, finished: bool) -> dict[str, Any]:
            return outcome(self._progress, self._chosen.train.metric, finished=finished)

        def _keep(self) -> None:
            best = vars(self._progress.epochs[self._progress.best - 1])
            mine = rank(best, self._chosen.train.metric, self._number)
            if board is not None and ray.get(board.beats.remote(mine)):
                ray.get(board.kept.remote(mine, (self._number, self._progress.best, best, self._settings)))

    return AroundTrain


def with_epoch(progress: Progress, epoch: Epoch, metric: str) -> Progress:
    """Return progress with an epoch, in place of it and those after it, which were lost and are done again."""
    found = Progress()
    for each in [*progress.epochs[: epoch.epoch - 1], epoch]:
        found.add(each, metric)
    return found


def is_loss(error: Exception) -> bool:
    """Tell whether an error is that of Ray, of an actor or an object that went with a process or a node."""
    from ray.exceptions import RayError, RayTaskError

    return isinstance(error, RayError) and not isinstance(error, RayTaskError)
