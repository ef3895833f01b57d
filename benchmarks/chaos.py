"""Fault tolerance of training: runs with kill -9 at random moments, compared with an undisturbed run.

    python benchmarks/chaos.py            # 30 kills of each kind; most of an hour
    python benchmarks/chaos.py --quick    # a worker and the controller once each, in one run; under a minute

It starts its own cluster: a head with the driver, and two nodes with one CPU each. On it `python -m jobs train` runs
with two workers. At random moments it kills a worker, the training controller, the driver (and repeats its command) or
all processes of a node (and adds a node later). Ray Train restarts lost workers itself (`FailureConfig`); after the
loss of the controller the driver calls its `fit()` again.
`lost, steps`: steps between the newest checkpoint at the kill and the position at which the run resumed; 0 if only
work since that checkpoint was lost. `behind, s`: age of that checkpoint. `same`: whether weights and optimizer state
at the end are bit-identical to those of an undisturbed run.
"""

import argparse
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # to be run as a file

from benchmarks.generated_data import write_texts
from benchmarks.local_cluster import LocalCluster
from benchmarks.reporting import Row, print_json, print_table
from cluster.package import REPOSITORY
from jobs.model.checkpoint import load_training_state
from jobs.training.run_files.checkpoint_store import CheckpointStore, checkpoint_name

TARGETS = ("worker", "controller", "driver", "node")
QUICK_TARGETS = ("worker", "controller")
PROCESS_TITLES = {"worker": "ray::RayTrainWorker", "controller": "ray::TrainController"}
BATCH_SIZE = 50
TIMEOUT_S = 240
TRAINING_STARTED = "training with"
RESUMED = r".*after epoch (\d+)(?: and (\d+) steps)?"

Settings = dict[str, Any]


@dataclass
class Kill:
    """A kill, and the newest checkpoint at that moment: its (epoch, step) and when it was written."""

    target: str
    moment: float  # time.monotonic()
    wall_time: float  # time.time(), as the checkpoint's
    position: tuple[int, int]
    written: float


@dataclass
class Recovery:
    """Cost of a kill. lost: steps; behind_s: age of the newest checkpoint; resumed_s: time until training resumed."""

    target: str
    lost: int
    behind_s: float
    resumed_s: float


