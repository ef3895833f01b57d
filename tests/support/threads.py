"""Workers of a process group as threads of this process, which exchange messages through shared memory."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pytest

from jobs.training.exchange import shared_memory
from jobs.training.exchange.shared_memory import SharedMemory
from jobs.training.process_group import ProcessGroup

ReturnType = TypeVar("ReturnType")


def run_workers(path: str, size: int, work: Callable[[ProcessGroup], ReturnType]) -> list[ReturnType]:
    """Call a function as each of several workers, with a shared file of as many; return the results by rank.

    Values that workers send through torch.distributed, which threads do not have, are exchanged in memory.
    """
    barrier, values = threading.Barrier(size), [None] * size

    def all_gather(group: ProcessGroup, value: Any) -> list[Any]:
        values[group.rank] = value
        barrier.wait(120)
        gathered = [*values]
        barrier.wait(120)
        return gathered

    groups = [ProcessGroup(rank, size, shared_memory=SharedMemory(path, rank, size)) for rank in range(size)]
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(size) as pool:
        # While a thread polls, no other one runs: sleep at once.
        patch.setattr(shared_memory, "_SPINS", 0)
        patch.setattr(shared_memory, "_YIELDS", 0)
        patch.setattr(ProcessGroup, "all_gather", all_gather)
        patch.setattr(ProcessGroup, "broadcast", lambda group, value: all_gather(group, value)[0])
        futures = [pool.submit(work, group) for group in groups]
        return [future.result(timeout=120) for future in futures]
