"""Workers on one machine add up through memory; others do not try to."""

import errno
import functools
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as multiprocessing

from jobs.training import shared_memory as neighbours
from jobs.training.process_group import ProcessGroup
from jobs.training.shared_memory import MAX_TOTAL_BYTES, SharedMemoryAllReduce, file_bytes, max_message_bytes


@pytest.fixture
def path() -> Iterator[str]:
    made = SharedMemoryAllReduce.create_file(3)
    if made is None:
        pytest.skip("no memory to share on this machine")
    yield made
    Path(made).unlink()


def test_all_get_the_same_sum_message_after_message(path: str) -> None:
    """Of three, in threads that run as they like; the sum is in the order of the workers."""
    values = torch.randn(200, 3, 1000, generator=torch.Generator().manual_seed(0))
    found: list[list[torch.Tensor]] = [[], [], []]

    def work(rank: int) -> None:
        mine = SharedMemoryAllReduce(path, rank, 3)
        for message in values:
            tensor = message[rank].clone()
            mine.post(tensor)
            found[rank].append(mine.reduce(tensor))

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for number, message in enumerate(values):
        expected = message[0] + message[1] + message[2]
        assert all(torch.equal(each[number], expected) for each in found)


def test_a_message_is_added_up_before_the_next(path: str) -> None:
    """Or one that nobody has read yet could be written over."""
    mine = SharedMemoryAllReduce(path, 0, 3)
    mine.post(torch.zeros(2))
    with pytest.raises(AssertionError):
        mine.post(torch.zeros(2))


def test_one_that_is_never_heard_of_again_ends_the_wait(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By name."""
    monkeypatch.setattr(neighbours, "TIMEOUT_S", 0.2)
    mine = SharedMemoryAllReduce(path, 0, 3)
    tensor = torch.zeros(2)
    mine.post(tensor)
    with pytest.raises(TimeoutError, match="worker 1 was not heard of"):
        mine.reduce(tensor)


def test_too_little_memory_is_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing is left of the try."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(neighbours, "SHARED_MEMORY_FOLDER", str(tmp_path))
    made = SharedMemoryAllReduce.create_file(2)
    if made is None:
        pytest.skip("no memory to share on this machine")
    Path(made).unlink()
    monkeypatch.setattr(os, "posix_fallocate", full)
    assert SharedMemoryAllReduce.create_file(2) is None
    assert not list(tmp_path.iterdir())


def test_another_processor_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that does not keep the order of writes."""
    monkeypatch.setattr(neighbours.platform, "machine", lambda: "aarch64")
    assert SharedMemoryAllReduce.create_file(2) is None


def worker(rank: int, folder: str) -> None:
    """Meets, with and without the other; what is too long goes by gloo."""
    torch.distributed.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    group = ProcessGroup(rank, 2)
    assert group.enable_shared_memory()
    torch.distributed.barrier()  # the first has removed the file: nothing stays when a process is killed
    assert "deleted" in Path("/proc/self/maps").read_text().partition("neighbours-")[2].partition("\n")[0]
    for count in (10, 0, max_message_bytes(2) // 4, max_message_bytes(2) // 4 + 1, 10):
        assert torch.equal(group.all_reduce(torch.full((count,), float(rank + 1))), torch.full((count,), 3.0))
    assert group.any_worker(rank == 1)
    apart = ProcessGroup(rank, 2)
    if rank == 1:
        SharedMemoryAllReduce.open = classmethod(lambda *_: None)  # as on another machine
    assert not apart.enable_shared_memory()
    assert torch.equal(apart.all_reduce(torch.ones(3)), torch.full((3,), 2.0))
    torch.distributed.destroy_process_group()


def test_many_workers_have_room_in_a_container() -> None:
    """They share what there is, in whole lines."""
    for size in (2, 4, 7, 64):
        assert file_bytes(size) < MAX_TOTAL_BYTES + size * 64 + 1
        assert max_message_bytes(size) % 64 == 0 < max_message_bytes(size)


@pytest.mark.slow
def test_workers_meet_where_all_are_on_one_machine(path: str, tmp_path: Path) -> None:
    """And only there; long messages, and those of workers apart, go as before."""
    multiprocessing.spawn(functools.partial(worker, folder=str(tmp_path)), nprocs=2)
