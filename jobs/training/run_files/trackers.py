"""Logs of runs and trials in MLflow and Weights & Biases.

A run of `train` is logged epoch by epoch, as Ray Train's callback reports them; a trial of a search when Ray Tune's
callback reports its end. Tune's own callback for MLflow sends a request for each metric of each epoch while the search
waits; that for Weights & Biases starts two actors for each trial. If a server stops answering, nothing more is logged
to it, and the training continues.
"""

import importlib
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from cluster import UsageError, first_line
from jobs.config.experiment import Experiment
from jobs.config.label_thresholds import OPTIONAL_METRICS
from jobs.config.training_defaults import choose_batch_size
from jobs.training.history import Epoch, Progress, replace_epoch

logger = logging.getLogger(__name__)

Status = Literal["finished", "stopped", "failed"]

MLFLOW_STATUS: Mapping[Status, str] = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
LOGGED_METRICS = ("train_loss", "loss", "accuracy", "macro_f1", *OPTIONAL_METRICS, "examples_per_second")


@dataclass(frozen=True)
class TrackedRun:
    """A run or a trial. group: the run, or the search of the trial; started: in seconds since 1970."""

    name: str
    group: str
    settings: Mapping[str, Any]
    started: float


@dataclass(frozen=True)
class Ending:
    """End of a run. best: its best epoch, None without any; ended: in seconds since 1970."""

    best: Epoch | None
    status: Status
    ended: float
    reason: str = ""


class Tracker(Protocol):
    """A server or folder of runs. name: for messages; errors: that `start` and the log may raise."""

    name: str
    errors: tuple[type[Exception], ...]

    def start(self, run: TrackedRun) -> "RunLog":
        """Return the log of a new run."""


class RunLog(Protocol):
    """Log of one run in a tracker."""

    def log(self, epochs: Sequence[tuple[Epoch, float]]) -> None:
        """Log epochs, each with its end in seconds since 1970."""

    def end(self, ending: Ending) -> None:
        """Log the best metrics and the status."""


class MlflowTracker:
    """An MLflow tracking server, or a folder; runs are under the experiment's name.

    Args:
        uri: of the server.

    Raises:
        UsageError: MLflow is not installed, or nothing answers at the URI.
    """

    name = "MLflow"

    def __init__(self, uri: str, experiment: str) -> None:
        try:
            from mlflow import MlflowClient
            from mlflow.exceptions import MlflowException
        except ImportError as error:
            raise UsageError("mlflow: MLflow is not installed here; pip install mlflow-skinny") from error
        self.errors: tuple[type[Exception], ...] = (MlflowException, OSError)
        # MLflow retries for minutes by default; a training must not wait for that.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        try:
            self.client = MlflowClient(tracking_uri=uri)
            known = self.client.get_experiment_by_name(experiment)
            self.id = known.experiment_id if known else self.client.create_experiment(experiment)
        except MlflowException as error:
            raise UsageError(f"mlflow: cannot log to {uri}: {first_line(error)}") from error

    def start(self, run: TrackedRun) -> "MlflowLog":
        """Create a run with its settings as parameters."""
        from mlflow.entities import Param

        started, tags = int(run.started * 1000), {"search" if run.group.startswith("tune-") else "run": run.group}
        created = self.client.create_run(self.id, start_time=started, run_name=run.name, tags=tags)
        return MlflowLog(
            self.client, created.info.run_id, [Param(key, str(value)) for key, value in run.settings.items()]
        )


