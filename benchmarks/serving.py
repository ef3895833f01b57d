"""The service beside a deployment that does nothing, in the same Ray, the same configuration and the same minute.

    apt-get install wrk
    python benchmarks/serving.py              # about two minutes
    python benchmarks/serving.py --quick

wrk sends a text of twenty words over 1, 16 and 64 connections; rounds take turns, medians are shown. The service, the
no-op, HAProxy, Ray and wrk share the machine's cores, so what counts are the ratios. `--default-proxy` measures
without the fast configuration; `--kills 6` kills one of two replicas so often with kill -9, under a load of 16
connections whose client never sends a request again, and counts what fails. Weights are random, at the default
settings, with 20,000 words.
"""

import argparse
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # to be run as a file

from benchmarks.figures import finish, show
from cluster.package import REPOSITORY

CONNECTIONS = (1, 16, 64)
TEXT = "a fine little film with a big heart and some jokes that nobody laughs at in the end , I suppose"
SIDES = {"classifier": "/predict", "no-op": "/noop/predict"}


def main() -> None:
    """Measure both sides and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one round of two seconds")
    parser.add_argument("--default-proxy", action="store_true", help="Ray Serve's own proxy, not HAProxy")
    parser.add_argument("--kills", type=int, default=0, help="kill replicas so often, instead of measuring speed")
    options = parser.parse_args()
    if options.kills:
        _kill(options.kills, fast=not options.default_proxy)
        return
    if not shutil.which("wrk"):
        sys.exit("wrk is missing: apt-get install wrk")
    rounds, seconds = (1, 2) if options.quick else (5, 4)
    with tempfile.TemporaryDirectory(prefix="sb-") as folder:
        checkpoint = write_checkpoint(Path(folder, "checkpoint"))
        with both(str(checkpoint), fast=not options.default_proxy) as url:
            found = _measure(url, Path(folder, "post.lua"), rounds, seconds)
    rows = _rows(found)
    show("One replica each; requests a second, latencies in ms", rows)
    settings = {"rounds": rounds, "seconds": seconds, "proxy": "Ray's" if options.default_proxy else "HAProxy"}
    finish("serving", settings, {"speed": rows})


def _kill(times: int, *, fast: bool) -> None:
    """Kill replicas under load, and print what failed."""
    from benchmarks.load import load

    rows = []
    with tempfile.TemporaryDirectory(prefix="sb-") as folder:
        checkpoint = write_checkpoint(Path(folder, "checkpoint"))
        with both(str(checkpoint), fast=fast, replicas=2) as url:
            body = json.dumps({"inputs": TEXT}).encode()
            with load(url + "/predict", body, 16) as running:
                time.sleep(2)
                for number in range(1, times + 1):
                    before = len(running.answers), len(running.failed())
                    start = time.monotonic()
                    os.kill(_replicas()[0], signal.SIGKILL)
                    while len(_replicas()) < 2:
                        time.sleep(0.5)
                    seconds = time.monotonic() - start
                    time.sleep(5)
                    rows.append(
                        {
                            "kill": number,
                            "requests": len(running.answers) - before[0],
                            "failed": len(running.failed()) - before[1],
                            "new process after, s": round(seconds, 1),
                        }
                    )
    show("One of two replicas killed, 16 connections, no request sent again by the client", rows)
    finish("serving", {"proxy": "HAProxy" if fast else "Ray's"}, {"kills": rows})


def _replicas() -> list[int]:
    """Return the processes of the classifier's replicas in this benchmark's Ray."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                mine = os.environ["RAY_TMPDIR"].encode() in (entry / "environ").read_bytes()
                if mine and (entry / "cmdline").read_bytes().startswith(b"ray::ServeReplica:classifier"):
                    found.append(int(entry.name))
    return found


def write_checkpoint(folder: Path, words: int = 20_000) -> Path:
    """Write a checkpoint with random weights at the default settings."""
    import numpy as np

    from jobs.checkpoint import Checkpoint, write
    from jobs.experiment import Experiment
    from jobs.network import Network

    experiment = Experiment()
    vectors = np.random.default_rng(0).normal(size=(words + 2, 300)).astype(np.float32)
    vectors[0] = 0
    network = Network(experiment.model, vectors, 2)
    weights = {name: value.numpy() for name, value in network.weights().items()}
    known = [*dict.fromkeys(TEXT.lower().split()), *(f"word{number}" for number in range(words))][:words]
    write(folder, Checkpoint(experiment, ["neg", "pos"], known, weights, {"epoch": 1}))
    return folder


