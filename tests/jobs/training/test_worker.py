"""A worker that cannot go on takes the others along, instead of letting them wait."""

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
from tests.support.stored_checkpoints import filled


class Loop:
    """As much of a loop as is looked at before it would be restored."""

    def __init__(self, group: ProcessGroup) -> None:
        self.group = group


def refuse(*_: Any) -> Any:
    raise StorageError("the storage does not answer")


def failing_on_the_second(rank: int, folder: str) -> None:
    """Do what two workers do, where something fails on the second alone; write what each raised."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    group = ProcessGroup(rank, 2)
    checkpoints = CheckpointStore(f"{folder}/run")
    if rank == 1:
        checkpoints.read = refuse  # type: ignore[method-assign]
    raised = []
    for attempt in (
        lambda: call_with_error_sync(group, lambda: refuse() if rank else "fine"),
        lambda: validate_storage_visible(f"{folder}/{'run' if rank == 0 else 'nothing'}", group),
        lambda: resume(Loop(group), checkpoints),  # type: ignore[arg-type]
    ):
        try:
            attempt()
        except UsageError as error:
            raised.append(str(error))
    assert call_with_error_sync(group, lambda: rank) == rank
    torch.save(raised, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_what_fails_on_one_worker_ends_all_with_its_reason(tmp_path: Path) -> None:
    """A step of its own, a storage that it does not see, a checkpoint that it cannot read."""
    filled(tmp_path / "run", (1, 0, 1))
    (tmp_path / "run" / "experiment.yaml").touch()
    assert CheckpointStore(str(tmp_path / "run")).has(checkpoint_name(1))
    multiprocessing.spawn(functools.partial(failing_on_the_second, folder=str(tmp_path)), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for raised in (first, second):
        assert len(raised) == 3
        assert raised[0] == raised[2] == "the storage does not answer"
        assert "is not seen from" in raised[1]
