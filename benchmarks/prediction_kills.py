"""Kills of batch prediction, a part of benchmarks/prediction.py: rows of a folder after kill -9 of its processes."""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from benchmarks.reporting import Row
from cluster.package import REPOSITORY

TIMEOUT_S = 600
MAX_DELAY_S = 0.1  # between the first new part and a kill
# Parts of the size of those of a larger input.
KILLED_SCRIPT = """
import sys
from jobs.__main__ import main
from jobs.inference import sharded_prediction
sharded_prediction.PART_BYTES = int(sys.argv[1])
sys.exit(main(sys.argv[2:]))
"""


def measure_kills(folder: Path, num_rows: int, kills: int) -> list[Row]:
    """Return the numbers of kills, and of rows in all complete folders; exit if there were fewer kills."""
    out = folder / "killed"
    part_bytes = str((folder / "texts.tsv").stat().st_size // (4 * kills))
    arguments = ["predict", str(folder / "checkpoint"), str(folder / "texts.tsv"), "--out", f"{out}/"]
    command = [sys.executable, "-c", KILLED_SCRIPT, part_bytes, *arguments, "--format", "jsonl", "--workers", "2"]
    choose = random.Random(0)
    killed: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for _ in range(5 * kills):  # a fast machine may complete a folder before the kill
        written = find_parts(out)
        victim = ("command", "worker")[killed.total() % 2] if killed.total() < kills else None
        is_killed, status = run_killed(command, out, victim, choose)
        if victim and is_killed:
            killed[victim] += 1
        parts = find_parts(out)
        total["parts written again"] += sum(parts[path] != written[path] for path in written)
        if status == 0:
            total.update(check_rows(out, num_rows))
            if killed.total() == kills:
                return [{"kills of the command": killed["command"], "of a worker": killed["worker"], **total}]
            shutil.rmtree(out)
    sys.exit(f"only {killed.total()} of {kills} kills, or no complete folder after them; use more --rows")


def run_killed(command: list[str], out: Path, victim: str | None, choose: random.Random) -> tuple[bool, int]:
    """Run a command, kill it or a worker after it has written a part; return whether that was done, and the status."""
    num_parts = len(find_parts(out))
    is_killed = False
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + TIMEOUT_S
        while victim and process.poll() is None and len(find_parts(out)) == num_parts and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(choose.random() * MAX_DELAY_S)
        if victim == "command":
            process.kill()  # nothing happens if it has ended
        elif victim and process.poll() is None:
            with contextlib.suppress(IndexError, OSError):  # they have ended
                children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
                workers = [child for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]
                os.kill(int(choose.choice(workers)), signal.SIGKILL)
                is_killed = True
        status = process.wait(TIMEOUT_S)
    return is_killed or status == -signal.SIGKILL, status


def find_parts(out: Path) -> dict[Path, int]:
    """Return the complete parts of a folder with the times when they were written."""
    return {path: path.stat().st_mtime_ns for path in out.glob("part-*")}


def check_rows(out: Path, num_rows: int) -> dict[str, int]:
    """Return what a complete folder has."""
    parts = find_parts(out)
    ids = Counter(line.split('"id": "')[1].split('"')[0] for path in parts for line in path.open(encoding="utf-8"))
    return {
        "folders": 1, "parts": len(parts), "rows": ids.total(),
        "lost": len({str(number) for number in range(num_rows)} - ids.keys()),
        "duplicated": ids.total() - len(ids), "partial files": len(list(out.glob(".part-*"))),
    }  # fmt: skip