@contextmanager
def both(checkpoint: str, *, fast: bool, replicas: int = 1) -> Iterator[str]:
    """Hold a Ray with the service and the no-op, so many replicas of each; what is held is their URL."""
    import yaml

    os.environ.setdefault("RAY_TMPDIR", tempfile.mkdtemp(prefix="rb-", dir="/tmp"))
    os.environ["HOME"] = os.environ["RAY_TMPDIR"]  # Ray writes a token there
    os.environ.pop("RAY_ADDRESS", None)
    from cluster.connection import connect
    from serving.server import free_ports, switched

    configuration = yaml.safe_load((REPOSITORY / "serving" / "service.yaml").read_text())
    application = configuration["applications"][0]
    options = {key: value for key, value in application["deployments"][0].items() if key != "name"}
    options |= {"user_config": {"checkpoint": checkpoint}}
    options["autoscaling_config"] = None
    options["num_replicas"] = replicas
    [port] = free_ports(1)
    with switched(fast), connect(num_cpus=2 * replicas + 2):
        from ray import serve

        from benchmarks.noop import Noop
        from serving.app import Arguments, Service

        serve.start(http_options={"host": "127.0.0.1", "port": port})
        arguments = Arguments.model_validate(application["args"])
        serve.run(Service.options(**options).bind(arguments.model_dump()), name="classifier", route_prefix="/")
        noop = {key: value for key, value in options.items() if key != "user_config"}
        serve.run(Noop.options(**noop).bind(), name="noop", route_prefix="/noop")
        yield f"http://127.0.0.1:{port}"
        serve.shutdown()


def _measure(url: str, script: Path, rounds: int, seconds: int) -> dict[tuple[str, int], list[dict[str, float]]]:
    script.write_text(
        f"""wrk.method = "POST"
wrk.body = '{{"inputs": "{TEXT}"}}'
wrk.headers["Content-Type"] = "application/json"
"""
    )
    found: dict[tuple[str, int], list[dict[str, float]]] = {}
    for side in SIDES:
        _wrk(url + SIDES[side], script, 16, 2)  # warm
    for _ in range(rounds):
        for connections in CONNECTIONS:
            for side, path in SIDES.items():
                found.setdefault((side, connections), []).append(_wrk(url + path, script, connections, seconds))
    return found


def _wrk(url: str, script: Path, connections: int, seconds: int) -> dict[str, float]:
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}", "--latency", "-s", str(script), url]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in told or "Socket errors" in told:
        raise RuntimeError(f"{url}: requests failed:\n{told}")
    scale = {"us": 1e-3, "ms": 1.0, "s": 1e3}
    latencies = {
        name: float(value) * scale[unit] for name, value, unit in re.findall(r"(50|99)%\s+([\d.]+)(us|ms|s)", told)
    }
    rate = re.search(r"Requests/sec:\s+([\d.]+)", told)
    assert rate is not None, told
    return {"rate": float(rate.group(1)), "p50": latencies["50"], "p99": latencies["99"]}


def _rows(found: dict[tuple[str, int], list[dict[str, float]]]) -> list[dict[str, Any]]:
    """Return a row for each number of connections; ratios are medians of each round's."""
    rows = []
    for connections in CONNECTIONS:
        ours, noop = found["classifier", connections], found["no-op", connections]
        row: dict[str, Any] = {"connections": connections}
        for name, each in (("classifier", ours), ("no-op", noop)):
            for figure in ("rate", "p50", "p99"):
                row[f"{name} {figure}"] = round(statistics.median(round_[figure] for round_ in each), 3)
        for figure in ("rate", "p99"):
            ratios = [one[figure] / other[figure] for one, other in zip(ours, noop, strict=True)]
            row[f"{figure}, ratio"] = round(statistics.median(ratios), 3)
        rows.append(row)
    return rows


if __name__ == "__main__":
    main()
