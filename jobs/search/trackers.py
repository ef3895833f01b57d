"""A search in MLflow: a run for each trial, with its settings and what its epochs gave."""

import logging
import os
import time
from typing import Any

from cluster import UsageError, first_line
from jobs.config.experiment import Experiment
from jobs.search.records import TrialRecord

logger = logging.getLogger(__name__)

MLFLOW_STATUS = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
LOGGED_METRICS = ("train_loss", "loss", "accuracy", "macro_f1", "examples_per_second")


class MlflowTracker:
    """Logs to a tracking server, or a folder, under the experiment's name.

    Args:
        uri: of the server.
        search: tells this search's trials from others of the experiment.

    When the server no longer answers, nothing more is logged to it, and the search continues.

    Raises:
        UsageError: MLflow is not installed, or nothing answers at the URI.
    """

    def __init__(self, uri: str, experiment: Experiment, search: str) -> None:
        try:
            from mlflow import MlflowClient
            from mlflow.exceptions import MlflowException
        except ImportError as error:
            raise UsageError("tune.mlflow: MLflow is not installed here; pip install mlflow-skinny") from error
        self._error = MlflowException
        # A search does not wait for minutes, as MLflow would.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        self._search, self._gone = search, False
        self._seed = experiment.seed
        try:
            self._client = MlflowClient(tracking_uri=uri)
            known = self._client.get_experiment_by_name(experiment.name)
            self._id = known.experiment_id if known else self._client.create_experiment(experiment.name)
        except MlflowException as error:
            raise UsageError(f"tune.mlflow: nothing can be logged at {uri}: {first_line(error)}") from error

    def log_trial(self, record: TrialRecord) -> None:
        """Log a trial that has ended."""
        if self._gone:
            return
        try:
            self._log(record)
        except (self._error, OSError) as error:
            self._gone = True
            logger.warning(f"MLflow: trial {record.number} and those after it are not logged: {first_line(error)}")

    def _log(self, record: TrialRecord) -> None:
        from mlflow.entities import Metric, Param, RunTag

        ended = int(record.ended * 1000)
        began = ended - int(record.seconds * 1000)
        tags = {"search": self._search, "status": record.status} | ({"reason": record.reason} if record.reason else {})
        run = self._client.create_run(
            self._id, start_time=began, run_name=f"{self._search} trial {record.number}", tags=tags
        )
        metrics: list[Any] = []
        at = float(began)
        for epoch in record.epochs:
            at += epoch["seconds"] * 1000
            metrics += [
                Metric(key, epoch[key], int(at), epoch["epoch"]) for key in LOGGED_METRICS if epoch[key] is not None
            ]
        for key in LOGGED_METRICS:
            if record.best and record.best_metrics[key] is not None:
                metrics.append(Metric(f"best_{key}", record.best_metrics[key], ended, record.best))
        params = [Param(key, str(value)) for key, value in {"seed": self._seed, **record.settings}.items()]
        self._client.log_batch(run.info.run_id, metrics, params, [RunTag("best_epoch", str(record.best))])
        self._client.set_terminated(run.info.run_id, MLFLOW_STATUS[record.status], ended or int(time.time() * 1000))
