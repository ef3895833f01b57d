"""Ray Tune at work: runs the trials of a search, records each that ends, and tells about it."""

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import cluster.resources
from cluster.interruption import preserve_sigint_handler
from cluster.storage import join, remove_folder
from jobs.config.experiment import Experiment
from jobs.search.best_checkpoint import BestCheckpointManager
from jobs.search.records import RecordStore, TrialRecord, objective_metric
from jobs.search.search import Search
from jobs.search.trial_resources import TrialResources
from jobs.training.history import Progress

logger = logging.getLogger(__name__)

REDUCTION_FACTOR = 3  # ASHA keeps a third at each rung

# So often the driver looks for what trials have sent.
MESSAGE_POLL_S = 0.1

# Times that a trial begins again whose process or node was lost.
MAX_FAILURES = 2

# Read by Tune when it starts.
TUNE_ENVIRONMENT = {
    # It would write three logs of its own for every trial.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # A trial that failed reports why, and no metric.
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    # What goes on is the ledger; its own state would be written again and again.
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    # Trials stay in the folder that they were started in.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}


@dataclass
class SearchContext:
    """What the trials of a search, or of its comparison over seeds, have in common.

    path: a folder for Tune's own files. told: is given each record after it was kept.
    """

    experiment: Experiment
    search: Search
    record_store: RecordStore
    path: str
    on_record: Callable[[TrialRecord], None]


def run_trials(this: SearchContext, trainable: Any, given: TrialResources, *, asha: bool) -> None:
    """Run all trials; raises KeyboardInterrupt after Ctrl-C, when Tune has ended them.

    Args:
        trainable: Tune's.
        given: what each trial is given of the cluster.
    """
    import ray.tune

    os.environ.update(TUNE_ENVIRONMENT)
    # A trial that fails is told in a line, not with its traceback.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    remove_folder(join(this.path, "ray"))
    recorder = _recorder(this)
    tuner = ray.tune.Tuner(
        ray.tune.with_resources(trainable, given.resources),
        tune_config=ray.tune.TuneConfig(
            # More is better of what the trials report as `goodness`.
            metric="goodness",
            mode="max",
            num_samples=-1,
            max_concurrent_trials=given.max_concurrent_trials,
            search_alg=_suggestions(this.search),
            scheduler=_scheduler(this.experiment) if asha else None,
            reuse_actors=not given.distributed,
            trial_name_creator=lambda trial: f"trial-{trial.config['number']}",
            trial_dirname_creator=lambda trial: f"trial-{trial.config['number']}",
        ),
        run_config=ray.tune.RunConfig(
            name="ray",
            storage_path=this.path,
            verbose=0,
            callbacks=[recorder],
            checkpoint_config=ray.tune.CheckpointConfig(checkpoint_at_end=False),
            failure_config=ray.tune.FailureConfig(max_failures=MAX_FAILURES),
            stop=_stopper(this.search),
        ),
    )
    with preserve_sigint_handler() as interrupted:
        tuner.fit()
        if recorder.wrong:
            raise recorder.wrong
        if interrupted() and not this.search.exhausted:
            raise KeyboardInterrupt  # Tune ends quietly on Ctrl-C
    this.search.check_limits()
    if this.search.out_of_time:
        recorder.stop_all(this.search.stop_reason)
    # Tune keeps processes that it might use again, and what they hold.
    cluster.resources.remove_placement_groups()
    remove_folder(join(this.path, "ray"))


@contextmanager
def handle_trial_messages(board: Any, champion: BestCheckpointManager, search: Search) -> Iterator[Callable[[], None]]:
    """Hold a thread that names the best checkpoints as trials tell of them, and says what they say; then end the board.

    What is held raises what went wrong in it, as when the disk is full; no further trial begins then.
    """
    import ray

    ended = threading.Event()
    wrong: list[Exception] = []

    def listen() -> None:
        last = False
        while not last:
            last = ended.wait(MESSAGE_POLL_S)
            done = list(search.records.values())  # all that they have kept is told of already
            for kind, what in ray.get(board.drain.remote()):
                if kind == "saved":
                    champion.update_if_better(*what)
                else:
                    logger.log(*what)
            champion.prune_checkpoints(done)

    def guarded() -> None:
        try:
            listen()
        except Exception as error:
            wrong.append(error)
            search.stop_reason = str(error)  # what is the best could not be named

    thread = threading.Thread(target=guarded, daemon=True)
    thread.start()

    def check() -> None:
        if wrong:
            raise wrong[0]

    try:
        yield check
    finally:
        ended.set()
        thread.join(timeout=60)
        ray.kill(board)
    check()


def _scheduler(experiment: Experiment) -> Any:
    from ray.tune.schedulers import ASHAScheduler

    epochs = experiment.tune.epochs or experiment.train.epochs
    for values in (experiment.tune.space.get("train.epochs") or {}).values():
        epochs = max([epochs, *(value for value in values if isinstance(value, int))])

    grace = experiment.tune.grace_epochs
    return ASHAScheduler(
        time_attr="epoch", max_t=max(epochs, grace) + 1, grace_period=grace, reduction_factor=REDUCTION_FACTOR
    )


def _suggestions(search: Search) -> Any:
    """Return Tune's Searcher that hands out a search's trials."""
    from ray.tune.search import Searcher

    class Suggestions(Searcher):
        def suggest(self, trial_id: str) -> Any:
            found = search.next_trial()
            return Searcher.FINISHED if found is None else {"number": found[0], "settings": found[1]}

        def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
            """Change nothing: the recorder tells the search."""

        def save(self, checkpoint_path: str) -> None:
            """Keep nothing: the ledger does."""

        def restore(self, checkpoint_path: str) -> None:
            """Read nothing."""

    return Suggestions()


def _stopper(search: Search) -> Any:
    from ray.tune import Stopper

    class OutOfTime(Stopper):
        def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
            return bool(result.get("finished"))

        def stop_all(self) -> bool:
            return search.out_of_time

    return OutOfTime()


def _recorder(this: SearchContext) -> Any:
    """Return a callback of Tune's that keeps each trial's outcome and says it."""
    import ray.tune

    class Recorder(ray.tune.Callback):
        def __init__(self) -> None:
            self.wrong: Exception | None = None
            self.running: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}  # config and last result

        def on_trial_result(self, iteration, trials, trial, result, **info) -> None:
            self.running[trial.trial_id] = trial.config, result

        def on_trial_complete(self, iteration, trials, trial, **info) -> None:
            config, result = self.running.pop(trial.trial_id, (trial.config, {}))
            why = "" if result.get("finished") else "behind the others at the same epoch (ASHA)"
            self.keep(config, result, why)

        def on_trial_error(self, iteration, trials, trial, **info) -> None:
            config, result = self.running.pop(trial.trial_id, (trial.config, {}))
            error = trial.get_error() or "its process was lost"
            lines = [line for line in str(error).splitlines() if line.strip()]
            self.keep(config, result | {"failed": lines[0], "detail": str(error)}, "")

        def stop_all(self, why: str) -> None:
            for config, result in self.running.values():
                self.keep(config, result, why)
            self.running.clear()

        def keep(self, config: dict[str, Any], result: dict[str, Any], why: str) -> None:
            if config["number"] in this.search.records:
                return
            try:
                record = _record(config, result, why)
                this.record_store.write(record)
                this.search.add_record(record)
                logger.info(format_trial_line(record, objective_metric(this.experiment), this.search))
                this.on_record(record)
            except Exception as error:  # Tune would take it for the trial's, and train that again
                self.wrong = self.wrong or error
                this.search.stop_reason = str(error)

    return Recorder()


