"""Trials of a search on Ray Tune: their execution, and the record of each that ends."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import ray.tune
from ray.tune.experiment import Trial
from ray.tune.logger import CSVLoggerCallback, JsonLoggerCallback, LoggerCallback, TBXLoggerCallback
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search import Searcher

from cluster import first_line
from cluster.connection import preserve_sigint_handler
from cluster.console.logs import limit_logs
from cluster.console.progress import Report, count_bar
from cluster.machine import set_variables
from cluster.resources import list_placement_groups, remove_placement_groups
from cluster.storage import join, list_folders, remove_folder
from jobs.config.experiment import Experiment
from jobs.search.records import (
    NUMBER_KEY,
    REPORT_KEY,
    RecordStore,
    TrialRecord,
    TrialReport,
    format_trial_line,
    objective_metric,
    split_config,
    trial_folder_name,
)
from jobs.search.results.analysis import compare_embeddings
from jobs.search.search import MAX_TRIALS, FixedSampler, Search
from jobs.search.space import find_max_epochs
from jobs.search.trackers import log_trial
from jobs.search.trainable import TrialInputs, build_trainable
from jobs.search.trial_resources import TrialResources
from jobs.training.history import Progress
from jobs.training.run_files.trackers import Trackers

logger = logging.getLogger(__name__)

# Folder of Tune's own results, in that of the search.
TUNE_FOLDER = "ray"

# Folder of the trials that compare the kinds of embedding over several seeds.
SEEDS_FOLDER = "seeds"

REDUCTION_FACTOR = 3  # ASHA continues the best third at each rung

# Restarts of a trial whose process or node was lost while it trained. See also search.MAX_RESTARTS_BEFORE_TRAINING.
MAX_RESTARTS_BY_TUNE = 2

# Tune's default loggers.
LOGGERS: tuple[Any, ...] = (CSVLoggerCallback, JsonLoggerCallback, TBXLoggerCallback)

# Read by Tune when it starts.
TUNE_ENVIRONMENT = {
    # Tune copies its state and the logs of all trials each time. A search resumes from its records instead.
    "TUNE_GLOBAL_CHECKPOINT_S": "60",
    # A failed trial reports why, and no metric.
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    # Trials stay in the folder that they were started in.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}


@dataclass(frozen=True)
class SearchContext:
    """Driver's side of a search, or of its comparison over seeds.

    path: folder of the search; Tune's own results are in its folder `ray`. trackers: of the ended trials.
    name_checkpoints: names the best of the checkpoints that trials have saved.
    """

    experiment: Experiment
    search: Search
    record_store: RecordStore
    path: str
    trackers: Trackers = field(default_factory=Trackers)
    name_checkpoints: Callable[[], None] = lambda: None


@contextmanager
def _configure_tune() -> Iterator[None]:
    """Context manager: Tune has the variables of `TUNE_ENVIRONMENT`, and logs no traceback of each failed trial."""
    with set_variables(TUNE_ENVIRONMENT), limit_logs("ray.tune", logging.CRITICAL):
        yield


@_configure_tune()
def run_trials(context: SearchContext, trainable: Any, trial_resources: TrialResources, *, asha: bool) -> None:
    """Run all trials of a search.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed; Tune has stopped the trials.
    """
    search, earlier_groups = context.search, list_placement_groups()
    recorder = TrialRecorder(context)
    loggers: list[LoggerCallback] = [create_logger() for create_logger in LOGGERS]
    tuner = ray.tune.Tuner(
        ray.tune.with_resources(trainable, trial_resources.resources),
        tune_config=ray.tune.TuneConfig(
            metric="objective",  # see TrialReport
            mode="max",
            num_samples=-1,
            max_concurrent_trials=trial_resources.max_concurrent_trials,
            search_alg=TuneSearcher(search),
            scheduler=_build_scheduler(context.experiment) if asha else None,
            reuse_actors=not trial_resources.distributed,
            trial_name_creator=_name_trial,
            trial_dirname_creator=_name_trial,
        ),
        run_config=ray.tune.RunConfig(
            name=TUNE_FOLDER,
            storage_path=context.path,
            verbose=0,
            callbacks=[recorder, *loggers],
            checkpoint_config=ray.tune.CheckpointConfig(checkpoint_at_end=False),
            failure_config=ray.tune.FailureConfig(max_failures=MAX_RESTARTS_BY_TUNE),
            stop=SearchStopper(search),
        ),
    )
    total = None if search.max_trials == MAX_TRIALS else search.max_trials
    with preserve_sigint_handler() as interrupted, count_bar("trials", total, logger) as recorder.show:
        tuner.fit()
        if recorder.error:
            raise recorder.error
        if interrupted() and not search.exhausted:
            raise KeyboardInterrupt  # Tune returns normally after Ctrl-C
    search.check_limits()
    if search.out_of_time:
        recorder.stop_all(search.stop_reason, loggers)
    # Tune keeps processes for reuse, and their resources.
    remove_placement_groups(earlier_groups)


def compare_over_seeds(
    experiment: Experiment, ended: list[TrialRecord], search_folder: str, inputs: TrialInputs, resources: TrialResources
) -> list[TrialRecord]:
    """Train each kind of embedding's best settings with several seeds, and return the records."""
    num_seeds = experiment.tune.seeds
    all_settings = [
        # Not the seed of the search: the settings were chosen because they look good with it.
        {**kind.best_record.settings, "model.embedding": kind.embedding, "seed": (experiment.seed + number) % (1 << 32)}
        for number in range(1, num_seeds + 1)
        for kind in compare_embeddings(experiment, ended, [])
    ]
    folder = join(search_folder, SEEDS_FOLDER)
    store = RecordStore(join(folder, "trials"))
    unlimited = experiment.replace({"tune.minutes": None, "tune.patience": None})
    search = Search(unlimited, FixedSampler(all_settings), len(all_settings), store.read())
    logger.info(
        f"repeating the best settings of each kind of embedding with {num_seeds} other seeds, "
        f"{len(all_settings)} trials"
    )
    context = SearchContext(unlimited, search, store, folder)
    # Without the shared state trials in one process save no checkpoint.
    seed_inputs = TrialInputs(experiment, folder, inputs.corpora, inputs.corpus_cache, None, inputs.use_gpu)
    trainable = build_trainable(seed_inputs, distributed=resources.distributed)
    run_trials(context, trainable, resources, asha=False)
    for name in list_folders(folder):
        if name.startswith("trial-"):  # checkpoints of a trial with several workers
            remove_folder(join(folder, name))
    return list(search.records.values())


