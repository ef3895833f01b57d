"""One trial of a search: a training in the trial's own process, one epoch per step.

A checkpoint is written when an epoch is the best of the whole search so far; of other epochs only the figures are
saved. A trial that is longer than `train.checkpoint_minutes` also saves the state that it can resume from.
"""

import time
import traceback
from collections.abc import Callable

from cluster import UsageError, first_line
from cluster.storage import join
from jobs.config.experiment import Experiment
from jobs.search.records import RankingKey, TrialReport, encode_predictions, ranking_key, trial_folder_name
from jobs.training.corpora.corpus import Corpus
from jobs.training.history import Epoch, Progress
from jobs.training.loop import create_loop
from jobs.training.run_files import snapshot
from jobs.training.run_files.checkpoint_store import BackgroundExecutor, CheckpointStore, checkpoint_name


class Trial:
    """Training of one trial; resumes from the state that an interrupted trial of the same number saved.

    Args:
        number: of the trial, from 1.
        experiment: with the trial's settings.
        path: folder of the search; None if nothing is written.
        is_new_best: returns whether a ranking key is better than those of all saved checkpoints.
        on_checkpoint: receives the ranking key and the epoch of a checkpoint that has been written.
    """

    def __init__(
        self,
        number: int,
        experiment: Experiment,
        corpus: Corpus,
        path: str | None,
        is_new_best: Callable[[RankingKey], bool],
        on_checkpoint: Callable[[RankingKey, Epoch], None],
        device: str = "cpu",
    ) -> None:
        self.number, self.experiment, self.corpus = number, experiment, corpus
        self._is_new_best, self._on_checkpoint = is_new_best, on_checkpoint
        self.loop = create_loop(experiment, corpus, device=device)
        self._stores: tuple[CheckpointStore, CheckpointStore] | None = None  # of best epochs, and of the unfinished run
        if path is not None:
            folder = join(path, trial_folder_name(number))
            # The driver removes outdated checkpoints, after best.json names a better one.
            self._stores = CheckpointStore(folder, num_to_keep=None), CheckpointStore(join(folder, "unfinished"))
        self._background = BackgroundExecutor()
        self._saved_at = time.monotonic()
        saved = self._stores[1].load_newest_valid(require_best=False) if self._stores else None
        if saved is not None:
            snapshot.restore(self.loop, saved[1])
        self._epochs = self.loop.train_epochs()

    def step(self) -> TrialReport:
        """Train one epoch and return the state after it.

        Raises:
            TrainingDiverged: the loss is no longer a number.
            StorageError: a checkpoint cannot be written.
        """
        progress, settings = self.loop.progress, self.experiment.train
        epoch, improved = next(self._epochs)
        finished = progress.is_finished(settings.last_epoch, settings.patience, settings.frozen_epochs)
        if improved:
            self._save_if_best(epoch)
        is_due = time.monotonic() - self._saved_at > settings.checkpoint_minutes * 60
        if self._stores is not None and is_due and not finished:
            self._saved_at = time.monotonic()
            write = snapshot.capture(self.experiment, self.corpus, self.loop, resumable=True)
            name, (_, unfinished) = checkpoint_name(epoch.epoch), self._stores
            self._background.submit(lambda: unfinished.write(name, write, 0))
        if finished:
            self.close()
        return TrialReport(progress, finished, predicted=encode_predictions(self.loop.predicted))

    def close(self) -> None:
        """Wait until everything is written."""
        self._background.wait()

    def _save_if_best(self, epoch: Epoch) -> None:
        """Write the checkpoint of an epoch that is the best of the search so far; it is complete on return."""
        key = ranking_key(vars(epoch), self.experiment.train.metric, self.number)
        if self._stores is not None and self._is_new_best(key):
            write = snapshot.capture(self.experiment, self.corpus, self.loop, resumable=False)
            self._stores[0].write(checkpoint_name(epoch.epoch), write, epoch.epoch)
            self._on_checkpoint(key, epoch)


def build_failure_report(error: Exception, progress: Progress | None) -> TrialReport:
    """Return the report of a trial that raised an error, with the epochs before it."""
    error = getattr(error, "cause", None) or error  # the error that another process raised
    line = first_line(error)
    is_usage_error = isinstance(error, UsageError)
    reason = line if is_usage_error else f"{type(error).__name__}: {line}"
    if isinstance(error, MemoryError) or "not enough memory" in str(error) or "out of memory" in str(error):
        reason = f"out of memory: {line}"
    detail = "" if is_usage_error else traceback.format_exc()
    return TrialReport(progress or Progress(), finished=True, error=reason, detail=detail)
