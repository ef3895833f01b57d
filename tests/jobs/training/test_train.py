"""Fine-tuning on real Ray Train workers: finished, repeated, cut off and continued."""

import json
import re
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
from cluster.storage import StorageError, lock_folder
from jobs.config.experiment import Experiment
from jobs.model import checkpoint
from jobs.model.network import Network
from jobs.training.loop import Loop
from jobs.training.run_folder import resolve_run_folder
from jobs.training.snapshot import gather_weights
from jobs.training.train import TrainingFailed, train
from tests.conftest import make_test_corpus
from tests.support.tensorboard import scalars

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def trained_here(experiment: Experiment) -> tuple[Loop, dict[int, dict[str, np.ndarray]]]:
    """Train without Ray in this process, as one worker does, and return the loop and each epoch's weights."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as on a worker: sums are in another order with more
    corpus = make_test_corpus(experiment)
    network = Network(
        experiment.model, corpus.vectors, 2, experiment.seed, num_trainable_words=len(corpus.word_counts())
    )
    loop = Loop(network, corpus, experiment.train, experiment.seed)
    found = {}
    for epoch, _ in loop.train_epochs():
        found[epoch.epoch] = {key: value.clone().numpy() for key, value in gather_weights(loop).items()}
    torch.set_num_threads(threads)
    return loop, found


def test_two_workers_train_a_checkpoint_that_one_process_would(
    embedded_ray: None, make_experiment: Callable[..., Experiment], messages: list[str]
) -> None:
    """The best epoch is named and whole, the same as without Ray; a second call says that it is done."""
    experiment = make_experiment(train__workers=2)
    best = train(experiment)
    assert sum(line.startswith("epoch   ") for line in messages) == 3
    first_told = list(messages)
    named = json.loads(Path(best).read_text())
    found = checkpoint.load_checkpoint(best)
    assert found.labels == ["bad", "good"]
    assert named["metrics"]["accuracy"] == found.metrics["accuracy"]

    loop, by_epoch = trained_here(experiment)
    epochs = loop.progress.epochs
    assert found.metrics["accuracy"] == max(epoch.accuracy for epoch in epochs)
    assert found.metrics["epoch"] == loop.progress.best
    assert [line for line in first_told if line.endswith("*")][-1].startswith(f"epoch {loop.progress.best:3d} ")
    np.testing.assert_allclose(found.metrics["loss"], epochs[found.metrics["epoch"] - 1].loss, atol=1e-5)
    for key, value in by_epoch[loop.progress.best].items():
        np.testing.assert_allclose(found.weights[key], value, atol=1e-4)

    messages.clear()
    assert train(experiment) == best
    assert any("this run is finished" in line for line in messages)
    assert not any(line.startswith("epoch") for line in messages)


def test_a_run_leaves_what_a_person_looks_at(
    embedded_ray: None, make_experiment: Callable[..., Experiment], messages: list[str]
) -> None:
    """A table and a summary at the end; in its folder a picture, scalars for TensorBoard, and what each file is."""
    experiment = make_experiment(name="seen", train__workers=[1, 2])
    folder = Path(train(experiment)).parent
    [run] = folder.glob("train-*")
    assert any(re.search(r"examples/s   at most 0:00:0\d left", line) for line in messages)
    assert sum(line.endswith("  best") for line in messages) == 1
    assert any(
        re.search(r"s in all, \d+% of it outside steps; the first step was done after [\d.]+ s", e) for e in messages
    )
    assert any("training with 2 workers on cpu" in line for line in messages)
    assert (run / "learning-curve.png").read_bytes().startswith(b"\x89PNG")
    [log] = (run / "tensorboard").glob("events.*")
    assert [step for step, _ in scalars(log)["validation/accuracy"]] == [1, 2, 3]
    described = (run / "README.txt").read_text()
    for path in run.iterdir():
        if not path.name.startswith((".", "README")):
            assert path.name.split("-0")[0] in described, path.name


def test_a_diverging_run_says_so_and_names_nothing(
    embedded_ray: None, make_experiment: Callable[..., Experiment]
) -> None:
    """The reason comes from the worker, without a traceback."""
    experiment = make_experiment(train__learning_rate=1e30, model__max_norm=None, name="diverges")
    with pytest.raises(TrainingFailed, match=r"the training loss is .*lower train.learning_rate"):
        train(experiment)
    assert not (Path(experiment.storage) / "diverges" / "best.json").exists()


def test_a_run_that_another_command_is_at_work_on_is_refused(
    embedded_ray: None, make_experiment: Callable[..., Experiment]
) -> None:
    """Both would write and delete the same checkpoints."""
    experiment = make_experiment(name="held")
    with (
        lock_folder(resolve_run_folder("train", experiment, make_test_corpus(experiment)).path),
        pytest.raises(StorageError, match="another command is at work on this run"),
    ):
        train(experiment)


def test_more_workers_than_there_is_room_for_fail_at_once(
    embedded_ray: None, make_experiment: Callable[..., Experiment]
) -> None:
    """Ray Train would wait for ever."""
    with pytest.raises(ResourceError, match=r"99 workers of 1 CPU each; there are 4 CPUs on 1 node, and this clus"):
        train(make_experiment(train__workers=99))


def test_a_killed_run_goes_on_and_ends_as_one_that_was_not(
    make_experiment: Callable[..., Experiment], tmp_path: Path, ray_environment: dict[str, str]
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

    loop, by_epoch = trained_here(Experiment().replace(settings))
    found = checkpoint.load_checkpoint(str(tmp_path / "runs" / "k"))
    assert found.metrics["epoch"] == loop.progress.best
    for key, value in by_epoch[loop.progress.best].items():
        assert np.array_equal(found.weights[key], value), key
