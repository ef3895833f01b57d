"""Private memory of the processes of a search's trials, a part of benchmarks/tuning.py."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

TRIAL_PROCESS_TITLE = b"ray::ResourceTrainable"


@contextmanager
def sample_private_memory() -> Iterator[list[float]]:
    """Context manager: sample the private memory of trials' processes, in MB, into the list that it yields."""
    samples: list[float] = [0.0]
    ended = threading.Event()
    own = f"RAY_TMPDIR={os.environ['RAY_TMPDIR']}".encode()

    def sample() -> None:
        while not ended.wait(0.2):
            for entry in Path("/proc").iterdir():
                with suppress(OSError):
                    is_trial = entry.name.isdigit() and (entry / "cmdline").read_bytes().startswith(TRIAL_PROCESS_TITLE)
                    if is_trial and own in (entry / "environ").read_bytes():
                        samples.append(read_private_megabytes(entry))

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        ended.set()
        thread.join()


def read_private_megabytes(process: Path) -> float:
    """Return the memory that a process shares with no other, in MB."""
    lines = (process / "smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1000
