"""Messages through shared memory: all workers read the same, and a lost worker or missing memory is noticed."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from jobs.training.exchange import shared_memory
from jobs.training.exchange.shared_memory import (
    MAX_TOTAL_BYTES,
    MAX_WORKERS,
    SharedMemory,
    file_bytes,
    max_message_bytes,
)
from jobs.training.process_group import ProcessGroup
from tests.support.threads import run_workers


@pytest.fixture
def path() -> Iterator[str]:
    """A shared file of three workers."""
    created = SharedMemory.create_file(3)
    if created is None:
        pytest.skip("this machine has no usable shared memory")
    yield created
    Path(created).unlink()


def test_all_workers_get_the_same_sum_for_each_message(path: str) -> None:
    """Three workers in unsynchronised threads; the sum is in the order of the ranks."""
    values = torch.randn(200, 3, 1000, generator=torch.Generator().manual_seed(0))

    def work(group: ProcessGroup) -> list[torch.Tensor]:
        return [group.all_reduce(message[group.rank].clone()) for message in values]

    for sums in run_workers(path, 3, work):
        for message, received in zip(values, sums, strict=True):
            assert torch.equal(received, message[0] + message[1] + message[2])


def test_a_worker_reads_the_blocks_that_are_for_it(path: str) -> None:
    """Blocks have different sizes, also 0; in each message they are ordered by receiver."""
    sizes = torch.tensor([[1, 2, 0], [3, 1, 4], [0, 0, 2]]).numpy()

    def work(group: ProcessGroup) -> list[list[float]]:
        message = group.new_message(int(sizes[group.rank].sum()), torch.float32)
        message.copy_(torch.arange(len(message)) + 10 * group.rank)
        return [block.tolist() for block in group.all_to_all(message, sizes)]

    assert run_workers(path, 3, work) == [
        [[0], [10, 11, 12], []],
        [[1, 2], [13], []],
        [[], [14, 15, 16, 17], [20, 21]],
    ]


def test_a_message_is_received_before_the_next_is_written(path: str) -> None:
    """If not, a message that another worker has not read could be overwritten."""
    view = SharedMemory(path, 0, 3)
    view.write(2, torch.float32)
    view.post()
    with pytest.raises(AssertionError):
        view.write(2, torch.float32)


def test_a_silent_worker_is_a_timeout(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the worker."""
    monkeypatch.setattr(shared_memory, "TIMEOUT_S", 0.2)
    view = SharedMemory(path, 0, 3)
    view.post()
    with pytest.raises(TimeoutError, match="worker 1 has sent nothing for"):
        view.receive([2] * 3, [0] * 3, torch.float32)


def test_no_file_is_created_with_too_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With too little memory, nothing is left of the attempt."""

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(shared_memory, "SHARED_MEMORY_FOLDER", str(tmp_path))
    created = SharedMemory.create_file(2)
    if created is None:
        pytest.skip("this machine has no usable shared memory")
    Path(created).unlink()
    monkeypatch.setattr(os, "posix_fallocate", fail)
    assert SharedMemory.create_file(2) is None
    assert not list(tmp_path.iterdir())


def test_no_file_is_created_on_machines_that_reorder_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_memory.platform, "machine", lambda: "aarch64")
    assert SharedMemory.create_file(2) is None


def test_more_workers_than_the_memory_is_divided_among_use_gloo() -> None:
    """The longest vectors of all workers fit into a message."""
    assert SharedMemory.create_file(MAX_WORKERS + 1) is None
    assert max_message_bytes(MAX_WORKERS) > MAX_WORKERS * 1024 * 4


def test_messages_of_many_workers_fit_into_the_memory_of_a_container() -> None:
    """Messages divide the memory, in whole cache lines."""
    for size in (2, 4, 7, 64):
        assert file_bytes(size) < MAX_TOTAL_BYTES + size * 64 + 1
        assert max_message_bytes(size) % 64 == 0 < max_message_bytes(size)
