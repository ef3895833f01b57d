"""Parallel tasks without Ray: a function that is called with many arguments, in processes of this machine."""

import multiprocessing
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, TypeVar

from cluster import UsageError
from cluster.machine import count_cpus, end_with_parent

NameType = TypeVar("NameType")
ReturnType = TypeVar("ReturnType")

Task = tuple[NameType, Sequence[Any]]
"""Name and arguments of a task."""

TaskResults = Generator[tuple[NameType, ReturnType], None, None]
"""Yields name and result of each task as it ends; closing it ends the tasks that still run."""


class TaskFailed(UsageError):
    """A task failed with an error that the user can correct, or its process was killed."""


def run_in_processes(
    function: Callable[..., ReturnType], tasks: Iterable[Task[NameType]], cpus_per_task: int
) -> TaskResults[NameType, ReturnType]:
    """Call a function for each task in a process of this machine, and yield each task's name and result as it ends.

    Tasks are taken from the iterable only when there is room for them. Without room for two tasks, they run in this
    process. All processes end with this one.

    Raises:
        TaskFailed: a task failed.
    """
    capacity = count_cpus() // cpus_per_task
    waiting = iter(tasks)
    if capacity < 2:
        for name, arguments in waiting:
            yield name, _call(name, lambda arguments=arguments: function(*arguments))  # type: ignore[misc]
        return
    # Forked processes would inherit the locks of torch's threads.
    spawn = multiprocessing.get_context("spawn")
    running: dict[Future[ReturnType], NameType] = {}
    processes_of_others = set(multiprocessing.active_children())
    with ProcessPoolExecutor(capacity, mp_context=spawn, initializer=_prepare_process) as pool:
        try:
            while True:
                # One more than there is room for, so that the next is ready when one ends.
                while len(running) <= capacity and (task := next(waiting, None)) is not None:
                    with _ignore_sigint():
                        running[pool.submit(function, *task[1])] = task[0]
                if not running:
                    return
                for ended in wait(running, return_when=FIRST_COMPLETED).done:
                    name = running.pop(ended)
                    yield name, _call(name, ended.result)
        finally:
            if running:  # an error, Ctrl-C, or the caller wants no more
                pool.shutdown(wait=False, cancel_futures=True)
                for process in set(multiprocessing.active_children()) - processes_of_others:
                    process.terminate()


@contextmanager
def _ignore_sigint() -> Iterator[None]:
    """Context manager: new processes ignore Ctrl-C from their start, not only after their imports."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def _call(name: object, function: Callable[[], ReturnType]) -> ReturnType:
    """Return the value of a function; TaskFailed, with the name of the task, if it fails."""
    try:
        return function()
    except UsageError as error:
        raise TaskFailed(f"{name}: {error}") from error
    except BrokenProcessPool as error:
        raise TaskFailed(f"{name}: its process was killed, perhaps for lack of memory; repeat the command") from error


def _prepare_process() -> None:
    """Leave Ctrl-C to the parent process, and end with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