class TrialRecorder(ray.tune.Callback):
    """Callback of Tune that writes and logs the record of each trial that ends.

    show: shows the number of trials that have ended.
    error: the first error while doing so. Tune would treat it as an error of the trial and repeat the trial.
    """

    def __init__(self, context: SearchContext) -> None:
        self.error: Exception | None = None
        self.show: Report | None = None
        self._context = context
        self._running: dict[str, tuple[Trial, TrialReport]] = {}  # with the last report

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles callbacks into the folder of the search, for `Tuner.restore`. The tracker may have a password.
        return {}

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Take the report of a trial out of its result: loggers and other callbacks see numbers only."""
        self._running[trial.trial_id] = trial, result.pop(REPORT_KEY)

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Record a trial that finished, failed by itself, or was stopped by the scheduler."""
        report = self._pop_report(trial)
        self._record(trial, report, "" if report.finished else "behind the best third at the same epoch (ASHA)")

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Record a trial whose process was lost more than `MAX_RESTARTS_BY_TUNE` times.

        One that was lost before it trained is started again: Tune restarts no trial whose process is starting or, after
        another trial, being reset.
        """
        # Tune would have restarted a trial that trained.
        lost_before_training = trial.run_metadata.num_failures <= MAX_RESTARTS_BY_TUNE
        if lost_before_training and self._context.search.resubmit(trial.config[NUMBER_KEY]):
            self._running.pop(trial.trial_id, None)
            logger.warning(
                f"trial {trial.config[NUMBER_KEY]}: its process was lost before it trained; starting it again"
            )
            return
        error = trial.get_error() or RuntimeError("the process of the trial was lost")
        self._record(trial, replace(self._pop_report(trial), error=first_line(error), detail=str(error)), "")

    def stop_all(self, reason: str, loggers: list[LoggerCallback]) -> None:
        """Record all trials that are still running, and end their logs: a `Stopper` of Tune does not."""
        for trial, _ in list(self._running.values()):
            for log in loggers:
                log.log_trial_end(trial)
            self._record(trial, self._pop_report(trial), reason)

    def _pop_report(self, trial: Trial) -> TrialReport:
        _, report = self._running.pop(trial.trial_id, (trial, TrialReport(Progress())))
        return report

    def _record(self, trial: Trial, report: TrialReport, stop_reason: str) -> None:
        number, settings = split_config(trial.config)
        search = self._context.search
        search.drop(number)
        if number in search.records:
            return
        self._context.name_checkpoints()  # a reader of the trial's end finds them, also after a kill
        try:
            record = TrialRecord.from_report(number, settings, report, stop_reason)
            self._context.record_store.write(record)
            search.add_record(record)
            logger.info(format_trial_line(record, objective_metric(self._context.experiment), search.total_suffix))
            if self.show is not None:
                self.show(len(search.records), "")
            if self._context.trackers.active:
                log_trial(self._context.trackers, record, self._context.path, self._context.experiment.seed)
        except Exception as error:
            self.error = self.error or error
            search.stop_reason = str(error)


class TuneSearcher(Searcher):
    """Searcher of Tune that returns the trials of a search."""

    def __init__(self, search: Search) -> None:
        super().__init__()
        self._search = search

    def suggest(self, trial_id: str) -> Any:
        """Return the configuration of the next trial."""
        trial = self._search.next_trial()
        if trial is None:  # after FINISHED Tune does not ask again
            return None if self._search.may_continue() else Searcher.FINISHED
        return {NUMBER_KEY: trial[0], **trial[1]}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Do nothing: the recorder adds the record to the search."""

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: the search resumes from its records."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing."""


class SearchStopper(ray.tune.Stopper):
    """Stops a trial that reports to be finished, and all trials when the search is out of time."""

    def __init__(self, search: Search) -> None:
        self._search = search

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Return whether a trial has ended."""
        return bool(result.get("finished"))

    def stop_all(self) -> bool:
        """Return whether all trials must stop."""
        return self._search.out_of_time


def _build_scheduler(experiment: Experiment) -> ASHAScheduler:
    epochs, grace = find_max_epochs(experiment), experiment.tune.grace_epochs
    return ASHAScheduler(
        time_attr="epoch", max_t=max(epochs, grace) + 1, grace_period=grace, reduction_factor=REDUCTION_FACTOR
    )


def _name_trial(trial: Trial) -> str:
    return trial_folder_name(trial.config[NUMBER_KEY])