def _record(config: dict[str, Any], result: dict[str, Any], why: str) -> TrialRecord:
    """Return what is kept of a trial.

    Args:
        result: the last that it told.
        why: it was stopped; empty if it was not.
    """
    progress = Progress.from_json(json.loads(result["progress"])) if "progress" in result else Progress()
    failed = result.get("failed", "")
    return TrialRecord(
        number=config["number"],
        settings=config["settings"],
        status="failed" if failed else "stopped" if why else "finished",
        reason=failed or why,
        detail=result.get("detail", ""),
        epochs=progress.to_json()["epochs"],
        best=progress.best,
        ended=time.time(),
        seconds=sum(epoch.seconds for epoch in progress.epochs),
    )


def format_trial_line(record: TrialRecord, metric: str, search: Search) -> str:
    """Return a trial's outcome on a line."""
    outcome = (
        f"{metric} {record.best_metrics[metric]:.4f} in epoch {record.best} of {len(record.epochs)}"
        if record.best
        else ""
    )
    if record.status == "failed":
        outcome = f"failed: {record.reason}{f', after {outcome}' if outcome else ''}"
    elif record.status == "stopped":
        outcome += " (stopped)"
    return f"trial {len(search.records):3d}{search.total_suffix}   {outcome}   {format_settings(record.settings)}"


def format_settings(settings: dict[str, Any]) -> str:
    """Return settings on a line, by the last word of their paths."""

    def short(value: Any) -> str:
        return f"{value:.3g}" if isinstance(value, float) else str(value)

    return " ".join(f"{path.rpartition('.')[2]}={short(value)}" for path, value in settings.items())
