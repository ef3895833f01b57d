"""Killing a run again and again: does it finish, is its result the same, and what was lost?

    python benchmarks/chaos.py            # 30 kills of each kind; most of an hour
    python benchmarks/chaos.py --quick    # one of each kind, about three minutes on two cores

A cluster of its own is started: a head that holds the driver and two nodes with a CPU each. On it
`python -m jobs train` runs with two workers, and at random moments kill -9 hits a worker, the training
controller, the driver (whose command is then given again) or all processes of a node (which comes back later).
`lost, steps` is how many steps behind the newest checkpoint at the time of the kill the run went on: 0, if nothing
but the work since that checkpoint was lost; `behind, s` is how old that checkpoint was. `same` tells whether the
weights and the optimisers' state at the end are bit for bit those of a run that was left alone.
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
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # to be run as a file

from benchmarks.reporting import print_json, print_table
from cluster.package import REPOSITORY
from jobs.model.checkpoint import load_training_state
from jobs.training.checkpoint_store import CheckpointStore, checkpoint_name

KILL_TARGETS = ("worker", "controller", "driver", "node")
PROCESS_TITLES = {"worker": "ray::RayTrainWorker", "controller": "ray::TrainController"}
BATCH_SIZE = 50
TIMEOUT_S = 240


class LocalCluster:
    """A head and two nodes on this machine, with folders of their own."""

    def __init__(self, folder: Path) -> None:
        from ray.cluster_utils import Cluster as Nodes

        self.environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
        self.environment |= {"RAY_TMPDIR": str(folder), "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
        os.environ.update(self.environment)
        self.folder = folder
        self._nodes = Nodes(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        self.address = self._nodes.address
        for _ in range(2):
            self.add_node()

    def add_node(self) -> None:
        """Add a node with one CPU."""
        self._nodes.add_node(num_cpus=1)

    def kill_node(self) -> None:
        """Kill all processes of a node."""
        node = random.choice(sorted(self._nodes.worker_nodes, key=id))
        self._nodes.remove_node(node, allow_graceful=False)

    def find_processes(self, title: str) -> list[int]:
        """Return the cluster's processes of a title."""
        found = []
        for entry in Path("/proc").iterdir():
            with suppress(OSError, ValueError):
                ours = f"RAY_TMPDIR={self.folder}".encode() in (entry / "environ").read_bytes()
                if ours and (entry / "cmdline").read_bytes().startswith(title.encode()):
                    found.append(int(entry.name))
        return found

    def shutdown(self) -> None:
        """Stop all of it."""
        self._nodes.shutdown()


