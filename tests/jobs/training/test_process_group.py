"""Process group of workers in several processes: with shared memory and without it."""

import functools
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.multiprocessing as multiprocessing

from jobs.training.exchange.shared_memory import SharedMemory, max_message_bytes
from jobs.training.process_group import ProcessGroup


def collective_worker(rank: int, folder: str) -> None:
    """Check the operations of two workers, with shared memory and without."""
    torch.distributed.init_process_group("gloo", f"file://{folder}/rendezvous", rank=rank, world_size=2)
    group = ProcessGroup(rank, 2)
    assert group.enable_shared_memory()
    torch.distributed.barrier()  # after it the file is removed: a killed process leaves nothing
    maps = Path("/proc/self/maps").read_text()
    assert "deleted" in maps.partition("/dev/shm/workers-")[2].partition("\n")[0]
    for count in (10, 0, max_message_bytes(2) // 4, max_message_bytes(2) // 4 + 1, 10):
        assert torch.equal(group.all_reduce(torch.full((count,), float(rank + 1))), torch.full((count,), 3.0))
    assert group.any_worker(rank == 1)
    separate = ProcessGroup(rank, 2)
    if rank == 1:
        SharedMemory.open = classmethod(lambda *_: None)  # as on another machine
    assert not separate.enable_shared_memory()
    assert torch.equal(separate.all_reduce(torch.ones(3)), torch.full((3,), 2.0))
    for either in (group, separate):
        for count in (0, 3, max_message_bytes(2) // 4 + 1):  # of different values
            own = torch.arange(count, dtype=torch.int32) + rank
            assert torch.equal(either.broadcast_tensor(own), torch.arange(count, dtype=torch.int32))
            assert torch.equal(own, torch.arange(count, dtype=torch.int32))
        sent = either.bytes_sent
        message = either.new_message(3, torch.int32)
        message.copy_(torch.arange(3) + 3 * rank)
        assert torch.cat(either.all_gather_tensors(message)()).tolist() == [0, 1, 2, 3, 4, 5]
        message = either.new_message(3, torch.float32)
        message.copy_(torch.arange(3) + 3 * rank)
        blocks = either.all_to_all(message, np.array([[1, 2], [3, 0]]))
        assert [block.tolist() for block in blocks] == [[[0], [3, 4, 5]], [[1, 2], []]][rank]
        assert either.bytes_sent - sent == 12 + [8, 12][rank]
    assert separate.bytes_sent == 12 + 12 + [8, 12][rank] + (12 + max_message_bytes(2) + 4) * (rank == 0)
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_shared_memory_is_used_only_if_all_workers_are_on_one_machine(tmp_path: Path) -> None:
    """Long messages, and those of workers on several machines, go through gloo."""
    created = SharedMemory.create_file(2)
    if created is None:
        pytest.skip("this machine has no usable shared memory")
    Path(created).unlink()
    multiprocessing.spawn(functools.partial(collective_worker, folder=str(tmp_path)), nprocs=2)
