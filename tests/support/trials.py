"""Trials on the toy data."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from jobs.config.experiment import Experiment
from jobs.search.trial import Trial
from tests.conftest import make_test_corpus


def trial(
    experiment: Experiment, folder: Path, beats: Callable[[tuple], bool] = lambda rank: True
) -> tuple[Trial, list]:
    """A trial, and the list of what it keeps."""
    kept: list[Any] = []
    found = Trial(7, experiment, make_test_corpus(experiment), str(folder), beats, lambda *what: kept.append(what))
    return found, kept


def run(one: Trial) -> list[dict[str, Any]]:
    told = [one.step()]
    while not told[-1]["finished"]:
        told.append(one.step())
    return told
