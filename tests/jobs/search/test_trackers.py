"""Trials are logged to a real MLflow server."""

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator

import pytest

from cluster import UsageError
from cluster.machine import find_free_ports
from jobs.config.experiment import Experiment
from jobs.search.records import TrialRecord
from jobs.search.trackers import MlflowTracker, connect_mlflow
from tests.support.trial_records import make_record


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


@pytest.mark.slow
def test_mlflow_has_a_run_with_settings_and_metrics_of_each_trial(server: str, messages: list[str]) -> None:
    """Under the experiment's name; that of a failed trial has the reason."""
    from mlflow import MlflowClient

    tracker = MlflowTracker(server, Experiment().replace({"name": "tickets"}), "tune-0123")
    tracker.log_trial(make_record(4, {"model.dropout": 0.3, "model.filter_widths": [3, 4]}, 0.75))
    tracker.log_trial(TrialRecord(5, {"model.dropout": 0.9}, "failed", "out of memory", ended=time.time()))
    client = MlflowClient(tracking_uri=server)
    experiment = client.get_experiment_by_name("tickets")
    assert experiment is not None
    failed, finished = client.search_runs([experiment.experiment_id], order_by=["attributes.run_name DESC"])
    assert finished.data.params == {"model.dropout": "0.3", "model.filter_widths": "[3, 4]", "seed": "0"}
    assert finished.data.metrics["accuracy"] == finished.data.metrics["best_accuracy"] == 0.75
    assert (finished.info.status, finished.data.tags["search"]) == ("FINISHED", "tune-0123")
    assert (failed.info.status, failed.data.tags["reason"]) == ("FAILED", "out of memory")
    assert messages == []
    # The experiment exists now.
    assert MlflowTracker(server, Experiment().replace({"name": "tickets"}), "tune-4567")


@pytest.mark.slow
def test_an_mlflow_server_that_stops_answering_does_not_stop_the_search(
    server: str, monkeypatch: pytest.MonkeyPatch, messages: list[str]
) -> None:
    """One warning is logged."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    tracker = MlflowTracker(server, Experiment(), "tune-0123")
    [port] = find_free_ports(1)
    tracker._client._tracking_client.tracking_uri = f"http://127.0.0.1:{port}"
    for number in (1, 2):
        tracker.log_trial(make_record(number, {"model.dropout": 0.3}, 0.75))
    assert len(messages) == 1
    assert messages[0].startswith("MLflow: trial 1 and later ones are not logged")


@pytest.mark.slow
def test_a_wrong_mlflow_uri_is_an_error_before_the_first_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message is one line. Without a URI nothing is logged."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    [port] = find_free_ports(1)
    with pytest.raises(UsageError, match=r"tune\.mlflow: cannot log to http://127\.0\.0\.1"):
        connect_mlflow(Experiment().replace({"tune.mlflow": f"http://127.0.0.1:{port}"}), "tune-0123")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert connect_mlflow(Experiment(), "tune-0123") is None
