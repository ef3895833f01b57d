"""Fine-tuning on real Ray Train workers: finished, repeated, cut off and continued."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from cluster.package import REPOSITORY
from cluster.resources import ResourceError
from cluster.storage import StorageError, locked
from jobs import checkpoint
from jobs.experiment import Experiment
from jobs.loop import Loop
from jobs.network import Network
from jobs.run import place
from jobs.train import TrainingFailed, train
from tests.conftest import corpus_of

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_two_workers_train_a_checkpoint_that_one_process_would(
    ray_here: None, toy: Callable[..., Experiment], tmp_path: Path
) -> None:
    """The best epoch is named and whole, the same as without Ray; a second call says that it is done."""
    experiment = toy(train__workers=2)
    told: list[str] = []
    best = train(experiment, told.append)
    assert sum(line.startswith("epoch") for line in told) == 3
    first_told = list(told)
    named = json.loads(Path(best).read_text())
    found = checkpoint.read(best)
    assert found.labels == ["bad", "good"]
    assert named["metrics"]["accuracy"] == found.metrics["accuracy"]

    corpus = corpus_of(experiment)
    loop = Loop(
        Network(experiment.model, corpus.vectors, 2, experiment.seed), corpus, experiment.train, experiment.seed
    )
    epochs = [epoch for epoch, _ in loop.epochs()]
    assert found.metrics["accuracy"] == max(epoch.accuracy for epoch in epochs)
    assert found.metrics["epoch"] == loop.progress.best
    assert [line for line in first_told if line.endswith("*")][-1].startswith(f"epoch {loop.progress.best:3d} ")
    np.testing.assert_allclose(found.metrics["loss"], epochs[found.metrics["epoch"] - 1].loss, atol=1e-5)

    told.clear()
    assert train(experiment, told.append) == best
    assert any("this run is finished" in line for line in told)
    assert not any(line.startswith("epoch") for line in told)


def test_a_diverging_run_says_so_and_names_nothing(ray_here: None, toy: Callable[..., Experiment]) -> None:
    """The reason comes from the worker, without a traceback."""
    experiment = toy(train__learning_rate=1e30, model__max_norm=None, name="diverges")
    with pytest.raises(TrainingFailed, match=r"the training loss is .*lower train.learning_rate"):
        train(experiment, lambda line: None)
    assert not (Path(experiment.storage) / "diverges" / "best.json").exists()


def test_a_run_that_another_command_is_at_work_on_is_refused(ray_here: None, toy: Callable[..., Experiment]) -> None:
    """Both would write and delete the same checkpoints."""
    experiment = toy(name="held")
    with (
        locked(place("train", experiment, corpus_of(experiment)).path),
        pytest.raises(StorageError, match="another command is at work on this run"),
    ):
        train(experiment, lambda line: None)


def test_more_workers_than_there_is_room_for_fail_at_once(ray_here: None, toy: Callable[..., Experiment]) -> None:
    """Ray Train would wait for ever."""
    with pytest.raises(ResourceError, match=r"99 workers of 1 CPUs each; there are 4 CPUs on 1 nodes"):
        train(toy(train__workers=99), lambda line: None)


def test_a_killed_run_goes_on_and_ends_as_one_that_was_not(
    toy: Callable[..., Experiment], tmp_path: Path, ray_environment: dict[str, str]
) -> None:
    """kill -9 of the driver after some epochs; the same command finishes with the same weights."""
    settings = {
        "name": "k",
        "storage": str(tmp_path / "runs"),
        "data.train": str(tmp_path / "toy.csv"),
        "model.embedding": "rand",
        "model.feature_maps": 8,
        "train.batch_size": 4,
        "train.epochs": 40,
        "train.patience": 40,
        "train.metric": "loss",
    }
    command = [sys.executable, "-m", "jobs", "train", *(f"{key}={value}" for key, value in settings.items())]

    with subprocess.Popen(command, cwd=REPOSITORY, env=ray_environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("epoch   3"):
                break
        process.kill()
    time.sleep(2)  # its Ray notices and ends
    again = subprocess.run(command, cwd=REPOSITORY, env=ray_environment, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert "going on after epoch" in again.stdout

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as on a worker: sums are in another order with more
    experiment = Experiment().replace(settings)
    corpus = corpus_of(experiment)
    loop = Loop(
        Network(experiment.model, corpus.vectors, 2, experiment.seed), corpus, experiment.train, experiment.seed
    )
    found = checkpoint.read(str(tmp_path / "runs" / "k"))
    weights = {}
    for epoch, _ in loop.epochs():
        if epoch.epoch == found.metrics["epoch"]:
            weights = {key: value.clone().numpy() for key, value in loop.network.state_dict().items()}
    torch.set_num_threads(threads)
    assert found.metrics["epoch"] == loop.progress.best
    for key, value in weights.items():
        assert np.array_equal(found.weights[key], value), key
