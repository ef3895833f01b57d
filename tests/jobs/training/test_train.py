"""Training on real Ray Train workers: results, reports, errors and restarts.

benchmarks/chaos.py kills workers and the controller; tests/benchmarks/test_benchmarks.py runs it.
"""

import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import ray
import ray.train
from ray.exceptions import ActorDiedError
from ray.train.torch import TorchTrainer

import finetune_cnn
from cluster.package import REPOSITORY
from cluster.resources import ResourceError
from cluster.storage import StorageError, lock_folder
from jobs.config.experiment import Experiment
from jobs.datasets.readers import DataError
from jobs.early_start import connect_early
from jobs.model.checkpoint import load_checkpoint
from jobs.training import monitor
from jobs.training.exchange.shared_memory import TIMEOUT_S
from jobs.training.monitor import MAX_FAILURES_WITHOUT_CHECKPOINT, RunStatus
from jobs.training.run_files.ray_snapshot import RAY_SNAPSHOT
from jobs.training.run_files.run_folder import RunFolder, resolve_run_folder
from jobs.training.train import TrainingFailed, fit, train
from tests.support.commands import run_command
from tests.support.documents import read_code_blocks
from tests.support.loops import train_in_process
from tests.support.tensorboard import read_scalars
from tests.support.toy_data import make_test_corpus
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.ray, pytest.mark.slow]

GUIDE = REPOSITORY / "docs" / "guides" / "training.md"


class WorkerKiller(ray.train.UserCallback):
    """Callback that appends the epochs it sees to a file, and kills a worker after the first."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._killed = False

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        with self._path.open("a") as stream:
            stream.write(json.dumps(metrics[0] | {"exists": os.path.exists(checkpoint.path)}) + "\n")
        if not self._killed:
            self._killed = True
            os.kill(find_worker(), signal.SIGKILL)


def find_worker() -> int:
    """Return the id of a worker process of Ray Train with the same parent, the raylet, as this process."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
            if int(parent) == os.getppid() and (entry / "cmdline").read_bytes().startswith(b"ray::RayTrainWorker"):
                return int(entry.name)
        except OSError:  # it has just ended
            continue
    raise AssertionError("there is no worker")