class TrainCommand:
    """`python -m jobs train` in a process of its own, and what it has said."""

    def __init__(self, cluster: LocalCluster, settings: dict[str, Any]) -> None:
        words = [f"{key}={value}" for key, value in settings.items()]
        self._command = [sys.executable, "-m", "jobs", "train", "--address", cluster.address, *words]
        self._environment = cluster.environment
        self.output_lines: list[tuple[float, str]] = []
        self.start()

    def start(self) -> None:
        """Give the command (again)."""
        self.process = subprocess.Popen(
            self._command, cwd=REPOSITORY, env=self._environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        threading.Thread(target=self._listen, args=(self.process,), daemon=True).start()

    def _listen(self, process: subprocess.Popen) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self.output_lines.append((time.monotonic(), line.rstrip()))

    def find_line(self, pattern: str, since: float) -> tuple[float, re.Match] | None:
        """Return when a line that matches was first said since then, or None."""
        for moment, line in list(self.output_lines):
            match = re.match(pattern, line)
            if moment >= since and match:
                return moment, match
        return None

    def wait_for_line(self, pattern: str, since: float) -> tuple[float, re.Match] | None:
        """Wait for a line that matches; None if the command ends before."""
        deadline = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline:
            ended = self.process.poll() is not None
            found = self.find_line(pattern, since)
            if found or ended:
                return found
            time.sleep(0.05)
        raise TimeoutError(f"nothing like {pattern!r} for {TIMEOUT_S} s; the last lines:\n{self.tail()}")

    def tail(self) -> str:
        """Return what was said last."""
        return "\n".join(line for _, line in self.output_lines[-30:])


def run_with_kills(cluster: LocalCluster, kind: str, kills: int, settings: dict[str, Any]) -> list[dict[str, float]]:
    """Run the command while killing; return what each kill cost, for as many as there was time for."""
    killed: list[tuple[float, float, tuple[int, int], float]] = []  # by two clocks; the newest checkpoint, its age
    since = time.monotonic()
    command = TrainCommand(cluster, settings)
    try:
        while len(killed) < kills:
            # One in four hits the start, or the start again.
            if random.random() < 0.25:
                time.sleep(random.uniform(0, 8))
            elif command.wait_for_line("training with", since) is None:
                break
            else:
                time.sleep(random.uniform(0.2, 4))
            position, written = _newest(settings)
            since = time.monotonic()
            while command.process.poll() is None and not _kill(cluster, kind, command):
                time.sleep(0.2)
            if command.process.poll() is not None and kind != "driver":
                break
            killed.append((since, time.time(), position, written))
            print(f"{kind} {len(killed)}: killed at epoch {position[0]} and {position[1]} steps", flush=True)
            if kind == "driver":
                command.process.wait()
                time.sleep(1)
                command.start()
            if kind == "node":
                time.sleep(random.choice([3, 45]))  # before the cluster has noticed, and after
                cluster.add_node()
        command.process.wait(timeout=TIMEOUT_S * 4)
    finally:
        command.process.kill()
    if command.process.returncode:
        raise RuntimeError(f"the command failed:\n{command.tail()}")
    found = []
    for moment, wall, position, written in killed:
        resumed = command.find_line("training with", moment)
        if resumed is not None:
            went_on = command.find_line(r"going on after epoch (\d+)(?: and (\d+) steps)?", moment)
            at = (int(went_on[1][1]), int(went_on[1][2] or 0)) if went_on and went_on[0] <= resumed[0] else (0, 0)
            lost = max(0, _steps(settings, position) - _steps(settings, at))
            found.append({"lost": lost, "behind_s": wall - written, "resumed_s": resumed[0] - moment})
    return found


def _kill(cluster: LocalCluster, kind: str, command: TrainCommand) -> bool:
    if kind == "driver":
        command.process.send_signal(signal.SIGKILL)
    elif kind == "node":
        cluster.kill_node()
    else:
        processes = cluster.find_processes(PROCESS_TITLES[kind])
        if not processes:
            return False
        with suppress(ProcessLookupError):
            os.kill(random.choice(processes), signal.SIGKILL)
    return True


def _run_folder(settings: dict[str, Any]) -> Path:
    [folder] = Path(settings["storage"], settings["name"]).glob("train-*")
    return folder


def _newest(settings: dict[str, Any]) -> tuple[tuple[int, int], float]:
    """Return the newest checkpoint's position, and when it was written."""
    if not list(Path(settings["storage"], settings["name"]).glob("train-*")):
        return (0, 0), time.time()
    folder = _run_folder(settings)
    position = CheckpointStore(str(folder)).newest_position()
    with suppress(FileNotFoundError):
        return position, (folder / checkpoint_name(*position)).stat().st_mtime
    return position, time.time()


def _steps(settings: dict[str, Any], position: tuple[int, int]) -> int:
    """Return how many steps after the start a position is."""
    folder = _run_folder(settings)
    if position == (0, 0):
        return 0
    rows = json.loads((folder / CheckpointStore(str(folder)).names()[0] / "metrics.json").read_text())["rows"]
    return position[0] * -(-rows // BATCH_SIZE) + position[1]


def read_last_checkpoint(settings: dict[str, Any]) -> dict[str, np.ndarray]:
    """Return all tensors of a finished run's last checkpoint."""
    folder = _run_folder(settings)
    found = load_training_state(folder / CheckpointStore(str(folder)).names()[0])
    losses = [[epoch["train_loss"], epoch["loss"]] for epoch in found.progress["epochs"]]
    return {
        **found.weights,
        **{f"state.{key}": value for key, value in found.optimizer_state.items()},
        "losses": np.array(losses),
    }


def write_texts(path: Path, rows: int) -> None:
    """Write rows of which a few words tell the label."""
    choose = random.Random(0)
    words = [f"w{number}" for number in range(1500)]
    with path.open("w") as stream:
        stream.write("label,text\n")
        for row in range(rows):
            text = [*choose.choices(words, k=choose.randint(4, 30)), f"{'ab'[row % 2]}{choose.randint(0, 30)}"]
            stream.write(f"{'ab'[row % 2]},{' '.join(text)}\n")


def main() -> None:
    """Kill, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one kill of each kind")
    parser.add_argument("--kills", type=int, help="of each kind (default: 30)")
    parser.add_argument("--kinds", nargs="+", choices=KILL_TARGETS, default=KILL_TARGETS)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args()
    kills = options.kills or (1 if options.quick else 30)
    random.seed(options.seed)
    rows = []
    # Short: Ray keeps sockets in it.
    with tempfile.TemporaryDirectory(prefix="rc-", dir="/tmp", ignore_cleanup_errors=True) as scratch:
        folder = Path(scratch)
        write_texts(folder / "texts.csv", 2000 if options.quick else 8000)
        settings = {
            "name": "undisturbed", "storage": folder / "runs", "data.train": folder / "texts.csv",
            "data.test_share": 0.05, "model.embedding": "rand", "model.feature_maps": 40, "vectors.dimensions": 60,
            "train.workers": 2, "train.epochs": max(40, 6 * kills), "train.patience": 1000,
            "train.metric": "loss", "train.batch_size": BATCH_SIZE, "train.checkpoint_minutes": 0.01,
        }  # fmt: skip
        cluster = LocalCluster(folder)
        try:
            run_with_kills(cluster, "worker", 0, settings)
            expected = read_last_checkpoint(settings)
            for kind in options.kinds:
                found: list[dict[str, float]] = []
                runs, same = 0, True
                while len(found) < kills and runs < kills + 3:
                    again = settings | {"name": f"{kind}-{runs}"}
                    found += run_with_kills(cluster, kind, kills - len(found), again)
                    runs += 1
                    ended = read_last_checkpoint(again)
                    same &= ended.keys() == expected.keys()
                    same &= all(np.array_equal(ended[key], expected[key]) for key in expected)
                rows.append({
                    "killed": kind, "kills": len(found), "runs": runs, "same": same,
                    "lost, steps": max((each["lost"] for each in found), default=None),
                    "behind, s": max((each["behind_s"] for each in found), default=None),
                    "went on after, s": statistics.median(each["resumed_s"] for each in found) if found else None,
                })  # fmt: skip
        finally:
            cluster.shutdown()
    print_table("kill -9 at random moments", rows)
    print_json("chaos", {"quick": options.quick, "kills": kills, "seed": options.seed}, {"kills": rows})


if __name__ == "__main__":
    main()