class MlflowLog:
    """Log of one run in MLflow. client: MLflow's; params: settings, which are sent with the first metrics."""

    def __init__(self, client: Any, run_id: str, params: Sequence[Any]) -> None:
        self._client, self._id, self._params = client, run_id, params

    def log(self, epochs: Sequence[tuple[Epoch, float]]) -> None:
        """Log epochs."""
        from mlflow.entities import Metric

        metrics = [
            Metric(key, value, int(ended * 1000), epoch.epoch)
            for epoch, ended in epochs
            for key, value in _list_metrics(epoch)
        ]
        self._send(metrics)

    def end(self, ending: Ending) -> None:
        """Log the best metrics and the status."""
        from mlflow.entities import Metric, RunTag

        best, ended = dict(_list_metrics(ending.best)) if ending.best else {}, int(ending.ended * 1000)
        number = ending.best.epoch if ending.best else 0
        metrics = [Metric(f"best_{key}", value, ended, number) for key, value in best.items()]
        tags = {"status": ending.status, "best_epoch": str(number)}
        tags |= {"reason": ending.reason} if ending.reason else {}
        self._send(metrics, [RunTag(key, value) for key, value in tags.items()])
        self._client.set_terminated(self._id, MLFLOW_STATUS[ending.status], ended)

    def _send(self, metrics: Sequence[Any], tags: Sequence[Any] = ()) -> None:
        params, self._params = self._params, ()
        self._client.log_batch(self._id, metrics, params, tags)


class WandbTracker:
    """A project of Weights & Biases; with WANDB_MODE=offline, files in WANDB_DIR for `wandb sync`.

    Raises:
        UsageError: the package wandb is not installed, or has no key, or the server does not accept it.
    """

    name = "W&B"

    def __init__(self, project: str) -> None:
        try:
            wandb: Any = importlib.import_module("wandb")
        except ImportError as error:
            raise UsageError("wandb: the package is not installed here; pip install wandb") from error
        try:
            has_key = os.environ.get("WANDB_MODE") in ("offline", "disabled") or wandb.login(prompt=False)
        except wandb.Error as error:
            raise UsageError(f"wandb: cannot log in: {first_line(error)}") from error
        if not has_key:
            raise UsageError("wandb: there is no API key; set WANDB_API_KEY, or WANDB_MODE=offline")
        self._wandb, self._project = wandb, project
        self.errors: tuple[type[Exception], ...] = (wandb.Error, OSError)

    def start(self, run: TrackedRun) -> "WandbLog":
        """Start a run with its settings as configuration."""
        wandb = self._wandb
        return WandbLog(
            wandb.init(
                project=self._project,
                name=run.name,
                group=run.group,
                config=dict(run.settings),
                reinit="create_new",  # also if the user's own program has a run
                settings=wandb.Settings(silent=True, console="off"),
            )
        )


class WandbLog:
    """Log of one run in Weights & Biases; run: of its library."""

    def __init__(self, run: Any) -> None:
        self._run = run

    def log(self, epochs: Sequence[tuple[Epoch, float]]) -> None:
        """Log epochs."""
        for epoch, _ in epochs:
            self._run.log(dict(_list_metrics(epoch)), step=epoch.epoch)

    def end(self, ending: Ending) -> None:
        """Log the best metrics and the status."""
        best = dict(_list_metrics(ending.best)) if ending.best else {}
        summary = {f"best_{key}": value for key, value in best.items()}
        self._run.summary.update(summary | {"status": ending.status, "reason": ending.reason})
        self._run.finish(exit_code=int(ending.status == "failed"))


@dataclass
class Trackers:
    """The trackers of a command. One that raises an error is left out from then on, with a warning."""

    active: list[Tracker] = field(default_factory=list)

    def start(self, run: TrackedRun) -> "RunLogs":
        """Start a run in each tracker."""
        logs = RunLogs(self, run.name)
        for tracker in list(self.active):
            with logs.guard(tracker):
                logs.logs.append((tracker, tracker.start(run)))
        return logs


