"""The best checkpoint of a search so far: named in best.json as soon as it is there, until a better one is."""

import json
import threading
from typing import Any

from cluster.storage import StorageError, exists, folders, join, read_text, remove_folder, write_text
from jobs.config import conflicts
from jobs.config.experiment import Experiment
from jobs.model.checkpoint import CheckpointError, require_whole
from jobs.search.records import Record, best_of, objective, rank
from jobs.search.trial import folder_of
from jobs.training.checkpoint_store import Checkpoints, name_of
from jobs.training.run_folder import Run
from jobs.training.train import METRICS


class Champion:
    """Holds best.json of a search's run, and best.yaml, its settings as an experiment.

    Args:
        run, experiment: of the search.
    """

    def __init__(self, run: Run, experiment: Experiment) -> None:
        self._run, self._experiment = run, experiment
        self._metric = objective(experiment)
        named = run.named()
        self.best = named and {key: value for key, value in named.items() if key != "finished"}
        """What best.json says of the best checkpoint, None before there is any."""
        # The one before is left until there is a third: somebody may be reading it.
        self._before: str | None = None
        # What trials tell is heard in a thread of its own.
        self._lock = threading.Lock()
        self._swept: tuple = ()

    def rank(self) -> tuple | None:
        """Return the rank of the best so far."""
        return rank(self.best["metrics"], self._metric, self.best["trial"]) if self.best else None

    def hear(self, number: int, epoch: int, figures: dict[str, Any], settings: dict[str, Any]) -> None:
        """Name a trial's checkpoint, which is there, if it is better than what is named."""
        with self._lock:
            mine, theirs = rank(figures, self._metric, number), self.rank()
            if theirs is not None and mine <= theirs:
                return
            better = {
                "checkpoint": f"{folder_of(number)}/{name_of(epoch)}",
                "metric": self._metric,
                "metrics": {key: figures[key] for key in dict.fromkeys((*METRICS, self._metric))},
                "settings": settings,
                "trial": number,
            }
            self._run.update(better)
            self._before, self.best = self.best and self.best["checkpoint"], better
            write_yaml(self._run, self._experiment, better)

    def recover(self, asked: dict[int, dict[str, Any]]) -> None:
        """Name what trials had kept, ended or not, when the search was killed before it could name it.

        Others may have kept nothing since, being outdone by it.

        Args:
            asked: the settings of all trials that were begun, by number.
        """
        there = set(folders(self._run.path))
        for number, settings in asked.items():
            folder = join(self._run.path, folder_of(number))
            for name in Checkpoints(folder).names() if folder_of(number) in there else ():
                path = join(folder, name)
                try:
                    if exists(join(path, "progress.json")):
                        continue  # of a run of Ray Train, which goes on from it and removes it
                    require_whole(path)
                    found = json.loads(read_text(join(path, "metrics.json")))
                    figures = {key: found[key] for key in ("epoch", *METRICS, self._metric)}
                except (CheckpointError, StorageError, ValueError, KeyError, TypeError):
                    continue  # damaged; its trial is trained again
                self.hear(number, figures["epoch"], figures, settings)

    def settle(self, records: list[Record]) -> list[Record]:
        """Name the best of some records, if it is not: a search that was killed may have kept it and not said so.

        Returns:
            The records without those whose checkpoint should be the best and is not there, to be trained again.
        """
        while True:
            best, named = best_of(records, self._metric), self.rank()
            if best is None or (named is not None and named >= rank(best.figures, self._metric, best.number)):
                return records
            try:
                self.hear(best.number, best.best, best.figures, best.settings)
            except CheckpointError:
                records = [record for record in records if record is not best]

    def sweep(self, records: list[Record]) -> None:
        """Remove what trials have kept that is outdone, but for the one before, once they have ended."""
        best = self.rank()
        if self.best is None or best is None or self._swept == (len(records), best):
            return
        self._swept = len(records), best
        ended = {
            each.number for each in records if not each.best or rank(each.figures, self._metric, each.number) <= best
        }
        kept = {self.best["checkpoint"], self._before}
        for folder in folders(self._run.path):
            prefix, _, number = folder.partition("-")
            if prefix != "trial" or not number.isdigit():
                continue
            if int(number) in ended and not any(each and each.startswith(f"{folder}/") for each in kept):
                remove_folder(join(self._run.path, folder))
            elif int(number) == self.best["trial"]:
                for name in Checkpoints(join(self._run.path, folder)).names():
                    if f"{folder}/{name}" not in kept and f"{folder}/{name}" < self.best["checkpoint"]:
                        remove_folder(join(self._run.path, folder, name))


def write_yaml(run: Run, experiment: Experiment, best: dict[str, Any]) -> None:
    """Write best.yaml beside best.json: the experiment with the best settings, which trains as `train.epochs` says."""
    metric = {"train.metric": objective(experiment)}
    chosen = conflicts.relieved(experiment.replace(metric | best["settings"])).to_yaml()
    write_text(join(run.path, "best.yaml"), chosen)
    published = join(run.folder, "best.json")
    if exists(published) and json.loads(read_text(published)).get("run") == run.name:
        write_text(join(run.folder, "best.yaml"), chosen)
