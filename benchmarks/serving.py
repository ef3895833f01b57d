"""The service beside a deployment that does nothing, and while load, checkpoints and replicas change.

    apt-get install wrk
    python benchmarks/serving.py                        # all of it, about fifteen minutes
    python benchmarks/serving.py --only scale --picture replicas.png
    python benchmarks/serving.py --quick                # `speed` alone, short

speed: wrk sends a text of twenty words over 1, 16 and 64 connections, to the service and to a no-op in the same Ray,
the same configuration and the same minute; rounds take turns, medians are shown. The service, the no-op, HAProxy, Ray
and wrk share the machine's cores, so what counts are the ratios; `--default-proxy` measures without the fast
configuration. The other scenes (benchmarks/serving_scenarios.py) run on a cluster of their own, as
`serving/service.yaml` says,
but that replicas go within seconds in `scale` and `zero`. Weights are random, at the default settings, with
20,000 words.
"""

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # to be run as a file

from benchmarks.load_generator import SAMPLE_TEXT
from benchmarks.reporting import print_json, print_table
from cluster.package import REPOSITORY
from serving.deployment.haproxy import active_proxy

CONNECTIONS = (1, 16, 64)
TABLE_TITLES = {
    "speed": "One replica each; requests a second, latencies in ms",
    "scale": "A load that rises and falls, lists of 256 texts of 40 words; latencies of each phase's second half",
    "zero": "The first request, where there is no replica",
    "swap": f"Another checkpoint, two replicas, {CONNECTIONS[1]} connections",
    "roll": f"New replicas for old, two replicas, {CONNECTIONS[1]} connections",
    "kill": f"kill -9, {CONNECTIONS[1]} connections whose client sends nothing again",
    "client": "kill -9, serving/client.py from eight threads",
    "shed": "One replica, asked for ten times its capacity, explanations of 16 texts at once",
}
ENDPOINTS = {"classifier": "/predict", "no-op": "/noop/predict"}


def main() -> None:
    """Measure, and print tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="short; only `speed`, unless --only names others")
    parser.add_argument("--only", nargs="+", choices=TABLE_TITLES, metavar="SCENE", help=", ".join(TABLE_TITLES))
    parser.add_argument("--default-proxy", action="store_true", help="`speed` with Ray Serve's own proxy, not HAProxy")
    parser.add_argument("--kills", type=int, default=10, help="of replicas, in `kill` and `client`")
    parser.add_argument("--picture", type=Path, help="a PNG of load, replicas and latency over time, drawn by `scale`")
    options = parser.parse_args()
    names = options.only or (["speed"] if options.quick else list(TABLE_TITLES))
    settings: dict[str, Any] = {"quick": options.quick, "kills": options.kills}
    tables = {}
    if "speed" in names:
        tables["speed"], settings["proxy"] = _speed(options)
    rest = [name for name in names if name != "speed"]
    if rest:
        tables |= _scenes(rest, options)
    print_json("serving", settings, tables)


def _speed(options: argparse.Namespace) -> tuple[list[dict[str, Any]], str]:
    """Measure the service beside the no-op; return the rows, and which proxy took the requests."""
    if not shutil.which("wrk"):
        sys.exit("wrk is missing: apt-get install wrk")
    rounds, seconds = (1, 2) if options.quick else (5, 4)
    with tempfile.TemporaryDirectory(prefix="sb-") as folder:
        checkpoint = write_checkpoint(Path(folder, "checkpoint"))
        with run_classifier_and_noop(str(checkpoint), fast=not options.default_proxy) as url:
            found, taken_by = _measure(url, Path(folder, "post.lua"), rounds, seconds), active_proxy()
    rows = _rows(found)
    print_table(TABLE_TITLES["speed"], rows)
    return rows, taken_by


def _scenes(names: Sequence[str], options: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """Play scenes, print each one's table, and return all."""
    from benchmarks import serving_scenarios as scenes
    from benchmarks.deployed_service import deploy_service

    short = options.quick
    found = {}
    with tempfile.TemporaryDirectory(prefix="sb-") as folder:
        checkpoints = [str(write_checkpoint(Path(folder, name), seed=seed)) for seed, name in enumerate("ab")]
        play = {
            "scale": lambda: scenes.measure_autoscaling(
                service, (5, 20, 25) if short else (20, 60, 40), options.picture
            ),
            "zero": lambda: scenes.measure_scale_from_zero(service, 1 if short else 5),
            "swap": lambda: scenes.measure_checkpoint_swaps(service, checkpoints, 2 if short else 20),
            "roll": lambda: scenes.measure_rolling_updates(service, 1 if short else 6),
            "kill": lambda: scenes.measure_replica_kills(service, 1 if short else options.kills),
            "client": lambda: scenes.measure_client_retries(service, 1 if short else options.kills),
            "shed": lambda: scenes.measure_load_shedding(service, 3 if short else 20),
        }
        with deploy_service(checkpoints[0]) as service:
            for name in names:
                print(f"{name} ...", file=sys.stderr, flush=True)
                found[name] = play[name]()
                print_table(TABLE_TITLES[name], found[name])
    return found


