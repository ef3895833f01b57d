"""What a search tries next, and when it has tried enough. No Ray here.

Everything follows from the seed and from the records of the trials that have ended, so that a search that was cut
off goes on as itself: points of a grid and random ones are known beforehand, and Optuna is told what is known.
"""

import logging
import time
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from jobs.config.experiment import Experiment
from jobs.config.settings import ModelSettings, TrainSettings
from jobs.search.records import TrialRecord, objective_metric, select_best_record
from jobs.search.space import Dimension, generate_points, is_active
from jobs.training.history import MINIMIZED_METRICS

if TYPE_CHECKING:
    pass

# Trials that Optuna draws at random before it has something to go by, those of Kim's settings among them.
STARTUP_TRIALS = 10

# Trials of a search that only its minutes or its patience end.
MAX_TRIALS = 10_000


class Sampler(Protocol):
    """Where settings come from."""

    def ask(self, number: int, asked: dict[str, Any] | None) -> dict[str, Any] | None:
        """Return those of the trial of a number, from 1; None if there are no more.

        Args:
            asked: those that an earlier command gave it, if its trial has not ended since.
        """

    def tell(self, record: TrialRecord) -> None:
        """Take note of a trial that has ended."""


class FixedSampler:
    """Settings that are known beforehand."""

    def __init__(self, all_settings: list[dict[str, Any]]) -> None:
        self._all = all_settings

    def ask(self, number: int, asked: dict[str, Any] | None) -> dict[str, Any] | None:
        """Return the settings of a trial."""
        return self._all[number - 1] if number <= len(self._all) else None

    def tell(self, record: TrialRecord) -> None:
        """Change nothing: what comes next does not depend on it."""


class OptunaSampler:
    """Tree-structured Parzen estimators (Bergstra et al. 2011), which begin with the settings of Kim (2014).

    Args:
        num_known: trials of earlier commands.
    """

    def __init__(self, experiment: Experiment, space: list[Dimension], num_known: int = 0) -> None:
        import optuna

        optuna.logging.set_verbosity(logging.ERROR)
        self._experiment, self._space = experiment, space
        self._metric = objective_metric(experiment)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # `multivariate` and `group` are called experimental
            sampler = optuna.samplers.TPESampler(
                # Not to draw again what an earlier command drew.
                seed=experiment.seed + num_known,
                n_startup_trials=STARTUP_TRIALS,
                multivariate=True,
                group=True,
                constant_liar=True,
            )
        direction = "minimize" if self._metric in MINIMIZED_METRICS else "maximize"
        self._study = optuna.create_study(sampler=sampler, direction=direction)
        self._asked: dict[int, optuna.trial.Trial] = {}
        self._first = build_initial_points(space)

    def ask(self, number: int, asked: dict[str, Any] | None) -> dict[str, Any] | None:
        """Ask for the settings of a trial."""
        if asked is not None or number <= len(self._first):
            self._study.enqueue_trial(_params(self._space, asked or self._first[number - 1]))
        trial = self._study.ask()
        found: dict[str, Any] = {}
        for each in self._space:
            if is_active(each, found, self._space, self._experiment):
                found[each.path] = each.suggest(trial)
        self._asked[number] = trial
        return found

    def tell(self, record: TrialRecord) -> None:
        """Learn from a trial, also from one that an earlier command ran."""
        from optuna.trial import TrialState, create_trial

        state = TrialState.COMPLETE if record.best else TrialState.FAIL
        value = record.best_metrics.get(self._metric)
        asked = self._asked.pop(record.number, None)
        if asked is not None:
            self._study.tell(asked, value, state)
            return
        space = {each.path: each for each in self._space if each.path in record.settings}
        self._study.add_trial(
            create_trial(
                params=_params(self._space, record.settings),
                distributions={path: each.distribution() for path, each in space.items()},
                value=value,
                state=state,
            )
        )


