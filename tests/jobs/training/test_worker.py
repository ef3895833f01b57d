"""Ray Train worker: reports, and errors that end all workers instead of letting them wait."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import ray.train
import torch
import torch.multiprocessing as multiprocessing
from ray.train.torch import TorchTrainer

from cluster import UsageError
from cluster.storage import StorageError
from jobs.estimator.text_cnn import TextCNNClassifier
from jobs.training.process_group import ProcessGroup, call_with_error_sync
from jobs.training.run_files.checkpoint_store import CheckpointStore, checkpoint_name
from jobs.training.worker import (
    resume,
    train_loop_per_worker,
    validate_storage_visible,
)
from jobs.training.worker_messages import WorkerResult
from tests.support.stored_checkpoints import make_store
from tests.support.toy_data import make_toy_rows


class LoopStub:
    """The attribute of a loop that is read before a checkpoint is restored."""

    def __init__(self, group: ProcessGroup) -> None:
        self.group = group


def fail(*_: Any) -> Any:
    raise StorageError("the storage does not respond")


def failing_worker(rank: int, folder: str) -> None:
    """Run three operations that fail on the second worker only; write the errors that this worker raised."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/rendezvous", rank=rank, world_size=2)
    group = ProcessGroup(rank, 2)
    checkpoints = CheckpointStore(f"{folder}/run")
    if rank == 1:
        checkpoints.read = fail  # type: ignore[method-assign]
    raised = []
    for operation in (
        lambda: call_with_error_sync(group, lambda: fail() if rank else "fine"),
        lambda: validate_storage_visible(f"{folder}/{'run' if rank == 0 else 'nothing'}", group),
        lambda: resume(LoopStub(group), checkpoints),  # type: ignore[arg-type]
    ):
        try:
            operation()
        except UsageError as error:
            raised.append(str(error))
    assert call_with_error_sync(group, lambda: rank) == rank
    torch.save(raised, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_an_error_on_one_worker_is_raised_on_all(tmp_path: Path) -> None:
    """The errors are one of a function, a storage that is not visible, and a checkpoint that cannot be read."""
    make_store(tmp_path / "run", (1, 0, 1))
    (tmp_path / "run" / "experiment.yaml").touch()
    assert CheckpointStore(str(tmp_path / "run")).has(checkpoint_name(1))
    multiprocessing.spawn(functools.partial(failing_worker, folder=str(tmp_path)), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for raised in (first, second):
        assert len(raised) == 3
        assert raised[0] == raised[2] == "the storage does not respond"
        assert "is not accessible from" in raised[1]


def run_in_local_mode(function: Any) -> None:
    """Run a function as Ray Train's only worker, in this process."""
    TorchTrainer(function, scaling_config=ray.train.ScalingConfig(num_workers=0)).fit()


def test_a_folder_with_checkpoints_of_another_run_is_an_error(tmp_path: Path) -> None:
    """In a user's own trainer, whose name of the run would return the old model. The same run continues."""
    labels, texts = (list(column) for column in zip(*make_toy_rows(60), strict=True))
    small: dict[str, Any] = {"embedding": "rand", "feature_maps": 4, "filter_widths": (1,), "epochs": 1}
    model, path = TextCNNClassifier(**small), str(tmp_path / "run")

    def run(config: Mapping[str, Any]) -> int:
        run_in_local_mode(lambda: results.append(train_loop_per_worker(config)))
        return len(results[-1].progress.epochs)

    results: list[WorkerResult] = []
    assert run(model.train_loop_config(texts, labels, path=path)) == 1
    others = [
        TextCNNClassifier(**small | {"epochs": 2}).train_loop_config(texts, labels, path=path),
        model.train_loop_config([f"new {text}" for text in texts], labels, path=path),
    ]
    for other in others:
        with pytest.raises(UsageError, match="has a run with other settings, rows or vectors"):
            run(other)
    assert run(model.train_loop_config(texts, labels, path=path)) == 1


def test_a_users_trainer_has_a_report_and_a_checkpoint_of_each_epoch_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if checkpoints within an epoch are written: a newer one replaces them, and they are not reported."""
    labels, texts = (list(column) for column in zip(*make_toy_rows(2000), strict=True))
    small: dict[str, Any] = {"embedding": "rand", "feature_maps": 4, "filter_widths": (1,), "epochs": 2}
    estimator = TextCNNClassifier(**small, batch_size=50, settings={"train.checkpoint_minutes": 1e-6})
    config = estimator.train_loop_config(texts, labels, path=str(tmp_path / "run"))
    reports: list[tuple[int, str]] = []
    written: list[str] = []
    write, report = CheckpointStore.write, ray.train.report

    def record_write(self: CheckpointStore, name: str, *arguments: Any) -> None:
        write(self, name, *arguments)
        written.append(name)

    def call_user_callback(metrics: Any, checkpoint: Any, **options: Any) -> None:
        """As of the guide on training; local mode calls none."""
        reports.append((metrics["epoch"], Path(checkpoint.path).name))
        report(metrics, checkpoint, **options)

    monkeypatch.setattr(CheckpointStore, "write", record_write)
    monkeypatch.setattr(ray.train, "report", call_user_callback)
    run_in_local_mode(lambda: train_loop_per_worker(config) and None)
    assert reports == [(1, "epoch-0001"), (2, "epoch-0002")]
    assert sum("step" in name for name in written) > 2
    assert {path.name for path in (tmp_path / "run").glob("epoch-*")} == {"epoch-0001", "epoch-0002"}
