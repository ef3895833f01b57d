"""Linear classifier of a run: trained by the first worker only, and not by a resumed run."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cluster import UsageError
from jobs.config.experiment import Experiment
from jobs.model.checkpoint import load_training_state
from jobs.model.linear.tensors import CONSTANT_TENSORS
from jobs.training.exchange.shared_memory import SharedMemory
from jobs.training.linear import preparation
from jobs.training.linear.preparation import prepare_linear_classifier
from jobs.training.linear.rarity import compute_rarity
from jobs.training.linear.svc import train_linear_classifier
from jobs.training.loop import create_loop
from jobs.training.process_group import ProcessGroup
from jobs.training.run_files.snapshot import capture, restore
from tests.support.loops import make_loop
from tests.support.threads import run_workers
from tests.support.toy_data import make_test_corpus


def test_a_resumed_run_does_not_train_it(
    make_experiment: Callable[..., Experiment], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has that of its checkpoint."""
    experiment = make_experiment(model__linear="words-and-pairs", train__epochs=2)
    first = make_loop(experiment)
    next(first.train_epochs())
    capture(experiment, first.corpus, first, resumable=True)(tmp_path / "checkpoint")
    monkeypatch.setattr(preparation, "train_linear_classifier", None)
    resumed = make_loop(experiment)
    restore(resumed, load_training_state(tmp_path / "checkpoint"))
    assert [epoch.epoch for epoch, _ in resumed.train_epochs()] == [2]
    for name in CONSTANT_TENSORS:
        assert torch.equal(resumed.network.weights()[name], first.network.weights()[name])


@pytest.mark.parametrize("size", [2, 3])
def test_the_first_worker_trains_it_for_all(
    make_experiment: Callable[..., Experiment], monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """Processors may round differently. The others get messages meanwhile, since they would give up after minutes."""
    experiment = make_experiment(
        model__linear="words-and-pairs", train__linear_weight=0.5, train__linear_weight_growth=2.0
    )
    corpus = make_test_corpus(experiment)
    expected = train_linear_classifier(corpus, "balanced")
    threads: list[str] = []
    messages: list[int] = []
    any_worker = ProcessGroup.any_worker

    def train_slowly(*arguments: Any) -> dict[str, np.ndarray]:
        threads.append(threading.current_thread().name)
        time.sleep(0.2)
        return train_linear_classifier(*arguments)

    def count_and_ask(group: ProcessGroup, value: bool) -> bool:
        messages.append(group.rank)
        return any_worker(group, value)

    monkeypatch.setattr(preparation, "train_linear_classifier", train_slowly)
    monkeypatch.setattr(preparation, "WAIT_S", 0.05)
    monkeypatch.setattr(ProcessGroup, "any_worker", count_and_ask)

    def work(group: ProcessGroup) -> dict[str, torch.Tensor]:
        loop = create_loop(experiment, corpus, group)
        prepare_linear_classifier(loop)
        prepare_linear_classifier(loop)  # without effect
        return loop.network.weights()

    path = SharedMemory.create_file(size)
    if path is None:
        pytest.skip("this machine has no usable shared memory")
    for weights in run_workers(path, size, work):
        assert weights["linear.scale"].tolist() == pytest.approx(0.5 + 2 * compute_rarity(corpus))
        for name, value in expected.items():
            assert torch.equal(weights[name], torch.from_numpy(value)), name
    Path(path).unlink()
    assert len(threads) == 1
    assert messages.count(1) > 2


def test_a_failure_of_the_first_worker_is_one_of_all(
    make_experiment: Callable[..., Experiment], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others would wait for its tensors."""
    experiment = make_experiment()
    corpus = make_test_corpus(experiment)

    def fail(*arguments: object) -> None:
        raise UsageError("no rows")

    def work(group: ProcessGroup) -> str:
        with pytest.raises(UsageError) as caught:
            prepare_linear_classifier(create_loop(experiment, corpus, group))
        return str(caught.value)

    monkeypatch.setattr(preparation, "train_linear_classifier", fail)
    path = SharedMemory.create_file(2)
    if path is None:
        pytest.skip("this machine has no usable shared memory")
    assert run_workers(path, 2, work) == ["no rows"] * 2
    Path(path).unlink()
