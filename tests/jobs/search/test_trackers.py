"""Trials are logged to a real MLflow server."""

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.ray_head import find_free_ports
from cluster import UsageError
from jobs.config.experiment import Experiment
from jobs.search.records import TrialRecord
from jobs.search.trackers import MlflowTracker
from tests.support.trial_records import record

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An MLflow server on loopback."""
    folder = tmp_path_factory.mktemp("mlflow")
    [port] = find_free_ports(1)
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", f"{folder}/files"]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "log").open("wb") as stream:
        process = subprocess.Popen(
            command, stdout=stream, stderr=subprocess.STDOUT, env=environment, cwd=folder, start_new_session=True
        )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{url}/health", timeout=2).close()
                break
            except OSError:
                assert process.poll() is None, (folder / "log").read_text()
                time.sleep(0.2)
        yield url
    finally:
        os.killpg(process.pid, 9)
        process.wait()


def test_a_trial_is_a_run_with_its_settings_and_the_figures_of_each_epoch(server: str, messages: list[str]) -> None:
    """Under the experiment's name; a failed one says why."""
    from mlflow import MlflowClient

    tracking = MlflowTracker(server, Experiment().replace({"name": "tickets"}), "tune-0123")
    tracking.log_trial(record(4, {"model.dropout": 0.3, "model.filter_widths": [3, 4]}, 0.75))
    tracking.log_trial(TrialRecord(5, {"model.dropout": 0.9}, "failed", "out of memory", ended=time.time()))
    client = MlflowClient(tracking_uri=server)
    experiment = client.get_experiment_by_name("tickets")
    assert experiment is not None
    failed, finished = client.search_runs([experiment.experiment_id], order_by=["attributes.run_name DESC"])
    assert finished.data.params == {"model.dropout": "0.3", "model.filter_widths": "[3, 4]", "seed": "0"}
    assert finished.data.metrics["accuracy"] == finished.data.metrics["best_accuracy"] == 0.75
    assert (finished.info.status, finished.data.tags["search"]) == ("FINISHED", "tune-0123")
    assert (failed.info.status, failed.data.tags["reason"]) == ("FAILED", "out of memory")
    assert messages == []
    # The same experiment again.
    assert MlflowTracker(server, Experiment().replace({"name": "tickets"}), "tune-4567")


def test_a_server_that_goes_away_costs_the_log_and_not_the_search(
    server: str, monkeypatch: pytest.MonkeyPatch, messages: list[str]
) -> None:
    """It is said once."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    tracking = MlflowTracker(server, Experiment(), "tune-0123")
    [port] = find_free_ports(1)
    tracking._client._tracking_client.tracking_uri = f"http://127.0.0.1:{port}"
    for number in (1, 2):
        tracking.log_trial(record(number, {"model.dropout": 0.3}, 0.75))
    assert len(messages) == 1
    assert messages[0].startswith("MLflow: trial 1 and those after it are not logged")


def test_a_wrong_uri_is_told_before_the_first_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a line."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    [port] = find_free_ports(1)
    with pytest.raises(UsageError, match=r"tune\.mlflow: nothing can be logged at http://127\.0\.0\.1"):
        MlflowTracker(f"http://127.0.0.1:{port}", Experiment(), "tune-0123")
