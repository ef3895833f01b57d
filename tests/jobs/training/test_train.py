"""Training on real Ray Train workers: results, errors, restarts and interruptions."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from ray.train import TrainingFailedError
from ray.train.torch import TorchTrainer

from cluster.package import REPOSITORY
from cluster.resources import ResourceError
from cluster.storage import StorageError, lock_folder
from jobs.config.experiment import Experiment
from jobs.model.checkpoint import load_checkpoint
from jobs.training.loop import Loop
from jobs.training.monitor import RunStatus
from jobs.training.run_folder import RunFolder, resolve_run_folder
from jobs.training.snapshot import gather_weights
from jobs.training.train import MAX_FAILURES_WITHOUT_CHECKPOINT, TrainingFailed, fit, train
from tests.support.loops import make_loop
from tests.support.tensorboard import read_scalars
from tests.support.toy_data import make_test_corpus
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def train_in_process(experiment: Experiment) -> tuple[Loop, dict[int, dict[str, np.ndarray]]]:
    """Train without Ray in this process, as one worker does; return the loop and the weights after each epoch."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as on a worker: the order of sums depends on it
    loop = make_loop(experiment)
    weights = {
        epoch.epoch: {key: value.clone().numpy() for key, value in gather_weights(loop).items()}
        for epoch, _ in loop.train_epochs()
    }
    torch.set_num_threads(threads)
    return loop, weights


def test_workers_train_the_checkpoint_of_a_single_process_and_describe_the_run(
    embedded_ray: None, make_experiment: Callable[..., Experiment], messages: list[str]
) -> None:
    """Two workers (of `workers: [1, 2]`) train; the same command again only reports that the run is finished."""
    experiment = make_experiment(train__workers=[1, 2])
    best = train(experiment)
    log = "\n".join(messages)
    checkpoint = load_checkpoint(best)
    assert checkpoint.labels == ["bad", "good"]

    loop, weights = train_in_process(experiment)
    epochs = loop.progress.epochs
    assert checkpoint.metrics["epoch"] == loop.progress.best
    assert checkpoint.metrics["accuracy"] == max(epoch.accuracy for epoch in epochs)
    np.testing.assert_allclose(checkpoint.metrics["loss"], epochs[loop.progress.best - 1].loss, atol=1e-5)
    for key, value in weights[loop.progress.best].items():
        np.testing.assert_allclose(checkpoint.weights[key], value, atol=1e-4)

    assert "training with 2 workers on cpu" in messages
    epoch_lines = re.findall(r"^epoch +(\d) .*?(\*?)$", log, re.MULTILINE)
    assert [number for number, _ in epoch_lines if number] == ["1", "2", "3"]
    assert [number for number, star in epoch_lines if star][-1] == str(loop.progress.best)
    assert re.search(r"examples/s   at most 0:00:0\d left", log)
    assert len(re.findall(r"  best$", log, re.MULTILINE)) == 1
    summary = r"s in total, \d+% of it outside steps; the first step was done after [\d.]+ s, [\d.]+ MB per step"
    assert re.search(summary, log)

    [run] = Path(best).parent.glob("train-*")
    assert (run / "learning-curve.png").read_bytes().startswith(b"\x89PNG")
    [events] = (run / "tensorboard").glob("events.*")
    assert [step for step, _ in read_scalars(events)["validation/accuracy"]] == [1, 2, 3]
    described = (run / "README.txt").read_text()
    for path in run.iterdir():
        if not path.name.startswith((".", "README")):
            assert path.name.split("-0")[0] in described, path.name

    messages.clear()
    assert train(experiment) == best
    assert any("this run is finished" in line for line in messages)
    assert not any(line.startswith("epoch") for line in messages)


def test_a_diverging_run_fails_with_the_workers_reason(
    embedded_ray: None, make_experiment: Callable[..., Experiment]
) -> None:
    """The error has no traceback, and there is no best.json."""
    experiment = make_experiment(train__learning_rate=1e30, model__max_norm=None, name="diverges")
    with pytest.raises(TrainingFailed, match=r"the training loss is .*lower train.learning_rate"):
        train(experiment)
    assert not (Path(experiment.storage) / "diverges" / "best.json").exists()


def test_a_run_of_another_command_is_refused(embedded_ray: None, make_experiment: Callable[..., Experiment]) -> None:
    """Both would write and delete the same checkpoints."""
    experiment = make_experiment(name="locked")
    with (
        lock_folder(resolve_run_folder("train", experiment, make_test_corpus(experiment)).path),
        pytest.raises(StorageError, match="another command is using this run folder"),
    ):
        train(experiment)


def test_more_workers_than_the_cluster_has_room_for_are_an_error(
    embedded_ray: None, make_experiment: Callable[..., Experiment]
) -> None:
    """Ray Train would wait for ever."""
    with pytest.raises(ResourceError, match=r"99 workers of 1 CPU each; there are 4 CPUs on 1 node, and this clus"):
        train(make_experiment(train__workers=99))


class WorkersLost(TrainingFailedError):
    """Loss of a worker, and the error that another one has because of it."""

    def __init__(self) -> None:
        super().__init__("lost")
        self.worker_failures = {0: RuntimeError("[gloo] Connection closed"), 1: RuntimeError("killed\nby SIGKILL")}


