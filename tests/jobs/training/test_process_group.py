"""Process group of workers, and its all-reduce through shared memory on one machine."""

import errno
import functools
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as multiprocessing

from jobs.training import process_group
from jobs.training.process_group import (
    MAX_TOTAL_BYTES,
    ProcessGroup,
    SharedMemoryAllReduce,
    file_bytes,
    max_message_bytes,
)


@pytest.fixture
def path() -> Iterator[str]:
    """A shared file of three workers."""
    created = SharedMemoryAllReduce.create_file(3)
    if created is None:
        pytest.skip("this machine has no usable shared memory")
    yield created
    Path(created).unlink()


def test_all_workers_get_the_same_sum_for_each_message(path: str) -> None:
    """Three workers in unsynchronised threads; the sum is in the order of the ranks."""
    values = torch.randn(200, 3, 1000, generator=torch.Generator().manual_seed(0))
    sums: list[list[torch.Tensor]] = [[], [], []]

    def work(rank: int) -> None:
        view = SharedMemoryAllReduce(path, rank, 3)
        for message in values:
            tensor = message[rank].clone()
            view.post(tensor)
            sums[rank].append(view.reduce(tensor))

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [len(received) for received in sums] == [200] * 3
    for number, message in enumerate(values):
        expected = message[0] + message[1] + message[2]
        assert all(torch.equal(received[number], expected) for received in sums)


def test_a_message_is_reduced_before_the_next_is_posted(path: str) -> None:
    """If not, a message that another worker has not read could be overwritten."""
    view = SharedMemoryAllReduce(path, 0, 3)
    view.post(torch.zeros(2))
    with pytest.raises(AssertionError):
        view.post(torch.zeros(2))


def test_a_silent_worker_is_a_timeout(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the worker."""
    monkeypatch.setattr(process_group, "TIMEOUT_S", 0.2)
    view = SharedMemoryAllReduce(path, 0, 3)
    tensor = torch.zeros(2)
    view.post(tensor)
    with pytest.raises(TimeoutError, match="worker 1 has sent nothing for"):
        view.reduce(tensor)


def test_no_file_is_created_with_too_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With too little memory, nothing is left of the attempt."""

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(process_group, "SHARED_MEMORY_FOLDER", str(tmp_path))
    created = SharedMemoryAllReduce.create_file(2)
    if created is None:
        pytest.skip("this machine has no usable shared memory")
    Path(created).unlink()
    monkeypatch.setattr(os, "posix_fallocate", fail)
    assert SharedMemoryAllReduce.create_file(2) is None
    assert not list(tmp_path.iterdir())


def test_no_file_is_created_on_machines_that_reorder_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_group.platform, "machine", lambda: "aarch64")
    assert SharedMemoryAllReduce.create_file(2) is None


def test_messages_of_many_workers_fit_into_the_memory_of_a_container() -> None:
    """Messages divide the memory, in whole cache lines."""
    for size in (2, 4, 7, 64):
        assert file_bytes(size) < MAX_TOTAL_BYTES + size * 64 + 1
        assert max_message_bytes(size) % 64 == 0 < max_message_bytes(size)


def all_reduce_worker(rank: int, folder: str) -> None:
    """Check sums of two workers, with shared memory and without."""
    torch.distributed.init_process_group("gloo", f"file://{folder}/rendezvous", rank=rank, world_size=2)
    group = ProcessGroup(rank, 2)
    assert group.enable_shared_memory()
    torch.distributed.barrier()  # after it the file is removed: a killed process leaves nothing
    maps = Path("/proc/self/maps").read_text()
    assert "deleted" in maps.partition("all-reduce-")[2].partition("\n")[0]
    for count in (10, 0, max_message_bytes(2) // 4, max_message_bytes(2) // 4 + 1, 10):
        assert torch.equal(group.all_reduce(torch.full((count,), float(rank + 1))), torch.full((count,), 3.0))
    assert group.any_worker(rank == 1)
    separate = ProcessGroup(rank, 2)
    if rank == 1:
        SharedMemoryAllReduce.open = classmethod(lambda *_: None)  # as on another machine
    assert not separate.enable_shared_memory()
    assert torch.equal(separate.all_reduce(torch.ones(3)), torch.full((3,), 2.0))
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_shared_memory_is_used_only_if_all_workers_are_on_one_machine(path: str, tmp_path: Path) -> None:
    """Long messages, and those of workers on several machines, go through gloo."""
    multiprocessing.spawn(functools.partial(all_reduce_worker, folder=str(tmp_path)), nprocs=2)
