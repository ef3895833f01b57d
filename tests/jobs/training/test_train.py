"""Training on real Ray Train workers: results, errors and restarts.

benchmarks/chaos.py kills workers and the controller; tests/benchmarks/test_benchmarks.py runs it.
"""

import re
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import ray
from ray.train import TrainingFailedError
from ray.train.torch import TorchTrainer

from cluster.resources import ResourceError
from cluster.storage import StorageError, lock_folder
from jobs.config.experiment import Experiment
from jobs.model.checkpoint import load_checkpoint
from jobs.training.monitor import RunStatus
from jobs.training.run_folder import RunFolder, resolve_run_folder
from jobs.training.train import MAX_FAILURES_WITHOUT_CHECKPOINT, TrainingFailed, fit, train
from tests.support.commands import run_command
from tests.support.loops import train_in_process
from tests.support.tensorboard import read_scalars
from tests.support.toy_data import make_test_corpus

pytestmark = [pytest.mark.ray, pytest.mark.slow]


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
    epoch_lines = re.findall(r"^epoch +(\d) .*?(best so far)?$", log, re.MULTILINE)
    assert [number for number, _ in epoch_lines if number] == ["1", "2", "3"]
    assert [number for number, best_so_far in epoch_lines if best_so_far][-1] == str(loop.progress.best)
    assert re.search(r"examples/s   at most 0:00:0\d left", log)
    summary = (
        r"s in total, [\d.]+ s of it in training steps, the first step finished after [\d.]+ s, [\d.]+ MB per step"
    )
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


def test_elastic_workers_leave_other_jobs_and_services_their_cpus(
    embedded_ray: None, make_experiment: Callable[..., Experiment], messages: list[str]
) -> None:
    """Ray Train would ask for as many workers as there are CPUs, and wait for ever."""

    @ray.remote(num_cpus=2)
    class Service:
        def is_running(self) -> bool:
            return True

    service = Service.remote()
    assert ray.get(service.is_running.remote())
    try:
        train(make_experiment(name="elastic", train__workers=[1, 8], train__epochs=1))
    finally:
        ray.kill(service)
    assert "training with 2 workers on cpu" in messages


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


def test_a_single_worker_trains_the_same_network_with_and_without_a_cluster(
    embedded_ray: None, make_experiment: Callable[..., Experiment], messages: list[str]
) -> None:
    """Bit for bit, with pretrained vectors and dropout; the command without a cluster starts no Ray process."""
    settings = {"model.embedding": "multichannel", "train.cpus_per_worker": 1}
    cluster = make_experiment(name="cluster", **settings)
    train(cluster)
    assert "starting 1 worker" in messages
    local = make_experiment(name="local", **settings)
    Path(local.storage, "local.yaml").write_text(local.to_yaml())
    script = (
        "import sys, ray, jobs.__main__\n"
        "ray.init = lambda *_, **__: sys.exit('Ray is started')\n"
        "sys.exit(jobs.__main__.main(sys.argv[1:]))\n"
    )
    result = run_command("python", "-c", script, "train", str(Path(local.storage, "local.yaml")))
    assert result.returncode == 0, result.stdout + result.stderr
    assert "training with 1 worker on cpu" in result.stdout
    assert result.stderr == ""
    paths = [Path(experiment.storage, experiment.name) for experiment in (cluster, local)]
    of_cluster, in_process = (load_checkpoint(str(path)) for path in paths)
    assert of_cluster.weights.keys() == in_process.weights.keys()
    for key, value in of_cluster.weights.items():
        assert np.array_equal(in_process.weights[key], value), key