def test_workers_train_the_checkpoint_of_a_single_process_and_describe_the_run(
    embedded_ray: None,
    make_experiment: Callable[..., Experiment],
    messages: list[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Two workers (of `workers: [1, 2]`) train, although one is killed after the first report, when Ray restarts them.

    They have a linear classifier, which the first worker sends to the other one.
    The texts are several blocks. The same command again only reports that the run is finished.
    """
    monkeypatch.setattr("jobs.training.train.REPORT_INTERVAL_S", 0.0)
    monkeypatch.setattr("jobs.training.corpora.token_blocks.BLOCK_TOKENS", 200)
    experiment = make_experiment(train__workers=[1, 2], train__epochs=4, model__linear="words-and-pairs")
    best = train(experiment, callbacks=[WorkerKiller(tmp_path / "seen.jsonl")])
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

    assert messages.count("training with 2 workers on cpu") == 2
    [lost] = [line for line in messages if line.startswith("workers were lost")]
    assert lost.endswith("; restarting from the last checkpoint")
    resumed = [int(line.split()[-1]) for line in messages if line.startswith("resuming after epoch")]
    epoch_lines = re.findall(r"^epoch +(\d) .*?(best so far)?$", log, re.MULTILINE)
    assert {number for number, _ in epoch_lines} == {"1", "2", "3", "4"}
    assert [number for number, best_so_far in epoch_lines if best_so_far][-1] == str(loop.progress.best)

    reports = [json.loads(line) for line in (tmp_path / "seen.jsonl").read_text().splitlines()]
    epochs_seen = [report["epoch"] for report in reports]
    assert epochs_seen[0] == 1
    assert {loop.progress.best, *range(resumed[0] + 1, 5)} <= set(epochs_seen)
    assert epochs_seen[-1] == 4
    assert all(report["exists"] for report in reports)
    [run] = Path(best).parent.glob("train-*")
    names: dict[str, Any] = {}
    [block] = [block for block in read_code_blocks(GUIDE) if "Result.from_path" in block.text]
    block.run(names, ("/data/runs/tickets/train-1a2b3c4d", str(run)))
    result = names["result"]
    assert result.metrics == {key: value for key, value in reports[-1].items() if key != "exists"}
    assert finetune_cnn.load(result.checkpoint.path).labels == ["bad", "good"]
    # The checkpoints of the other epochs were removed; a report may have been lost with its worker.
    assert set(result.metrics_dataframe["epoch"]) == {loop.progress.best, 3, 4} & set(epochs_seen)
    for saved, metrics in result.best_checkpoints:
        assert load_checkpoint(saved.path).metrics["loss"] == metrics["loss"]
    assert re.search(r"examples/s   at most 0:00:0\d left", log)
    summary = (
        r"s in total, [\d.]+ s of it in training steps, the first step finished after [\d.]+ s, [\d.]+ MB per step"
    )
    assert re.search(summary, log)

    assert (run / "learning-curve.png").read_bytes().startswith(b"\x89PNG")
    [events] = (run / "tensorboard").glob("events.*")
    assert [step for step, _ in read_scalars(events)["validation/accuracy"]] == [1, 2, 3, 4]
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
    """Ray Train would wait forever. It is raised before vectors are read, or a command's inputs are waited for."""
    experiment = make_experiment(train__workers=99, model__embedding="static", vectors__path="none.bin")
    for inputs in (None, lambda: pytest.fail("the inputs were waited for")):
        with pytest.raises(ResourceError, match=r"99 workers of 1 CPU; there are 4 CPUs on 1 node, and this clus"):
            train(experiment, inputs=inputs)


def test_an_error_in_the_texts_does_not_wait_for_torch(
    embedded_ray: None, make_experiment: Callable[..., Experiment], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command loads both while Ray starts."""
    stop = threading.Event()
    ended: list[bool] = []
    load = SimpleNamespace(import_module=lambda name: ended.append(stop.wait(60)))
    monkeypatch.setattr("jobs.early_start.importlib", load)
    with (
        pytest.raises(DataError, match="no such file"),
        connect_early(make_experiment(train__workers=2, data__train="none.csv")),
    ):
        pytest.fail("torch was waited for")
    assert not ended, "torch was waited for"
    stop.set()


def test_elastic_workers_leave_other_jobs_and_services_their_cpus(
    embedded_ray: None, make_experiment: Callable[..., Experiment], messages: list[str]
) -> None:
    """Ray Train would ask for as many workers as there are CPUs, and wait forever."""

    @ray.remote(num_cpus=2)
    class Service:
        def is_running(self) -> bool:
            return True

    service = Service.remote()
    assert ray.get(service.is_running.remote())
    # Tests of other files share this Ray, and what they leave may have CPUs too.
    with suppress(TimeoutError):
        wait_for(lambda: ray.available_resources()["CPU"] == ray.cluster_resources()["CPU"] - 2, "all other CPUs", 20)
    free = int(ray.available_resources()["CPU"])
    try:
        train(make_experiment(name="elastic", train__workers=[1, 8], train__epochs=1))
    finally:
        ray.kill(service)
    assert f"training with {free} worker{'s' * (free > 1)} on cpu" in messages


def test_a_run_gives_up_after_failures_without_progress(
    embedded_ray: None, make_experiment: Callable[..., Experiment], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray Train restarts the workers, until the callback ends the run; the error says why a worker failed."""
    monkeypatch.setattr(monitor, "MAX_FAILURES_WITHOUT_CHECKPOINT", 1)
    (tmp_path / "train-1").mkdir()
    (tmp_path / "train-1" / "experiment.yaml").touch()
    with pytest.raises(TrainingFailed, match=r"lost 2 times without progress: .*'str' object has no attribute"):
        fit(make_experiment(), ray.put("no corpus"), RunFolder(str(tmp_path), "train-1"), False, RunStatus(time.time()))


def test_losses_of_the_controller_are_limited_if_there_is_no_progress(
    embedded_ray: None,
    make_experiment: Callable[..., Experiment],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    messages: list[str],
) -> None:
    """A new checkpoint resets the count. Ray Train's list of checkpoints is removed: some may not exist any more."""
    run = RunFolder(str(tmp_path), "train-1")
    Path(run.path).mkdir()
    snapshot = Path(run.path, RAY_SNAPSHOT)
    snapshot.write_text("{}")
    status = RunStatus(time.time())
    attempts, timeouts = 0, list[int]()

    def lose_controller(trainer: TorchTrainer) -> None:
        nonlocal attempts
        attempts += 1
        timeouts.append(trainer.backend_config.timeout_s)
        if attempts in (1, 3):
            status.num_checkpoints += 1
        raise ActorDiedError

    monkeypatch.setattr(TorchTrainer, "fit", lose_controller)
    with pytest.raises(TrainingFailed, match=r"controller was lost 4 times without progress: .* repeat the command"):
        fit(make_experiment(), make_test_corpus(make_experiment()), run, False, status)
    assert not snapshot.exists()
    assert {*timeouts} == {TIMEOUT_S}  # the same wait as in shared memory
    # The third attempt wrote the last checkpoint, and is the first failure.
    assert attempts == 3 + MAX_FAILURES_WITHOUT_CHECKPOINT
    assert sum(line.startswith("workers were lost (") for line in messages) == attempts - 1


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
