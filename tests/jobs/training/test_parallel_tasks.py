"""Parallel tasks in processes of this machine."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster import UsageError
from cluster.package import REPOSITORY
from jobs.training import parallel_tasks
from jobs.training.parallel_tasks import TaskFailed, run_in_processes
from tests.support.waiting import wait_for

pytestmark = pytest.mark.slow


def square(number: int) -> tuple[int, int]:
    return number**2, os.getpid()


def fail(number: int) -> None:
    if number < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    raise UsageError(f"{number} is wrong")


def sleep_in_folder(folder: str, number: int) -> None:
    Path(folder, f"{number}-{os.getpid()}").touch()
    time.sleep(600)


@pytest.mark.parametrize("cpus", [1, 2])
def test_each_task_runs_once(cpus: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In other processes if there is room for two."""
    monkeypatch.setattr(parallel_tasks, "count_cpus", lambda: cpus)
    results = dict(run_in_processes(square, ((f"task {number}", [number]) for number in range(5)), 1))
    assert {name: value for name, (value, _) in results.items()} == {f"task {n}": n**2 for n in range(5)}
    assert (os.getpid() in {pid for _, pid in results.values()}) == (cpus == 1)


def test_an_error_names_its_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed process too."""
    monkeypatch.setattr(parallel_tasks, "count_cpus", lambda: 2)
    with pytest.raises(TaskFailed, match=r"^fold 1: 7 is wrong$"):
        list(run_in_processes(fail, [("fold 1", [7])], 1))
    with pytest.raises(TaskFailed, match=r"^fold 2: its process was killed"):
        list(run_in_processes(fail, [("fold 2", [-1])], 1))


def do_nothing() -> None:
    pass


def is_sigint_ignored() -> bool:
    return signal.getsignal(signal.SIGINT) == signal.SIG_IGN


def test_processes_ignore_ctrl_c_from_their_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also before their initializer runs; the command itself does not ignore it."""
    monkeypatch.setattr(parallel_tasks, "count_cpus", lambda: 2)
    monkeypatch.setattr(parallel_tasks, "_prepare_process", do_nothing)
    assert list(run_in_processes(is_sigint_ignored, [("task", [])], 1)) == [("task", True)]
    assert not is_sigint_ignored()


def test_an_error_does_not_end_other_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel_tasks, "count_cpus", lambda: 2)
    other = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(600,))
    other.start()
    try:
        with pytest.raises(TaskFailed):
            list(run_in_processes(fail, [(n, [n]) for n in range(3)], 1))
        other.join(0.5)
        assert other.is_alive()
    finally:
        other.kill()
        other.join(60)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_all_processes_end_with_the_command(tmp_path: Path, number: int) -> None:
    """After Ctrl-C, and after a kill."""
    code = f"""
from jobs.training import parallel_tasks
from tests.jobs.training.test_parallel_tasks import sleep_in_folder
if __name__ == "__main__":
    parallel_tasks.count_cpus = lambda: 2
    list(parallel_tasks.run_in_processes(sleep_in_folder, [(n, [{str(tmp_path)!r}, n]) for n in range(4)], 1))
"""
    script = tmp_path / "script.py"
    script.write_text(code)
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    tasks = tmp_path.glob
    with subprocess.Popen([sys.executable, str(script)], env=environment, stderr=subprocess.DEVNULL) as process:
        try:
            wait_for(lambda: len(list(tasks("*-*"))) >= 2, "two tasks")
            process.send_signal(number)
            process.wait(timeout=60)
        finally:
            process.kill()
    pids = [int(path.name.partition("-")[2]) for path in tasks("*-*")]
    wait_for(lambda: not any(Path("/proc", str(pid)).exists() for pid in pids), "the end of the processes", 60)
