"""Serving: requests per second compared with a no-op deployment, and requests while the deployment changes.

    apt-get install wrk
    python benchmarks/serving.py                        # everything, about fifteen minutes
    python benchmarks/serving.py --only scale --picture docs/assets/replicas.png
    python benchmarks/serving.py --quick                # only `speed`, short

speed: wrk sends a text of twenty words over 1, 16 and 64 connections, to the service with several parameters and to a
no-op deployment in the same Ray with the same configuration, alternately in several rounds; the table shows medians.
Service, no-op, HAProxy, Ray and wrk share the machine's cores, so only the ratios are meaningful. `--default-proxy`
measures without HAProxy. The other scenarios (benchmarks/serving_scenarios.py, benchmarks/serving_overload.py) run on a
separate cluster with the settings of `serving/service.yaml`, except that idle replicas stop after seconds in `scale`,
`admission` and `zero`. The checkpoints have random weights, default settings and 20,000 words.
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # to be run as a file

from benchmarks.generated_data import save_random_checkpoint
from benchmarks.load_generator import SAMPLE_TEXT
from benchmarks.reporting import Row, print_json, print_table
from cluster.machine import find_free_ports
from cluster.package import REPOSITORY
from serving.deployment.haproxy import active_proxy

CONNECTIONS = (1, 16, 64)
TABLE_TITLES = {
    "speed": "One replica each; requests per second, latencies in ms",
    "scale": "Increasing and decreasing load, lists of 256 texts of 40 words; latencies of each phase's second half",
    "zero": "First request without a running replica",
    "swap": f"Change of the checkpoint, two replicas, {CONNECTIONS[1]} connections",
    "roll": f"Replacement of all replicas, two replicas, {CONNECTIONS[1]} connections",
    "kill": f"Replicas killed with kill -9, {CONNECTIONS[1]} connections of a client without retries",
    "client": "The only replica killed with kill -9, serving/client.py in eight threads",
    "shed": "Load shedding: one replica, ten times its capacity, explanations of 16 texts per request",
    "admission": "Admission of requests: overload of one replica; scaling from one to four replicas under load",
}
NOOP = "no-op"
REQUESTS: dict[str, dict[str, Any]] = {
    "text": {"inputs": SAMPLE_TEXT},
    "top_k": {"inputs": SAMPLE_TEXT, "parameters": {"top_k": 1}},
    "sigmoid, threshold": {
        "inputs": SAMPLE_TEXT, "parameters": {"function_to_apply": "sigmoid", "threshold": 0.1},
    },
    "not ASCII": {"inputs": SAMPLE_TEXT.replace("big", "bíg")},
}  # fmt: skip
Samples = dict[tuple[str, int], list[dict[str, float]]]  # by request, or the no-op, and number of connections


def main() -> None:
    """Measure, and print tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="short; only `speed`, unless --only is given")
    parser.add_argument("--only", nargs="+", choices=TABLE_TITLES, metavar="SCENARIO", help=", ".join(TABLE_TITLES))
    parser.add_argument("--default-proxy", action="store_true", help="`speed` with Ray Serve's own proxy, not HAProxy")
    parser.add_argument("--kills", type=int, default=10, help="number in `kill` and `client` (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="of `admission` (default: %(default)s)")
    parser.add_argument("--picture", type=Path, help="file for a PNG of load, replicas and latency over time (`scale`)")
    options = parser.parse_args()
    names = options.only or (["speed"] if options.quick else list(TABLE_TITLES))
    settings: dict[str, Any] = {"quick": options.quick, "kills": options.kills}
    tables: dict[str, list[Row]] = {}
    if "speed" in names:
        tables["speed"], settings["proxy"] = _measure_speed(options)
    scenarios = [name for name in names if name != "speed"]
    if scenarios:
        tables |= _run_scenarios(scenarios, options)
    print_json("serving", settings, tables)


def _measure_speed(options: argparse.Namespace) -> tuple[list[Row], str]:
    """Measure the service and the no-op; return the rows and the name of the proxy."""
    if not shutil.which("wrk"):
        sys.exit("wrk is missing: apt-get install wrk")
    rounds, seconds = (1, 1) if options.quick else (5, 3)
    with tempfile.TemporaryDirectory(prefix="sb-") as folder:
        checkpoint = write_checkpoint(Path(folder, "checkpoint"))
        with run_classifier_and_noop(str(checkpoint), use_haproxy=not options.default_proxy) as url:
            samples, proxy = _measure(url, Path(folder), rounds, seconds), active_proxy()
    rows = _make_rows(samples)
    print_table(TABLE_TITLES["speed"], rows)
    return rows, proxy


def _run_scenarios(names: Sequence[str], options: argparse.Namespace) -> dict[str, list[Row]]:
    """Run scenarios, print the table of each, and return all tables."""
    from benchmarks import serving_overload, serving_scenarios
    from benchmarks.deployed_service import deploy_service

    short = options.quick
    tables = {}
    with tempfile.TemporaryDirectory(prefix="sb-") as folder:
        checkpoints = [str(write_checkpoint(Path(folder, name), seed=seed)) for seed, name in enumerate("ab")]
        script = Path(folder, "post.lua")
        _write_script(script, REQUESTS["text"])

        def send_texts(url: str, seconds: int) -> Row:
            return dict(_run_wrk(url, script, 64, seconds))

        scenarios: dict[str, Callable[[], list[Row]]] = {
            "scale": lambda: serving_scenarios.measure_autoscaling(
                service, (5, 20, 25) if short else (20, 60, 40), options.picture
            ),
            "zero": lambda: serving_scenarios.measure_scale_from_zero(service, 1 if short else 5),
            "swap": lambda: serving_scenarios.measure_checkpoint_swaps(service, checkpoints, 2 if short else 20),
            "roll": lambda: serving_scenarios.measure_rolling_updates(service, 1 if short else 6),
            "kill": lambda: serving_scenarios.measure_replica_kills(service, 1 if short else options.kills),
            "client": lambda: serving_scenarios.measure_client_retries(service, 1 if short else options.kills),
            "shed": lambda: serving_overload.measure_load_shedding(service, 3 if short else 20),
            "admission": lambda: serving_overload.measure_admission(
                service, *((1, 4) if short else (options.rounds, 14)), send_texts
            ),
        }
        with deploy_service(checkpoints[0]) as service:
            for name in names:
                print(f"{name} ...", file=sys.stderr, flush=True)
                tables[name] = scenarios[name]()
                print_table(TABLE_TITLES[name], tables[name])
    return tables


def write_checkpoint(folder: Path, words: int = 20_000, seed: int = 0) -> Path:
    """Write a checkpoint with random weights, default settings and a vocabulary that contains the sample text."""
    vocabulary = [*dict.fromkeys(SAMPLE_TEXT.lower().split()), *(f"word{number}" for number in range(words))][:words]
    save_random_checkpoint(folder, vocabulary, seed)
    return folder


@contextmanager
def run_classifier_and_noop(checkpoint: str, *, use_haproxy: bool) -> Iterator[str]:
    """Context manager: an embedded Ray with one replica each of the service and the no-op; yields their URL."""
    import yaml

    os.environ.setdefault("RAY_TMPDIR", tempfile.mkdtemp(prefix="rb-", dir="/tmp"))
    os.environ["HOME"] = os.environ["RAY_TMPDIR"]  # Ray writes its token there
    os.environ.pop("RAY_ADDRESS", None)
    from cluster.connection import connect
    from serving.deployment.server import haproxy_environment

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


def _measure(url: str, folder: Path, rounds: int, seconds: int) -> Samples:
    """Return rate and latencies of all requests and the no-op by number of connections, one sample per round."""
    scripts = {name: folder / f"{number}.lua" for number, name in enumerate(REQUESTS)}
    for name, script in scripts.items():
        _write_script(script, REQUESTS[name])
    sides = [
        *((name, "/predict", script) for name, script in scripts.items()),
        (NOOP, "/noop/predict", scripts["text"]),
    ]
    samples: Samples = {}
    for _, path, script in sides:
        _run_wrk(url + path, script, 16, 2)  # warm up
    for _ in range(rounds):
        for connections in CONNECTIONS:
            for name, path, script in sides:
                samples.setdefault((name, connections), []).append(_run_wrk(url + path, script, connections, seconds))
    return samples


def _write_script(script: Path, body: dict[str, Any]) -> None:
    """Write the script with which wrk sends a body."""
    script.write_text(
        f"""wrk.method = "POST"
wrk.body = [==[{json.dumps(body, ensure_ascii=False)}]==]
wrk.headers["Content-Type"] = "application/json"
"""
    )


def _run_wrk(url: str, script: Path, connections: int, seconds: int) -> dict[str, float]:
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}", "--latency", "-s", str(script), url]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in output or "Socket errors" in output:
        raise RuntimeError(f"{url}: requests failed:\n{output}")
    scale = {"us": 1e-3, "ms": 1.0, "s": 1e3}
    latencies = {
        name: float(value) * scale[unit] for name, value, unit in re.findall(r"(50|99)%\s+([\d.]+)(us|ms|s)", output)
    }
    rate = re.search(r"Requests/sec:\s+([\d.]+)", output)
    assert rate is not None, output
    return {"rate": float(rate.group(1)), "p50": latencies["50"], "p99": latencies["99"]}


def _make_rows(samples: Samples) -> list[Row]:
    """Return a row for each request and number of connections; ratios are medians over rounds."""
    rows = []
    for connections in CONNECTIONS:
        noop = samples[NOOP, connections]
        for request in REQUESTS:
            ours = samples[request, connections]
            row: Row = {"connections": connections, "request": request}
            for name, rounds in (("classifier", ours), (NOOP, noop)):
                for metric in ("rate", "p50", "p99"):
                    row[f"{name} {metric}"] = round(statistics.median(sample[metric] for sample in rounds), 3)
            for metric in ("rate", "p99"):
                ratios = [sample[metric] / other[metric] for sample, other in zip(ours, noop, strict=True)]
                row[f"{metric}, ratio"] = round(statistics.median(ratios), 3)
            rows.append(row)
    return rows


if __name__ == "__main__":
    main()