def build_initial_points(space: list[Dimension]) -> list[dict[str, Any]]:
    """Return the settings of Kim (2014) as far as they are in the space, for each kind of embedding in it."""
    kims = {f"model.{key}": value for key, value in ModelSettings().model_dump().items()} | {
        "train.batch_size": TrainSettings().batch_size
    }
    fixed = {each.path: kims[each.path] for each in space if each.path in kims and each.contains(kims[each.path])}
    for each in space:
        if each.path == "model.embedding":
            return [fixed | {each.path: kind} for kind in each.values]
    return [fixed] if fixed else []


class Search:
    """Hands out numbered trials until the search's limits are reached.

    Args:
        records: of earlier commands; their trials are not handed out again.
        asked: settings by number, of trials that earlier commands handed out.
        keep: is given each number and its settings before they are handed out.
    """

    def __init__(
        self,
        experiment: Experiment,
        sampler: Sampler,
        limit: int,
        records: list[TrialRecord],
        asked: dict[int, dict[str, Any]] | None = None,
        keep: Callable[[int, dict[str, Any]], None] = lambda number, settings: None,
    ) -> None:
        self._experiment, self._sampler = experiment, sampler
        self._given, self._keep = asked or {}, keep
        self.max_trials = limit
        self.records = {record.number: record for record in records}
        self._next = 1
        self._began = time.monotonic()
        self.stop_reason = ""
        """Why no further trial begins, where it is not that all were tried."""
        for record in records:
            sampler.tell(record)

    def next_trial(self) -> tuple[int, dict[str, Any]] | None:
        """Return the next trial's number and settings; None if no further one begins."""
        self.check_limits()
        if self.stop_reason:
            return None
        while self._next in self.records:
            self._next += 1
        number = self._next
        settings = self._sampler.ask(number, self._given.get(number)) if number <= self.max_trials else None
        if settings is None:
            return None
        if number not in self._given:
            self._keep(number, settings)
        self._next += 1
        return number, settings

    def add_record(self, record: TrialRecord) -> None:
        """Take note of a trial that has ended."""
        self.records[record.number] = record
        self._sampler.tell(record)
        self.check_limits()

    @property
    def total_suffix(self) -> str:
        """How many trials there will be, in words behind a number; nothing where nobody knows."""
        return "" if self.max_trials == MAX_TRIALS else f" of {self.max_trials}"

    @property
    def exhausted(self) -> bool:
        """Tell whether all trials have ended."""
        return all(number in self.records for number in range(1, self.max_trials + 1))

    @property
    def out_of_time(self) -> bool:
        """Tell whether the minutes are over; trials that run are stopped then."""
        minutes = self._experiment.tune.minutes
        return minutes is not None and time.monotonic() - self._began > minutes * 60

    def check_limits(self) -> None:
        """Find out whether a limit is reached."""
        tune = self._experiment.tune
        if self.out_of_time:
            self.stop_reason = f"tune.minutes={tune.minutes:g} are over"
        elif tune.patience is not None:
            best = select_best_record(self.records.values(), objective_metric(self._experiment))
            # In the order in which they ended, which an earlier command's numbers do not tell.
            ended = sorted(self.records.values(), key=lambda each: each.ended)
            since = len(ended) - 1 - ended.index(best) if best else 0
            if since >= tune.patience:
                self.stop_reason = f"no better one among the last {since} trials (tune.patience)"


def build_search(
    experiment: Experiment,
    space: list[Dimension],
    records: list[TrialRecord],
    asked: dict[int, dict[str, Any]] | None = None,
    keep: Callable[[int, dict[str, Any]], None] = lambda number, settings: None,
) -> Search:
    """Return the search that an experiment asks for, with what earlier commands found.

    Args:
        asked, keep: see `Search`.
    """
    tune = experiment.tune
    grid = all(each.kind == "grid" for each in space)
    endless = MAX_TRIALS if (tune.minutes or tune.patience) and not grid else None
    known = generate_points(experiment, space, tune.trials or endless)
    if tune.search == "optuna":
        limit = tune.trials or endless or len(known)
        return Search(experiment, OptunaSampler(experiment, space, len(records)), limit, records, asked, keep)
    return Search(experiment, FixedSampler(known), len(known), records, asked, keep)


def _params(space: list[Dimension], settings: dict[str, Any]) -> dict[str, Any]:
    return {each.path: each.to_optuna_value(settings[each.path]) for each in space if each.path in settings}
