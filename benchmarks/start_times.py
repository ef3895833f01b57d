"""Start-up times of commands that start Ray, for benchmarks/commands.py: from the start of the process to the work.

Each command is compared with plain Ray that does nothing: `ray.init` and the smallest training, search or service.
Both sides are new processes with an embedded Ray of their own.

    two workers    until the command reports that both train; a TorchTrainer, until the first line of its function
    search         until Ray Tune starts the first trial, whose process is ready; a Tuner, until the first step
    service        until the first HTTP response; `serve.run` of a constant response
"""

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.reporting import Row
from cluster.machine import find_free_ports
from cluster.package import REPOSITORY

PROJECT, PLAIN = "this project", "plain Ray"
TIMEOUT_S = 240
STOP_TIMEOUT_S = 60
POLL_S = 0.02

INIT = """
import sys, time, ray
ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="error")
"""
PLAIN_WORKERS = f"""{INIT}
from pathlib import Path
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
def train(config):
    Path(config["path"]).touch()
    time.sleep(60)
TorchTrainer(train, train_loop_config={{"path": sys.argv[1]}}, scaling_config=ScalingConfig(num_workers=2),
             run_config=RunConfig(storage_path=sys.argv[1] + "-results")).fit()
"""
PLAIN_SEARCH = f"""{INIT}
from pathlib import Path
from ray import tune
class Wait(tune.Trainable):
    def setup(self, config):
        self.path = config["path"]
    def step(self):
        Path(self.path).touch()
        time.sleep(60)
        return {{"done": True}}
tune.Tuner(Wait, param_space={{"path": sys.argv[1]}},
           run_config=tune.RunConfig(storage_path=sys.argv[1] + "-results", verbose=0)).fit()
"""
PLAIN_SERVICE = f"""{INIT}
from ray import serve
from benchmarks.noop_deployment import NoopReplica
serve.start(http_options={{"port": int(sys.argv[1])}})
serve.run(NoopReplica.bind())
time.sleep(60)
"""


@dataclass(frozen=True)
class Start:
    """A command and the function that returns whether it has begun its work.

    has_begun: its arguments are the output so far and the folder of the command's Ray.
    """

    command: list[str]
    has_begun: Callable[[str, Path], bool]


def measure_start_times(folder: Path, vectors: str, checkpoint: Path, rounds: int, sides: tuple[str, ...]) -> list[Row]:
    """Return the median seconds of each side's start-up times.

    Args:
        checkpoint: of the service.
    """
    builders = {"two workers": _build_workers, "search": _build_search, "service": partial(_build_service, checkpoint)}
    rows = []
    for name, build in builders.items():
        seconds: dict[str, list[float]] = {side: [] for side in sides}
        for number in range(rounds):
            for side in sides:
                target = folder / f"start-{name.replace(' ', '-')}-{number}-{side.split()[0]}"
                seconds[side].append(time_start(build(side, target, vectors)))
                print(f"{name}, round {number + 1}, {side}: starts after {seconds[side][-1]:.1f} s", flush=True)
        rows += [{"start of": name, "side": side, "seconds": statistics.median(seconds[side])} for side in sides]
    return rows


def _build_workers(side: str, target: Path, vectors: str) -> Start:
    if side == PLAIN:
        return Start([sys.executable, "-c", PLAIN_WORKERS, str(target)], lambda *_: target.exists())
    settings = [f"vectors.path={vectors}", f"storage={target}", "train.workers=2"]
    command = [sys.executable, "-m", "finetune_cnn", "train", "experiments/tickets.yaml", *settings]
    return Start(command, lambda output, _: "training with 2 workers" in output)


def _build_search(side: str, target: Path, vectors: str) -> Start:
    if side == PLAIN:
        return Start([sys.executable, "-c", PLAIN_SEARCH, str(target)], lambda *_: target.exists())
    settings = [f"vectors.path={vectors}", f"storage={target}", "tune.samples=1"]
    command = [sys.executable, "-m", "finetune_cnn", "tune", "experiments/tickets.yaml", *settings]
    # Tune writes the file when a trial starts, after the `setup` of its trainable, and copies it to the storage later.
    return Start(command, lambda _, folder: any(folder.glob("ray/session_*/artifacts/*/ray/*/*/params.json")))


def _build_service(checkpoint: Path, side: str, target: Path, vectors: str) -> Start:
    [port] = find_free_ports(1)
    url = f"http://127.0.0.1:{port}/predict"
    command = [sys.executable, "-m", "finetune_cnn", "serve", str(checkpoint), "--port", str(port)]
    if side == PLAIN:
        command = [sys.executable, "-c", PLAIN_SERVICE, str(port)]
    return Start(command, lambda *_: _responds(url))


def _responds(url: str) -> bool:
    request = urllib.request.Request(url, data=json.dumps({"inputs": "where is my parcel"}).encode())
    try:
        with urllib.request.urlopen(request, timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def time_start(start: Start) -> float:
    """Return the seconds until a command begins its work, then end it; exit with its output if it ends before."""
    with _ray_folder() as folder, tempfile.TemporaryFile("w+") as log:
        environment = os.environ | {"RAY_TMPDIR": str(folder), "RAY_ADDRESS": "", "PYTHONPATH": str(REPOSITORY)}
        began = time.perf_counter()
        process = subprocess.Popen(
            start.command, cwd=REPOSITORY, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            while not start.has_begun(_read(log), folder):
                if process.poll() is not None or time.perf_counter() - began > TIMEOUT_S:
                    sys.exit(f"{' '.join(start.command)} did not start:\n{_read(log)}")
                time.sleep(POLL_S)
            return time.perf_counter() - began
        finally:
            _stop(process)


@contextmanager
def _ray_folder() -> Iterator[Path]:
    """Context manager: a folder for the embedded Ray of a command, with a short path: Ray creates sockets in it."""
    folder = tempfile.mkdtemp(prefix="rb-", dir="/tmp")
    try:
        yield Path(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _read(log: "tempfile._TemporaryFileWrapper[str]") -> str:
    return os.pread(log.fileno(), 1 << 20, 0).decode(errors="replace")


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """End a command as Ctrl-C does, or kill its processes; Ray's end with the one that started them."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(timeout=STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