@dataclass
class RunLogs:
    """Logs of one run in all trackers."""

    trackers: Trackers
    name: str
    logs: list[tuple[Tracker, RunLog]] = field(default_factory=list)

    def log(self, epochs: Sequence[tuple[Epoch, float]]) -> None:
        """Log epochs, each with its end in seconds since 1970."""
        for tracker, log in list(self.logs):
            with self.guard(tracker):
                log.log(epochs)

    def end(self, ending: Ending) -> None:
        """Log the end."""
        for tracker, log in list(self.logs):
            with self.guard(tracker):
                log.end(ending)

    @contextmanager
    def guard(self, tracker: Tracker) -> Iterator[None]:
        """Context manager: an error of a tracker is a warning, and nothing more is logged to it."""
        try:
            yield
        except tracker.errors as error:
            self.trackers.active = [other for other in self.trackers.active if other is not tracker]
            self.logs = [(other, log) for other, log in self.logs if other is not tracker]
            logger.warning(f"{tracker.name}: {self.name} and later runs are not logged: {first_line(error)}")


def connect_trackers(experiment: Experiment, environment: Mapping[str, str] = os.environ) -> Trackers:
    """Return the trackers that the settings or variables of the environment name; errors as of their classes."""
    trackers: list[Tracker] = []
    uri = experiment.mlflow or experiment.tune.mlflow or environment.get("MLFLOW_TRACKING_URI")
    if uri:
        trackers.append(MlflowTracker(uri, experiment.name))
    if project := experiment.wandb or environment.get("WANDB_PROJECT"):
        trackers.append(WandbTracker(project))
    return Trackers(trackers)


class RunTracker:
    """Epochs of a running training, which are logged as they end.

    Args:
        metric: that selects the best epoch.
    """

    def __init__(self, logs: RunLogs, metric: str) -> None:
        self._logs, self._metric = logs, metric
        self._progress = Progress()  # lost workers train their last epochs again

    def resume(self, epochs: Sequence[Epoch]) -> None:
        """Log the epochs of an earlier command."""
        ended = time.time() - sum(epoch.seconds for epoch in epochs)
        ends = []
        for epoch in epochs:
            self._progress = replace_epoch(self._progress, epoch, self._metric)
            ended += epoch.seconds
            ends.append((epoch, ended))
        if ends:
            self._logs.log(ends)

    def log_epoch(self, epoch: Epoch) -> None:
        """Log an epoch that has ended now."""
        self._progress = replace_epoch(self._progress, epoch, self._metric)
        self._logs.log([(epoch, time.time())])

    @property
    def best(self) -> Epoch | None:
        """The best epoch so far."""
        return self._progress.epochs[self._progress.best - 1] if self._progress.best else None


@contextmanager
def track_run(trackers: Trackers, experiment: Experiment, name: str, group: str, num_rows: int) -> Iterator[RunTracker]:
    """Context manager: yield the tracker of a run; its log ends with the block.

    Args:
        name, group: as of `TrackedRun`.
        num_rows: of the training part; where no batch size is set, it decides the one that is logged.
    """
    sections = experiment.model_dump(include={"data", "text", "vectors", "model", "train"})
    settings = {f"{section}.{key}": value for section, values in sections.items() for key, value in values.items()}
    settings["train.batch_size"] = experiment.train.batch_size or choose_batch_size(num_rows)
    logs = trackers.start(TrackedRun(name, group, {"seed": experiment.seed, **settings}, time.time()))
    with log_end(logs, experiment.train.metric) as tracker:
        yield tracker


@contextmanager
def log_end(logs: RunLogs, metric: str) -> Iterator[RunTracker]:
    """Context manager: yield what logs the epochs of a run, and log its end; metric: selects the best epoch."""
    tracker = RunTracker(logs, metric)
    try:
        yield tracker
    except BaseException as error:
        status: Status = "failed" if isinstance(error, Exception) else "stopped"
        logs.end(Ending(tracker.best, status, time.time(), first_line(error)))
        raise
    logs.end(Ending(tracker.best, "finished", time.time()))


def _list_metrics(epoch: Epoch) -> list[tuple[str, float]]:
    return [(key, getattr(epoch, key)) for key in LOGGED_METRICS if getattr(epoch, key) is not None]
