"""Errors of one Ray Train worker end all workers, instead of letting them wait."""

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as multiprocessing

from cluster import UsageError
from cluster.storage import StorageError
from jobs.training.checkpoint_store import CheckpointStore, checkpoint_name
from jobs.training.process_group import ProcessGroup
from jobs.training.worker import call_with_error_sync, resume, validate_storage_visible
from tests.support.stored_checkpoints import make_store


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
