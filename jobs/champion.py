"""The best checkpoint of a search so far: named in best.json as soon as it is there, until a better one is."""

from typing import Any

from cluster.storage import folders, join, remove_folder, write_text
from jobs import conflicts
from jobs.checkpoints import Checkpoints, name_of
from jobs.experiment import Experiment
from jobs.ledger import objective, rank
from jobs.run import Run
from jobs.train import METRICS
from jobs.trial import folder_of


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
        self._swept: tuple = ()

    def rank(self) -> tuple | None:
        """Return the rank of the best so far."""
        return rank(self.best["metrics"], self._metric, self.best["trial"]) if self.best else None

    def hear(self, number: int, epoch: int, figures: dict[str, Any], settings: dict[str, Any]) -> None:
        """Name a trial's checkpoint, which is there, if it is better than what is named."""
        mine, theirs = rank(figures, self._metric, number), self.rank()
        if theirs is not None and mine <= theirs:
            return
        self._before = self.best["checkpoint"] if self.best else None
        self.best = {
            "checkpoint": f"{folder_of(number)}/{name_of(epoch)}",
            "metric": self._metric,
            "metrics": {key: figures[key] for key in dict.fromkeys((*METRICS, self._metric))},
            "settings": settings,
            "trial": number,
        }
        self._run.update(self.best)
        self.write_yaml()

    def write_yaml(self) -> str:
        """Write best.yaml beside the experiment's best.json and return its path."""
        assert self.best is not None
        path = join(self._run.folder, "best.yaml")
        write_text(path, conflicts.relieved(self._experiment.replace(self.best["settings"])).to_yaml())
        return path

    def sweep(self, ended: set[int]) -> None:
        """Remove what trials have kept that is outdone, but for the one before, once they have ended."""
        if not self.best or self._swept == (ended, self.best["checkpoint"]):
            return
        self._swept = ended, self.best["checkpoint"]
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
