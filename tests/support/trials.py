"""Trials on the toy data."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray.tune

from jobs.config.experiment import Experiment
from jobs.search.records import RankingKey, TrialReport
from jobs.search.trial import Trial
from jobs.training.history import Epoch
from tests.support.toy_data import make_test_corpus


def make_trial(
    experiment: Experiment, folder: Path, is_new_best: Callable[[RankingKey], bool] = lambda key: True
) -> tuple[Trial, list[tuple[RankingKey, Epoch]]]:
    """Return trial 7, and the list of the ranking keys and epochs of the checkpoints that it saves."""
    saved: list[tuple[RankingKey, Epoch]] = []
    corpus = make_test_corpus(experiment)
    trial = Trial(7, experiment, corpus, str(folder), is_new_best, lambda key, epoch: saved.append((key, epoch)))
    return trial, saved


def run_trial(trial: Trial) -> list[TrialReport]:
    """Return the reports of all remaining epochs of a trial."""
    reports = [trial.step()]
    while not reports[-1].finished:
        reports.append(trial.step())
    return reports


class RecordedResults(ray.tune.Callback):
    """A user's callback of Tune. results: all results that it has received."""

    results: list[dict[str, Any]] = []  # noqa: RUF012

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any) -> None:
        """Store a result."""
        self.results.append(dict(result))
