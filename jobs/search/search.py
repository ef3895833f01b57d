"""State of a search: which trial is next, and when the search ends. No Ray here.

Everything follows from the seed and the records of the ended trials, so that an interrupted search resumes as the
same search: points of a grid and random points are known beforehand, and Optuna is given the known results. ASHA
compares only the trials of one command, so that the first ones of a resumed search are not stopped early.
"""

import logging
import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from jobs.config.conflicts import check_settings
from jobs.config.experiment import Experiment, ExperimentError
from jobs.embeddings.input_checks import check_inputs
from jobs.search.points import generate_points, list_own_settings
from jobs.search.records import TrialRecord, objective_metric, select_best_record
from jobs.search.space import (
    Dimension,
    describe_unused_dimensions,
    is_active,
    list_embeddings,
    parse_space,
)
from jobs.training.history import MINIMIZED_METRICS

# Trials that Optuna draws at random before its model starts, those with the experiment's own settings included.
STARTUP_TRIALS = 10

# Trials of a search that only its minutes or its patience end.
MAX_TRIALS = 10_000

# Restarts of a trial that Tune gave up on because its process was lost before it trained. Tune itself restarts those
# that trained (runner.MAX_RESTARTS_BY_TUNE).
MAX_RESTARTS_BEFORE_TRAINING = 2


class Sampler(Protocol):
    """Source of trials' settings."""

    def ask(self, number: int, started: dict[str, Any] | None) -> dict[str, Any] | None:
        """Return the settings of a trial; None if there are no more.

        Args:
            number: of the trial, from 1.
            started: the settings that an earlier command started the trial with, if it has not ended since.
        """

    def tell(self, record: TrialRecord) -> None:
        """Learn from a trial that has ended."""


class FixedSampler:
    """Settings that are known beforehand."""

    def __init__(self, all_settings: list[dict[str, Any]]) -> None:
        self._all = all_settings

    def ask(self, number: int, started: dict[str, Any] | None) -> dict[str, Any] | None:
        """Return the settings of a trial; None if there are no more."""
        return started or (self._all[number - 1] if number <= len(self._all) else None)

    def tell(self, record: TrialRecord) -> None:
        """Do nothing: later settings do not depend on earlier results."""


class OptunaSampler:
    """Tree-structured Parzen estimators (Bergstra et al. 2011), starting with the experiment's own settings.

    Args:
        num_known: ended trials of earlier commands.
    """

    def __init__(self, experiment: Experiment, space: list[Dimension], num_known: int = 0) -> None:
        import optuna

        optuna.logging.set_verbosity(logging.ERROR)
        self._experiment, self._space = experiment, space
        self._metric = objective_metric(experiment)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # `multivariate` and `group` are marked experimental
            sampler = optuna.samplers.TPESampler(
                # Another seed than earlier commands had, so as not to repeat their draws.
                seed=experiment.seed + num_known,
                n_startup_trials=STARTUP_TRIALS,
                multivariate=True,
                group=True,
                constant_liar=True,
            )
        is_minimized = self._metric in MINIMIZED_METRICS
        self._study = optuna.create_study(sampler=sampler, direction="minimize" if is_minimized else "maximize")
        self._running: dict[int, optuna.trial.Trial] = {}
        self._initial_points = list_own_settings(experiment, space)

    def ask(self, number: int, started: dict[str, Any] | None) -> dict[str, Any] | None:
        """Return the settings of a trial."""
        if started is not None or number <= len(self._initial_points):
            point = self._initial_points[number - 1] if started is None else started
            self._study.enqueue_trial(_to_optuna_params(self._space, point))
        trial = self._study.ask()
        settings: dict[str, Any] = {}
        for dimension in self._space:
            if is_active(dimension, settings, self._space, self._experiment):
                settings[dimension.path] = dimension.suggest(trial)
        self._running[number] = trial
        return settings

    def tell(self, record: TrialRecord) -> None:
        """Learn from a trial, also from one of an earlier command; of a failed one only that it failed."""
        from optuna.trial import TrialState, create_trial

        state = TrialState.COMPLETE if record.best else TrialState.FAIL
        value = record.best_value(self._metric) if record.best else None
        running = self._running.pop(record.number, None)
        if running is not None:
            self._study.tell(running, value, state)
            return
        varied = [dimension for dimension in self._space if dimension.path in record.settings]
        self._study.add_trial(
            create_trial(
                params=_to_optuna_params(self._space, record.settings),
                distributions={dimension.path: dimension.distribution() for dimension in varied},
                value=value,
                state=state,
            )
        )


