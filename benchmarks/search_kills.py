"""Kills of the driver of a search: what is lost, and whether a complete best checkpoint can be found at any time.

A part of benchmarks/tuning.py. Two searches of each side run to their end. In one the driver is killed with SIGKILL a
moment after it has announced the end of a trial, in the other as soon as no complete best checkpoint is found in the
folder; then its command is repeated. The folder is read again and again, as a user reads it: `best.json` in this
project, `ResultGrid` in Ray Tune.

    python benchmarks/search_kills.py EXPERIMENT.yaml FOLDER    # the driver of a search with Ray Tune's own features
"""

import contextlib
import functools
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # to be run as a file

from benchmarks.ray_head import start_ray_head
from benchmarks.ray_tuner import find_best_checkpoint, run_ray_search, silence_tune
from benchmarks.reporting import Row
from cluster.connection import connect
from cluster.package import REPOSITORY
from jobs.config.experiment import Experiment, load_experiment
from jobs.model.checkpoint import CheckpointError, load_checkpoint, verify_checksums
from jobs.model.checkpoint_locations import resolve_checkpoint

# Seconds from the announcement of a trial's end to the kill, in turn.
KILL_DELAYS_S = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4)
# Trials that end between two kills.
TRIALS_BETWEEN_KILLS = 2
DRIVER_TIMEOUT_S = 200
READ_INTERVAL_S = 0.03


@dataclass
class KilledSearch:
    """A search whose driver is killed.

    command: of the driver. find_best: returns why no complete best checkpoint is found in the folder, or an empty text;
    it is called at any time after the first trial has ended. moment: of the kills, of which there are `max_kills`.
    """

    side: str
    moment: Literal["after a trial", "without a best checkpoint"]
    max_kills: int
    command: list[str]
    find_best: Callable[[], str]
    announced: int = 0
    kills: int = 0
    failure: str = ""
    dead: Counter[str] = field(default_factory=Counter)
    alive: Counter[str] = field(default_factory=Counter)


def measure_kills(folder: Path, experiment: Experiment, kills: int) -> list[Row]:
    """Return what kills of the driver cost on both sides.

    Args:
        experiment: of the search; its number of trials is `tune.trials`.
        kills: of each search at most.
    """
    folder.mkdir()
    silence_tune()
    rows = []
    with start_ray_head(2) as head:
        for moment in ("after a trial", "without a best checkpoint"):
            path = folder / moment.replace(" ", "-")
            settings = path / "experiment.yaml"
            path.mkdir()
            settings.write_text(experiment.replace({"storage": str(path)}).to_yaml())
            best_json, ray_folder = path / experiment.name / "best.json", f"{path}/ray/search"
            for search in (
                KilledSearch("this project", moment, kills, ["-m", "jobs", "tune", str(settings)],
                             functools.partial(read_best_json, best_json)),
                KilledSearch("Ray Tune", moment, kills, ["benchmarks/search_kills.py", str(settings), ray_folder],
                             functools.partial(find_best_checkpoint, ray_folder)),
            ):  # fmt: skip
                run_with_kills(search, head.environment)
                rows.append(summarize(search, experiment.tune.trials or 0))
    return rows


def run_with_kills(search: KilledSearch, environment: dict[str, str]) -> None:
    """Run a search to its end; it is given up when a repeated command fails."""
    while True:
        delay = KILL_DELAYS_S[search.kills % len(KILL_DELAYS_S)]
        last = TRIALS_BETWEEN_KILLS if search.moment == "after a trial" and search.kills < search.max_kills else None
        output: list[str] = []
        with start_driver(search, environment) as process:
            assert process.stdout is not None
            ended = 0
            for line in process.stdout:
                output.append(line)
                if line.startswith("trial "):
                    search.announced, ended = search.announced + 1, ended + 1
                    if ended == last:
                        time.sleep(delay)
                        process.kill()
        if process.returncode >= 0:
            search.failure = output[-1].strip() if process.returncode else ""
            return
        search.kills += 1
        search.dead[search.find_best()] += 1


@contextlib.contextmanager
def start_driver(search: KilledSearch, environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """Context manager: the driver's process; the folder is read again and again while it runs."""
    closing = threading.Event()

    def read() -> None:
        was_found = False
        while not closing.wait(READ_INTERVAL_S):
            reason = search.find_best() if search.announced else ""
            search.alive[reason] += search.announced > 0
            was_found = was_found or (search.announced > 0 and not reason)
            # Not again while the driver starts after a kill.
            if (
                reason
                and was_found
                and search.moment == "without a best checkpoint"
                and search.kills < search.max_kills
            ):
                process.kill()
                return

    with subprocess.Popen(
        [sys.executable, *search.command], cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    ) as process:  # fmt: skip
        reader = threading.Thread(target=read, daemon=True)
        watchdog = threading.Timer(DRIVER_TIMEOUT_S, process.kill)
        reader.start()
        watchdog.start()
        try:
            yield process
        finally:
            process.kill()
            watchdog.cancel()
            closing.set()
            reader.join()


def read_best_json(path: Path) -> str:
    """Return why no complete best checkpoint is named in best.json; empty if one is."""
    try:
        if not path.exists():
            return "no best.json"
        checkpoint = resolve_checkpoint(str(path))
        verify_checksums(checkpoint)
        load_checkpoint(checkpoint)
    except CheckpointError as error:
        return f"the named checkpoint is missing or incomplete: {error}"
    return ""


def summarize(search: KilledSearch, trials: int) -> Row:
    """Return a row of the table; without: reads that found no complete best checkpoint."""
    reasons = (search.dead + search.alive) - Counter({"": search.dead[""] + search.alive[""]})
    return {
        "side": search.side,
        "killed": search.moment,
        "kills": search.kills,
        "resumed": not search.failure,
        "trials": trials,
        "repeated": max(0, search.announced - trials),
        "reads after a kill": search.dead.total(),
        "without": search.dead.total() - search.dead[""],
        "reads while running": search.alive.total(),
        "without, running": search.alive.total() - search.alive[""],
        "reasons": "; ".join(f"{reason} ({count})" for reason, count in sorted(reasons.items())),
        "failure": search.failure[:120],
    }


def main() -> None:
    """Run a search with Ray Tune's own features, or restore it, and print a line for each trial that ends."""
    with connect():
        run_ray_search(
            load_experiment(sys.argv[1]), sys.argv[2], lambda seconds, ended: print("trial ended", flush=True)
        )


if __name__ == "__main__":
    main()
