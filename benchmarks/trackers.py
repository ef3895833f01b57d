"""Logs of a search's trials in MLflow and Weights & Biases, compared with Ray Tune's callbacks for them.

    python benchmarks/trackers.py            # ten trials, three rounds; needs the extra `dev`
    python benchmarks/trackers.py --quick    # two trials, one round

A search of trials with eight epochs, in which nothing is trained. The table has the time for which the search waits for
the log of a trial, and how much longer it takes at its end. MLflow's server is on the same machine; Weights & Biases
writes files (offline). Tune's callbacks run in a real search of Tune, one trial at a time, and the time in their calls
is counted; this project's log of a trial is what its search calls.
"""

import argparse
import logging
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # to be run as a file

import ray.tune
from ray.air.integrations.mlflow import MLflowLoggerCallback
from ray.air.integrations.wandb import WandbLoggerCallback
from ray.tune.logger import LoggerCallback

from benchmarks.reporting import Row, print_json, print_table
from jobs.config.experiment import Experiment
from jobs.search.records import TrialRecord
from jobs.search.trackers import log_trial
from jobs.training.history import Epoch
from jobs.training.run_files.trackers import connect_trackers
from tests.support.mlflow_server import start_mlflow_server

PROJECT, RAY = "this project", "Ray Tune's callback"
MLFLOW, WANDB = "MLflow", "Weights & Biases"
EPOCHS = 8
METRICS = {"train_loss": 0.1, "loss": 0.5, "accuracy": 0.8, "macro_f1": 0.7, "examples_per_second": 1e4}
SETTINGS = {"model.dropout": 0.3, "model.feature_maps": 100, "train.learning_rate": 0.01}


@dataclass
class Log:
    """Log of a search: seconds by trial, and those of its end."""

    seconds: dict[str, float] = field(default_factory=dict)
    end_seconds: float = 0.0


def log_with_project(tracker: str, server: str, trials: int) -> Log:
    """Log trials as this project's search does."""
    setting = {MLFLOW: {"mlflow": server}, WANDB: {"wandb": "benchmark"}}[tracker]
    for variable in ("MLFLOW_TRACKING_URI", "WANDB_PROJECT"):  # Tune's callback sets the first
        os.environ.pop(variable, None)
    trackers, log = connect_trackers(Experiment().replace({"name": "project", **setting})), Log()
    epochs = [Epoch(epoch=number, seconds=1.0, **METRICS) for number in range(1, EPOCHS + 1)]
    for number in range(1, trials + 1):
        record = TrialRecord(
            number, SETTINGS, "finished", epochs=epochs, best=EPOCHS, ended=time.time(), seconds=EPOCHS
        )
        began = time.perf_counter()
        log_trial(trackers, record, "runs/project/tune-1", seed=0)
        log.seconds[str(number)] = time.perf_counter() - began
    assert len(trackers.active) == 1
    return log


class Steps(ray.tune.Trainable):
    """Trainable whose steps do nothing."""

    def step(self) -> Row:
        """Return the metrics of an epoch."""
        return {**METRICS, "done": self.iteration + 1 == EPOCHS}

    def reset_config(self, new_config: Row) -> bool:
        """Be reused by the next trial."""
        return True


class TimedCallback(ray.tune.Callback):
    """Tune's callback of a tracker, with the time of its calls."""

    def __init__(self, callback: LoggerCallback, log: Log) -> None:
        self._callback, self._log = callback, log

    def __getstate__(self) -> Row:
        return {}  # Tune pickles callbacks

    def setup(self, *arguments: object, **settings: object) -> None:
        """Connect to the server."""
        self._callback.setup(*arguments, **settings)

    def on_trial_start(self, iteration: int, trials: object, trial: object, **info: object) -> None:
        """Log the settings."""
        self._time(str(trial), self._callback.log_trial_start, trial)

    def on_trial_result(self, iteration: int, trials: object, trial: object, result: Row, **info: object) -> None:
        """Log an epoch."""
        self._time(str(trial), self._callback.log_trial_result, iteration, trial, result)

    def on_trial_complete(self, iteration: int, trials: object, trial: object, **info: object) -> None:
        """Log the end."""
        self._time(str(trial), self._callback.log_trial_end, trial)

    def on_experiment_end(self, trials: object, **info: object) -> None:
        """Wait until everything is logged."""
        began = time.perf_counter()
        self._callback.on_experiment_end(trials, **info)
        self._log.end_seconds = time.perf_counter() - began

    def _time(self, trial: str, call: Callable[..., None], *arguments: object) -> None:
        began = time.perf_counter()
        call(*arguments)
        self._log.seconds[trial] = self._log.seconds.get(trial, 0.0) + time.perf_counter() - began


def log_with_tune(tracker: str, server: str, trials: int) -> Log:
    """Log trials with Tune's callback in a search."""
    callback = (
        MLflowLoggerCallback(tracking_uri=server, experiment_name="callback")
        if tracker == MLFLOW
        else WandbLoggerCallback(project="benchmark")
    )
    log = Log()
    with tempfile.TemporaryDirectory() as folder:
        tuner = ray.tune.Tuner(
            Steps,
            param_space=SETTINGS,
            tune_config=ray.tune.TuneConfig(num_samples=trials, max_concurrent_trials=1, reuse_actors=True),
            run_config=ray.tune.RunConfig(
                storage_path=folder,
                verbose=0,
                callbacks=[TimedCallback(callback, log)],
                checkpoint_config=ray.tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        )
        assert not tuner.fit().errors
    return log


SIDES = {PROJECT: log_with_project, RAY: log_with_tune}


def measure(tracker: str, server: str, trials: int, rounds: int) -> list[Row]:
    """Return the median seconds of both sides, in turn."""
    logs: dict[str, list[Log]] = {side: [] for side in SIDES}
    for number in range(rounds):
        for side, log in SIDES.items():
            logs[side].append(log(tracker, server, trials))
            print(f"{tracker}, round {number + 1}, {side}: {sum(logs[side][-1].seconds.values()):.2f} s", flush=True)
    return [
        {
            "log in": tracker,
            "side": side,
            "seconds per trial": statistics.median(second for log in logs[side] for second in log.seconds.values()),
            "at the end": statistics.median(log.end_seconds for log in logs[side]),
        }
        for side in SIDES
    ]


def main() -> None:
    """Measure both trackers and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two trials, one round")
    trials, rounds = (2, 1) if parser.parse_args().quick else (10, 3)
    for name in ("ray", "ray.tune", "mlflow"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="tb-", dir="/tmp") as path:  # short: Ray creates sockets in it
        folder = Path(path)
        os.environ |= {"WANDB_MODE": "offline", "WANDB_DIR": path, "WANDB_SILENT": "true"}
        os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
        ray.init(address="local", include_dashboard=False, log_to_driver=False, _temp_dir=path)
        try:
            with start_mlflow_server(folder) as server:
                rows = measure(MLFLOW, server, trials, rounds)
            rows += measure(WANDB, "", trials, rounds)
        finally:
            ray.shutdown()
    print_table(f"Log of a trial with {EPOCHS} epochs (medians)", rows)
    print_json("trackers", {"trials": trials, "rounds": rounds}, {"logs": rows})


if __name__ == "__main__":
    main()
