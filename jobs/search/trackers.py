"""MLflow log of a search: a run for each trial that has ended.

Tune's own callback for MLflow sends a request for each metric of each epoch, while the search waits.
"""

import logging
import os
import time

from cluster import UsageError, first_line
from jobs.config.experiment import Experiment
from jobs.config.label_thresholds import MULTI_LABEL_METRICS
from jobs.search.records import TrialRecord
from jobs.training.history import Epoch

logger = logging.getLogger(__name__)

MLFLOW_STATUS = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
LOGGED_METRICS = ("train_loss", "loss", "accuracy", "macro_f1", *MULTI_LABEL_METRICS, "examples_per_second")


def connect_mlflow(experiment: Experiment, search: str) -> "MlflowTracker | None":
    """Return the tracker for the tracking URI that is set; None if none is. Arguments, errors: of `MlflowTracker`."""
    uri = experiment.tune.mlflow or os.environ.get("MLFLOW_TRACKING_URI")
    return MlflowTracker(uri, experiment, search) if uri else None


class MlflowTracker:
    """Logs trials to an MLflow tracking server, or a folder, under the experiment's name.

    Args:
        uri: of the server.
        search: tag that distinguishes this search's trials from others of the experiment.

    If the server stops answering, nothing more is logged to it, and the search continues.

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
        # MLflow retries for minutes by default; a search must not wait for that.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        self._search, self._disabled = search, False
        self._seed = experiment.seed
        try:
            self._client = MlflowClient(tracking_uri=uri)
            known = self._client.get_experiment_by_name(experiment.name)
            self._id = known.experiment_id if known else self._client.create_experiment(experiment.name)
        except MlflowException as error:
            raise UsageError(f"tune.mlflow: cannot log to {uri}: {first_line(error)}") from error

    def log_trial(self, record: TrialRecord) -> None:
        """Log a trial that has ended."""
        if self._disabled:
            return
        try:
            self._log(record)
        except (self._error, OSError) as error:
            self._disabled = True
            logger.warning(f"MLflow: trial {record.number} and later ones are not logged: {first_line(error)}")

    def _log(self, record: TrialRecord) -> None:
        from mlflow.entities import Metric, Param, RunTag

        ended = int(record.ended * 1000)
        started = ended - int(record.seconds * 1000)
        tags = {"search": self._search, "status": record.status} | ({"reason": record.reason} if record.reason else {})
        run = self._client.create_run(
            self._id, start_time=started, run_name=f"{self._search} trial {record.number}", tags=tags
        )
        metrics: list[Metric] = []
        timestamp = float(started)  # milliseconds
        for epoch in record.epochs:
            timestamp += epoch.seconds * 1000
            for key, value in _logged_metrics(epoch):
                metrics.append(Metric(key, value, int(timestamp), epoch.epoch))
        if record.best_epoch is not None:
            for key, value in _logged_metrics(record.best_epoch):
                metrics.append(Metric(f"best_{key}", value, ended, record.best))
        params = [Param(key, str(value)) for key, value in {"seed": self._seed, **record.settings}.items()]
        self._client.log_batch(run.info.run_id, metrics, params, [RunTag("best_epoch", str(record.best))])
        self._client.set_terminated(run.info.run_id, MLFLOW_STATUS[record.status], ended or int(time.time() * 1000))


def _logged_metrics(epoch: Epoch) -> list[tuple[str, float]]:
    return [(key, getattr(epoch, key)) for key in LOGGED_METRICS if getattr(epoch, key) is not None]
