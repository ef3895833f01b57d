"""The best checkpoint of a search so far: named in best.json as soon as it is there, until a better one is."""

import json
import threading
from dataclasses import replace
from typing import Any

from cluster.storage import StorageError, exists, join, list_folders, read_text, remove_folder, write_text
from jobs.config import conflicts
from jobs.config.experiment import Experiment
from jobs.model.checkpoint import CheckpointError, verify_sizes
from jobs.search.records import TrialRecord, objective_metric, ranking_key, select_best_record
from jobs.search.trial import trial_folder_name
from jobs.training.checkpoint_store import CheckpointStore, checkpoint_name
from jobs.training.run_folder import BestCheckpoint, RunFolder
from jobs.training.train import BEST_EPOCH_METRICS


class BestCheckpointManager:
    """Holds best.json of a search's run, and best.yaml, its settings as an experiment.

    Args:
        run, experiment: of the search.
    """

    def __init__(self, run: RunFolder, experiment: Experiment) -> None:
        self._run, self._experiment = run, experiment
        self._metric = objective_metric(experiment)
        named = run.read_best()
        self.best = named and replace(named, finished=True)
        """What best.json says of the best checkpoint, None before there is any."""
        # The one before is left until there is a third: somebody may be reading it.
        self._before: str | None = None
        # What trials tell is heard in a thread of its own.
        self._lock = threading.Lock()
        self._swept: tuple = ()

    def best_ranking_key(self) -> tuple | None:
        """Return the rank of the best so far."""
        return ranking_key(self.best.metrics, self._metric, self.best.trial) if self.best else None

    def update_if_better(self, number: int, epoch: int, figures: dict[str, Any], settings: dict[str, Any]) -> None:
        """Name a trial's checkpoint, which is there, if it is better than what is named."""
        with self._lock:
            mine, theirs = ranking_key(figures, self._metric, number), self.best_ranking_key()
            if theirs is not None and mine <= theirs:
                return
            better = BestCheckpoint(
                checkpoint=f"{trial_folder_name(number)}/{checkpoint_name(epoch)}",
                metric=self._metric,
                metrics={key: figures[key] for key in dict.fromkeys((*BEST_EPOCH_METRICS, self._metric))},
                settings=settings,
                trial=number,
            )
            self._run.update_best(better)
            self._before, self.best = self.best and self.best.checkpoint, better
            write_best_yaml(self._run, self._experiment, better)

    def recover(self, asked: dict[int, dict[str, Any]]) -> None:
        """Name what trials had kept, ended or not, when the search was killed before it could name it.

        Others may have kept nothing since, being outdone by it.

        Args:
            asked: the settings of all trials that were begun, by number.
        """
        there = set(list_folders(self._run.path))
        for number, settings in asked.items():
            folder = join(self._run.path, trial_folder_name(number))
            for name in CheckpointStore(folder).names() if trial_folder_name(number) in there else ():
                path = join(folder, name)
                try:
                    if exists(join(path, "progress.json")):
                        continue  # of a run of Ray Train, which goes on from it and removes it
                    verify_sizes(path)
                    found = json.loads(read_text(join(path, "metrics.json")))
                    figures = {key: found[key] for key in ("epoch", *BEST_EPOCH_METRICS, self._metric)}
                except (CheckpointError, StorageError, ValueError, KeyError, TypeError):
                    continue  # damaged; its trial is trained again
                self.update_if_better(number, figures["epoch"], figures, settings)

    def reconcile(self, records: list[TrialRecord]) -> list[TrialRecord]:
        """Name the best of some records, if it is not: a search that was killed may have kept it and not said so.

        Returns:
            The records without those whose checkpoint should be the best and is not there, to be trained again.
        """
        while True:
            best, named = select_best_record(records, self._metric), self.best_ranking_key()
            if best is None or (
                named is not None and named >= ranking_key(best.best_metrics, self._metric, best.number)
            ):
                return records
            try:
                self.update_if_better(best.number, best.best, best.best_metrics, best.settings)
            except CheckpointError:
                records = [record for record in records if record is not best]

    def prune_checkpoints(self, records: list[TrialRecord]) -> None:
        """Remove what trials have kept that is outdone, but for the one before, once they have ended."""
        best = self.best_ranking_key()
        if self.best is None or best is None or self._swept == (len(records), best):
            return
        self._swept = len(records), best
        ended = {
            each.number
            for each in records
            if not each.best or ranking_key(each.best_metrics, self._metric, each.number) <= best
        }
        kept = {self.best.checkpoint, self._before}
        for folder in list_folders(self._run.path):
            prefix, _, number = folder.partition("-")
            if prefix != "trial" or not number.isdigit():
                continue
            if int(number) in ended and not any(each and each.startswith(f"{folder}/") for each in kept):
                remove_folder(join(self._run.path, folder))
            elif int(number) == self.best.trial:
                for name in CheckpointStore(join(self._run.path, folder)).names():
                    if f"{folder}/{name}" not in kept and f"{folder}/{name}" < self.best.checkpoint:
                        remove_folder(join(self._run.path, folder, name))


def write_best_yaml(run: RunFolder, experiment: Experiment, best: BestCheckpoint) -> None:
    """Write best.yaml beside best.json: the experiment with the best settings, which trains as `train.epochs` says."""
    metric = {"train.metric": objective_metric(experiment)}
    chosen = conflicts.drop_ineffective_settings(experiment.replace(metric | dict(best.settings or {}))).to_yaml()
    write_text(join(run.path, "best.yaml"), chosen)
    if run.is_published():
        write_text(join(run.experiment_folder, "best.yaml"), chosen)