def test_a_run_gives_up_after_failures_without_progress(
    embedded_ray: None,
    make_experiment: Callable[..., Experiment],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    messages: list[str],
) -> None:
    """A new checkpoint resets the count; the error names the worker that was lost."""
    status = RunStatus(time.time())
    attempts = 0

    def lose_workers(trainer: TorchTrainer) -> None:
        nonlocal attempts
        attempts += 1
        status.workers_running.set()
        if attempts in (1, 3):
            status.num_checkpoints += 1
        raise WorkersLost

    monkeypatch.setattr(TorchTrainer, "fit", lose_workers)
    with pytest.raises(TrainingFailed, match="lost 4 times without progress: killed by SIGKILL; "):
        fit(make_experiment(), None, RunFolder(str(tmp_path), "train-1"), False, status)
    # The third attempt wrote the last checkpoint, and is the first failure.
    assert attempts == 3 + MAX_FAILURES_WITHOUT_CHECKPOINT
    assert sum(line.startswith("workers were lost (killed by SIGKILL)") for line in messages) == attempts - 1
    assert not status.workers_running.is_set()


class TrainCommand:
    """`python -m jobs train` in a process group of its own, and its output."""

    def __init__(self, settings: dict[str, object], environment: dict[str, str]) -> None:
        command = [sys.executable, "-m", "jobs", "train", *(f"{key}={value}" for key, value in settings.items())]
        self.process = subprocess.Popen(
            command, cwd=REPOSITORY, env=environment, text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self.output = ""
        self._environment = environment
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output += line

    def wait_for_line(self, pattern: str, start: int = 0) -> None:
        """Wait for an output line that matches and begins after the first `start` characters."""
        wait_for(
            lambda: re.search(f"^{pattern}", self.output[start:], re.MULTILINE) or self.process.poll() is not None,
            f"{pattern} in {self.output}",
            timeout=300,
            interval=0.02,
        )
        assert self.process.poll() is None, self.output

    def kill_ray_process(self, title: str) -> None:
        """Kill the command's Ray process whose title starts like this, and wait until it trains again."""
        start = len(self.output)
        temporary = f"RAY_TMPDIR={self._environment['RAY_TMPDIR']}".encode()
        killed = []
        for entry in Path("/proc").iterdir():
            with suppress(OSError, ValueError):
                titled = (entry / "cmdline").read_bytes().startswith(title.encode())
                if titled and temporary in (entry / "environ").read_bytes():
                    os.kill(int(entry.name), signal.SIGKILL)
                    killed.append(entry.name)
        assert killed, f"there is no process {title}"
        self.wait_for_line("workers were lost", start)
        self.wait_for_line("resuming after epoch", start)
        self.wait_for_line("epoch ", self.output.index("resuming after epoch", start))

    def wait(self) -> int:
        """Wait for the end and return the exit code."""
        return self.process.wait(timeout=300)

    def close(self) -> None:
        """Read the rest of the output."""
        self._reader.join(timeout=30)
        assert self.process.stdout is not None
        self.process.stdout.close()


@contextmanager
def run_command(settings: dict[str, object], environment: dict[str, str]) -> Iterator[TrainCommand]:
    """Context manager: a train command, which is killed at the end if it still runs."""
    command = TrainCommand(settings, environment)
    try:
        yield command
    finally:
        if command.process.poll() is None:
            command.process.kill()
        command.process.wait(timeout=30)
        command.close()


def test_kills_and_ctrl_c_do_not_change_the_result(
    toy_csv: Path, tmp_path: Path, ray_environment: dict[str, str]
) -> None:
    """With kills of worker, controller and driver, and Ctrl-C, the weights are those of an undisturbed run."""
    settings: dict[str, object] = {
        "name": "killed",
        "storage": str(tmp_path / "runs"),
        "data.train": str(toy_csv),
        "model.embedding": "rand",
        "model.feature_maps": 8,
        "train.batch_size": 2,
        "train.epochs": 120,
        "train.patience": 120,
        "train.metric": "loss",
    }
    with run_command(settings, ray_environment) as command:
        command.wait_for_line("epoch   3")
        command.kill_ray_process("ray::RayTrainWorker")
        command.kill_ray_process("ray::TrainController")
        os.killpg(command.process.pid, signal.SIGINT)  # as a terminal does
        assert command.wait() == 130, command.output
        assert "interrupted" in command.output
        assert "Traceback" not in command.output

    with run_command(settings, ray_environment) as command:
        command.wait_for_line("resuming after epoch")
        command.wait_for_line("epoch ")
        command.process.kill()
    time.sleep(2)  # until its Ray processes notice and end

    with run_command(settings, ray_environment) as command:
        assert command.wait() == 0, command.output
    assert "resuming after epoch" in command.output

    loop, weights = train_in_process(Experiment().replace(settings))
    checkpoint = load_checkpoint(str(tmp_path / "runs" / "killed"))
    assert checkpoint.metrics["epoch"] == loop.progress.best
    for key, value in weights[loop.progress.best].items():
        assert np.array_equal(checkpoint.weights[key], value), key