def write_checkpoint(folder: Path, words: int = 20_000, seed: int = 0) -> Path:
    """Write a checkpoint with random weights at the default settings."""
    import numpy as np

    from jobs.config.experiment import Experiment
    from jobs.model.checkpoint import Checkpoint, save_checkpoint
    from jobs.model.network import Network

    experiment = Experiment()
    vectors = np.random.default_rng(seed).normal(size=(words + 2, 300)).astype(np.float32)
    vectors[0] = 0
    network = Network(experiment.model, vectors, 2)
    weights = {name: value.numpy() for name, value in network.weights().items()}
    known = [*dict.fromkeys(SAMPLE_TEXT.lower().split()), *(f"word{number}" for number in range(words))][:words]
    save_checkpoint(folder, Checkpoint(experiment, ["neg", "pos"], known, weights, {"epoch": 1}))
    return folder


@contextmanager
def run_classifier_and_noop(checkpoint: str, *, use_haproxy: bool) -> Iterator[str]:
    """Hold a Ray with the service and the no-op, one replica of each; what is held is their URL."""
    import yaml

    os.environ.setdefault("RAY_TMPDIR", tempfile.mkdtemp(prefix="rb-", dir="/tmp"))
    os.environ["HOME"] = os.environ["RAY_TMPDIR"]  # Ray writes a token there
    os.environ.pop("RAY_ADDRESS", None)
    from cluster.connection import connect
    from serving.deployment.server import find_free_ports, haproxy_environment

    configuration = yaml.safe_load((REPOSITORY / "serving" / "service.yaml").read_text())
    application = configuration["applications"][0]
    options = {key: value for key, value in application["deployments"][0].items() if key != "name"}
    options |= {"user_config": {"checkpoint": checkpoint}}
    options["autoscaling_config"] = None
    options["num_replicas"] = 1
    [port] = find_free_ports(1)
    with haproxy_environment(use_haproxy), connect(num_cpus=4):
        from ray import serve

        from benchmarks.noop_deployment import NoopReplica
        from serving.app import ApplicationArguments, ClassifierDeployment

        serve.start(http_options={"host": "127.0.0.1", "port": port})
        arguments = ApplicationArguments.model_validate(application["args"])
        serve.run(
            ClassifierDeployment.options(**options).bind(arguments.model_dump()), name="classifier", route_prefix="/"
        )
        noop = {key: value for key, value in options.items() if key != "user_config"}
        serve.run(NoopReplica.options(**noop).bind(), name="noop", route_prefix="/noop")
        yield f"http://127.0.0.1:{port}"
        serve.shutdown()


def _measure(url: str, script: Path, rounds: int, seconds: int) -> dict[tuple[str, int], list[dict[str, float]]]:
    script.write_text(
        f"""wrk.method = "POST"
wrk.body = '{{"inputs": "{SAMPLE_TEXT}"}}'
wrk.headers["Content-Type"] = "application/json"
"""
    )
    found: dict[tuple[str, int], list[dict[str, float]]] = {}
    for side in ENDPOINTS:
        _wrk(url + ENDPOINTS[side], script, 16, 2)  # warm
    for _ in range(rounds):
        for connections in CONNECTIONS:
            for side, path in ENDPOINTS.items():
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