class TrainCommand:
    """`python -m jobs train` in a child process, and its output."""

    def __init__(self, cluster: LocalCluster, settings: Settings) -> None:
        words = [f"{key}={value}" for key, value in settings.items()]
        self._command = [sys.executable, "-m", "jobs", "train", "--address", cluster.address, *words]
        self._environment = cluster.environment
        self.output_lines: list[tuple[float, str]] = []
        self.start()

    def start(self) -> None:
        """Start the command (again)."""
        self.process = subprocess.Popen(
            self._command, cwd=REPOSITORY, env=self._environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        threading.Thread(target=self._read_output, args=(self.process,), daemon=True).start()

    def _read_output(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self.output_lines.append((time.monotonic(), line.rstrip()))

    def find_line(self, pattern: str, since: float) -> tuple[float, re.Match[str]] | None:
        """Return time and match of the first matching line since a moment, or None."""
        for moment, line in list(self.output_lines):
            match = re.match(pattern, line)
            if moment >= since and match:
                return moment, match
        return None

    def wait_for_line(self, pattern: str, since: float) -> bool:
        """Wait for a matching line; return False if the command ends before it."""
        deadline = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline:
            ended = self.process.poll() is not None
            found = self.find_line(pattern, since) is not None
            if found or ended:
                return found
            time.sleep(0.05)
        raise TimeoutError(f"no line matched {pattern!r} for {TIMEOUT_S} s; the last lines:\n{self.tail()}")

    def tail(self) -> str:
        """Return the last lines of the output."""
        return "\n".join(line for _, line in self.output_lines[-30:])


def run_with_kills(
    cluster: LocalCluster, targets: Sequence[str], settings: Settings, *, after_checkpoint: bool = False
) -> list[Recovery]:
    """Run the command, kill the targets one after the other, and return the cost of each kill.

    The run may end before all targets are killed.

    Args:
        after_checkpoint: kill as soon as there is a new checkpoint, not at a random moment.
    """
    kills: list[Kill] = []
    since = time.monotonic()
    command = TrainCommand(cluster, settings)
    try:
        for target in targets:
            if after_checkpoint:
                previous = kills[-1].position if kills else (0, 0)
                while command.process.poll() is None and _newest_checkpoint(settings)[0] <= previous:
                    time.sleep(0.02)
            elif random.random() < 0.25:  # hits the start, or the restart
                time.sleep(random.uniform(0, 8))
            elif not command.wait_for_line(TRAINING_STARTED, since):
                break
            else:
                time.sleep(random.uniform(0.2, 4))
            position, written = _newest_checkpoint(settings)
            since = time.monotonic()
            while command.process.poll() is None and not _kill(cluster, target, command):
                time.sleep(0.2)
            if command.process.poll() is not None and target != "driver":
                break
            kills.append(Kill(target, since, time.time(), position, written))
            print(f"{target} {len(kills)}: killed at epoch {position[0]} and {position[1]} steps", flush=True)
            _replace(cluster, target, command)
        command.process.wait(timeout=TIMEOUT_S * 4)
    finally:
        command.process.kill()
    if command.process.returncode:
        raise RuntimeError(f"the command failed:\n{command.tail()}")
    return [recovery for kill in kills if (recovery := _measure_recovery(kill, command, settings))]


def _replace(cluster: LocalCluster, target: str, command: TrainCommand) -> None:
    """Restart what Ray does not restart by itself."""
    if target == "driver":
        command.process.wait()
        time.sleep(1)
        command.start()
    if target == "node":
        time.sleep(random.choice([3, 45]))  # before and after the cluster notices the loss
        cluster.add_node()


def _measure_recovery(kill: Kill, command: TrainCommand, settings: Settings) -> Recovery | None:
    training = command.find_line(TRAINING_STARTED, kill.moment)
    if training is None:
        return None
    resumed = command.find_line(RESUMED, kill.moment)
    from_checkpoint = resumed is not None and resumed[0] <= training[0]
    position = (int(resumed[1][1]), int(resumed[1][2] or 0)) if resumed and from_checkpoint else (0, 0)
    lost = max(0, _count_steps(settings, kill.position) - _count_steps(settings, position))
    return Recovery(kill.target, lost, kill.wall_time - kill.written, training[0] - kill.moment)


def _kill(cluster: LocalCluster, target: str, command: TrainCommand) -> bool:
    """Kill a target; return False if it does not exist at the moment."""
    if target == "driver":
        command.process.send_signal(signal.SIGKILL)
    elif target == "node":
        cluster.kill_node()
    else:
        processes = cluster.find_processes(PROCESS_TITLES[target])
        if not processes:
            return False
        with suppress(ProcessLookupError):
            os.kill(random.choice(processes), signal.SIGKILL)
    return True


def _run_folder(settings: Settings) -> Path:
    [folder] = Path(settings["storage"], settings["name"]).glob("train-*")
    return folder


def _newest_checkpoint(settings: Settings) -> tuple[tuple[int, int], float]:
    """Return the newest checkpoint's position and when it was written."""
    if not list(Path(settings["storage"], settings["name"]).glob("train-*")):
        return (0, 0), time.time()
    folder = _run_folder(settings)
    position = CheckpointStore(str(folder)).newest_position()
    with suppress(FileNotFoundError):
        return position, (folder / checkpoint_name(*position)).stat().st_mtime
    return position, time.time()


def _count_steps(settings: Settings, position: tuple[int, int]) -> int:
    """Return the steps from the start of training to a position."""
    if position == (0, 0):
        return 0
    folder = _run_folder(settings)
    rows = json.loads((folder / CheckpointStore(str(folder)).names()[0] / "metrics.json").read_text())["rows"]
    return position[0] * -(-rows // BATCH_SIZE) + position[1]


def read_last_checkpoint(settings: Settings) -> dict[str, np.ndarray]:
    """Return all tensors of a finished run's last checkpoint, and the losses of its epochs."""
    folder = _run_folder(settings)
    state = load_training_state(folder / CheckpointStore(str(folder)).names()[0])
    losses = [[epoch["train_loss"], epoch["loss"]] for epoch in state.progress["epochs"]]
    return {
        **state.weights,
        **{f"state.{key}": value for key, value in state.optimizer_state.items()},
        "losses": np.array(losses),
    }


def are_equal(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> bool:
    """Return whether two checkpoints are equal bit for bit."""
    return first.keys() == second.keys() and all(np.array_equal(first[key], second[key]) for key in first)


def measure_target(
    cluster: LocalCluster, target: str, kills: int, settings: Settings, expected: dict[str, np.ndarray]
) -> Row:
    """Kill a target `kills` times, in as many runs as are needed; return a row of the table."""
    recoveries: list[Recovery] = []
    runs, same = 0, True
    while len(recoveries) < kills and runs < kills + 3:
        disturbed = settings | {"name": f"{target}-{runs}"}
        recoveries += run_with_kills(cluster, [target] * (kills - len(recoveries)), disturbed)
        runs += 1
        same &= are_equal(read_last_checkpoint(disturbed), expected)
    return make_row(target, recoveries, runs, same)


def measure_quick(
    cluster: LocalCluster, targets: Sequence[str], settings: Settings, expected: dict[str, np.ndarray]
) -> list[Row]:
    """Kill every target once, in a single run; return a row for each target."""
    disturbed = settings | {"name": "quick"}
    recoveries = run_with_kills(cluster, targets, disturbed, after_checkpoint=True)
    same = are_equal(read_last_checkpoint(disturbed), expected)
    return [make_row(target, [item for item in recoveries if item.target == target], 1, same) for target in targets]


def make_row(target: str, recoveries: Sequence[Recovery], runs: int, same: bool) -> Row:
    """Return a row of the table."""
    return {
        "killed": target, "kills": len(recoveries), "runs": runs, "same": same,
        "lost, steps": max((recovery.lost for recovery in recoveries), default=None),
        "behind, s": max((recovery.behind_s for recovery in recoveries), default=None),
        "resumed after, s": statistics.median(item.resumed_s for item in recoveries) if recoveries else None,
    }  # fmt: skip


def main() -> None:
    """Run undisturbed, run with kills, compare, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="every target once, in one run")
    parser.add_argument("--kills", type=int, default=30, help="of each target (default: %(default)s)")
    parser.add_argument("--targets", nargs="+", choices=TARGETS, help="(default: all; --quick: worker, controller)")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments (default: %(default)s)")
    options = parser.parse_args()
    targets = options.targets or (QUICK_TARGETS if options.quick else TARGETS)
    kills = 1 if options.quick else options.kills
    random.seed(options.seed)
    # Short: Ray creates sockets in it.
    with tempfile.TemporaryDirectory(prefix="rc-", dir="/tmp", ignore_cleanup_errors=True) as scratch:
        folder = Path(scratch)
        write_texts(folder / "texts.csv", 1000 if options.quick else 8000)
        settings = {
            "name": "undisturbed", "storage": folder / "runs", "data.train": folder / "texts.csv",
            "data.test_share": 0.05, "model.embedding": "rand", "model.feature_maps": 40, "vectors.dimensions": 60,
            "train.workers": 2, "train.epochs": 30 if options.quick else max(40, 6 * kills), "train.patience": 1000,
            "train.metric": "loss", "train.batch_size": BATCH_SIZE, "train.checkpoint_minutes": 0.01,
        }  # fmt: skip
        cluster = LocalCluster(folder)
        try:
            run_with_kills(cluster, [], settings)
            expected = read_last_checkpoint(settings)
            if options.quick:
                rows = measure_quick(cluster, targets, settings, expected)
            else:
                rows = [measure_target(cluster, target, kills, settings, expected) for target in targets]
        finally:
            cluster.shutdown()
    print_table("kill -9 at random moments", rows)
    print_json("chaos", {"quick": options.quick, "kills": kills, "seed": options.seed}, {"kills": rows})


if __name__ == "__main__":
    main()