def _to_optuna_params(space: list[Dimension], settings: Mapping[str, Any]) -> dict[str, Any]:
    return {item.path: item.to_optuna_value(settings[item.path]) for item in space if item.path in settings}


class Search:
    """Numbered trials, one after the other, until a limit of the search is reached.

    Args:
        max_trials: number of trials.
        records: of earlier commands; their trials are not repeated.
        started: settings by number, of trials that earlier commands started.
        on_start: called with the number and the settings of each new trial before it is returned.
        elapsed_s: seconds that earlier commands spent on the search; `tune.minutes` counts from there.
    """

    def __init__(
        self,
        experiment: Experiment,
        sampler: Sampler,
        max_trials: int,
        records: list[TrialRecord],
        started: Mapping[int, dict[str, Any]] | None = None,
        on_start: Callable[[int, dict[str, Any]], None] = lambda number, settings: None,
        elapsed_s: float = 0.0,
    ) -> None:
        self._experiment, self._sampler = experiment, sampler
        self._started, self._on_start = started or {}, on_start
        self.max_trials = max_trials
        self.records = {record.number: record for record in records}
        self._next = 1
        # Settings by number, of trials that were returned and have not ended, and of those to be returned again.
        self._running: dict[int, dict[str, Any]] = {}
        self._lost: dict[int, dict[str, Any]] = {}
        self._resubmissions: Counter[int] = Counter()
        self._start_time = time.monotonic() - elapsed_s
        self.stop_reason = ""
        """Why no further trial starts; empty if all trials were started."""
        for record in records:
            sampler.tell(record)

    def next_trial(self) -> tuple[int, dict[str, Any]] | None:
        """Return the next trial's number and settings; None if no further one starts."""
        self.check_limits()
        if self.stop_reason:
            return None
        if self._lost:
            number = min(self._lost)
            self._running[number] = self._lost.pop(number)
            return number, self._running[number]
        while self._next in self.records:
            self._next += 1
        number = self._next
        settings = self._sampler.ask(number, self._started.get(number)) if number <= self.max_trials else None
        if settings is None:
            return None
        if number not in self._started:
            self._on_start(number, settings)
        self._next += 1
        self._running[number] = settings
        return number, settings

    def resubmit(self, number: int) -> bool:
        """Return a running trial again from a later `next_trial`; false if that was done too often."""
        if number not in self._running or self._resubmissions[number] == MAX_RESTARTS_BEFORE_TRAINING:
            return False
        self._resubmissions[number] += 1
        self._lost[number] = self._running.pop(number)
        return True

    def drop(self, number: int) -> None:
        """Forget a running trial: it has ended, whether or not its record could be added."""
        self._running.pop(number, None)

    def may_continue(self) -> bool:
        """Return whether `next_trial` may return a trial later: one is running and could be lost."""
        return not self.stop_reason and bool(self._running or self._lost)

    def add_record(self, record: TrialRecord) -> None:
        """Add a trial that has ended."""
        self.drop(record.number)
        self.records[record.number] = record
        self._sampler.tell(record)
        self.check_limits()

    @property
    def total_suffix(self) -> str:
        """The number of trials, to be appended to a count: ` of 64`; empty if it is not known."""
        return "" if self.max_trials == MAX_TRIALS else f" of {self.max_trials}"

    @property
    def exhausted(self) -> bool:
        """True when all trials have ended."""
        return all(number in self.records for number in range(1, self.max_trials + 1))

    @property
    def elapsed_s(self) -> float:
        """Seconds that this command and earlier ones spent on the search."""
        return time.monotonic() - self._start_time

    @property
    def out_of_time(self) -> bool:
        """True when `tune.minutes` have passed; running trials are stopped then."""
        minutes = self._experiment.tune.minutes
        return minutes is not None and self.elapsed_s > minutes * 60

    def check_limits(self) -> None:
        """Set `stop_reason` if a limit is reached."""
        tune = self._experiment.tune
        if self.out_of_time:
            self.stop_reason = f"the time limit is reached (tune.minutes={tune.minutes:g})"
        elif tune.patience is not None:
            best = select_best_record(self.records.values(), objective_metric(self._experiment))
            # By the time at which they ended: an earlier command's numbers do not show the order.
            ended = sorted(self.records.values(), key=lambda record: record.ended)
            since = len(ended) - 1 - ended.index(best) if best else len(ended)
            if since >= tune.patience:
                outcome = f"none of the last {since} trials was better" if best else f"all {since} trials failed"
                self.stop_reason = f"{outcome} (tune.patience={tune.patience})"


def build_search(
    experiment: Experiment,
    space: list[Dimension],
    records: list[TrialRecord],
    started: Mapping[int, dict[str, Any]] | None = None,
    on_start: Callable[[int, dict[str, Any]], None] = lambda number, settings: None,
    elapsed_s: float = 0.0,
) -> Search:
    """Return the search of an experiment, with the results of earlier commands; arguments as of `Search`."""
    tune = experiment.tune
    is_grid = all(dimension.kind == "grid" for dimension in space)
    endless = MAX_TRIALS if (tune.minutes or tune.patience) and not is_grid else None
    points = generate_points(experiment, space, tune.trials or endless)
    if tune.search == "optuna" and not is_grid:
        max_trials = tune.trials or endless or len(points)
        sampler = OptunaSampler(experiment, space, len(records))
        return Search(experiment, sampler, max_trials, records, started, on_start, elapsed_s)
    return Search(experiment, FixedSampler(points), len(points), records, started, on_start, elapsed_s)


def check_search(
    experiment: Experiment, *, rows_in_memory: bool = False
) -> tuple[list[Dimension], set[str], list[str]]:
    """Return the space of a search, the kinds of embedding in it, and warnings about settings without effect.

    It takes no time, so that mistakes in settings, the space and the input files are errors before anything slow.

    Args:
        rows_in_memory: as of `check_settings`.

    Raises:
        ExperimentError: the space or a setting is invalid.
        DataError, VectorsError: a file is missing or invalid.
    """
    check_trials_start_new(experiment)
    if experiment.train.use_gpu is False and experiment.tune.gpus_per_trial:
        raise ExperimentError("tune.gpus_per_trial has no effect with train.use_gpu=false; remove one of them")
    space = parse_space(experiment)
    kinds = list_embeddings(experiment, space)
    values = {item.path: item.values for item in space}
    notes = check_settings(experiment, kinds, values, rows_in_memory=rows_in_memory)
    notes += describe_unused_dimensions(experiment, space)
    if experiment.data.out_of_scope is not None and experiment.data.out_of_scope_use == "auto":
        notes.append("the texts of data.out_of_scope only select thresholds in a search; `train` compares both ways")
    build_search(experiment, space, [])
    check_inputs(experiment, kinds, for_refit=experiment.tune.refit)
    return space, kinds, notes


def check_trials_start_new(experiment: Experiment) -> None:
    """Raise an ExperimentError if `train.start_from` is set."""
    if experiment.train.start_from is not None:
        raise ExperimentError("train.start_from: the trials of a search start from the beginning; remove it")
