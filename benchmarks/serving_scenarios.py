"""Requests while load, checkpoints and replicas change: scenarios of benchmarks/serving.py.

Each takes a running service and returns the rows of a table. The load is sent without retries.
"""

import json
import os
import random
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.deployed_service import TIMEOUT_S, DeployedService
from benchmarks.load_generator import (
    SAMPLE_TEXT,
    LoadGenerator,
    Response,
    count_failed,
    format_failures,
    generate_load,
    percentile_ms,
)
from benchmarks.reporting import Row
from tests.support.waiting import wait_for

SINGLE_TEXT_BODY = json.dumps({"inputs": SAMPLE_TEXT}).encode()
CONNECTIONS = 16
# Milliseconds of work, so that the replicas are the bottleneck and not the load generator.
BATCH_BODY = json.dumps(
    {"inputs": [" ".join(random.Random(number).choices(SAMPLE_TEXT.split(), k=40)) for number in range(256)]}
).encode()
Sample = tuple[float, int, int]  # seconds, connections, replicas
DEPLOYMENT_OPTIONS: dict[str, Any] = {"max_ongoing_requests": 64, "max_queued_requests": 256}


def measure_autoscaling(service: DeployedService, seconds: Sequence[int], picture: Path | None) -> list[Row]:
    """Increase and decrease the load; `seconds` are those of the three phases. A row per phase, and a plot."""
    service.deploy(autoscaling_config=service.autoscaling_config | {"initial_replicas": 1, "downscale_delay_s": 10})
    wait_for(lambda: len(service.replica_pids()) == 1, "one replica", TIMEOUT_S)
    phases = list(zip((4, 64, 4), seconds, strict=True))
    rows = []
    with (
        generate_load(service.url + "/predict", BATCH_BODY, phases[0][0]) as load,
        _sample_replicas(service, load) as samples,
    ):
        for connections, length in phases:
            load.connections = connections
            start, replicas = load.elapsed_s(), len(service.replica_pids())
            changed = None
            while load.elapsed_s() < start + length:
                time.sleep(0.5)
                if changed is None and len(service.replica_pids()) != replicas:
                    changed = load.elapsed_s() - start
            responses = [response for response in list(load.responses) if start <= response[0]]
            late = [response for response in responses if response[0] >= start + length / 2]
            rows.append({
                "connections": connections, "seconds": length, "replicas": len(service.replica_pids()),
                "first change after, s": changed, "requests/s": len(responses) / length,
                "p50, ms": percentile_ms(late, 50), "p99, ms": percentile_ms(late, 99),
                "failed": count_failed(responses),
            })  # fmt: skip
    if picture is not None:
        _plot(picture, load, samples)
    return rows


def measure_scale_from_zero(service: DeployedService, times: int) -> list[Row]:
    """Wait until there is no replica, then send a request."""
    service.deploy(autoscaling_config=service.autoscaling_config | {
        "min_replicas": 0, "initial_replicas": 0, "downscale_delay_s": 1,
    })  # fmt: skip
    responses: list[Response] = []
    for _ in range(times):
        wait_for(service.has_no_replicas, "the end of all replicas", TIMEOUT_S)
        with generate_load(service.url + "/predict", SINGLE_TEXT_BODY, 1, pause_s=60) as load:
            wait_for(lambda: load.responses, "a response", TIMEOUT_S)
        responses += load.responses
    return [{
        "requests without a replica": times, "failed": count_failed(responses),
        "response after, s": statistics.median(seconds for _, seconds, _ in responses),
        "at most, s": max(seconds for _, seconds, _ in responses),
    }]  # fmt: skip


def measure_checkpoint_swaps(service: DeployedService, checkpoints: Sequence[str], times: int) -> list[Row]:
    """Change the checkpoint under load."""
    service.deploy(num_replicas=2, **DEPLOYMENT_OPTIONS)
    before = set(service.replica_pids())

    def change(number: int) -> None:
        checkpoint = checkpoints[number % 2]
        service.deploy(user_config={"checkpoint": checkpoint})
        wait_for(lambda: service.all_replicas_serve(checkpoint), "the other checkpoint", TIMEOUT_S)

    row = _change_under_load(service, "checkpoint swapped", times, change)
    return [row | {"same processes": set(service.replica_pids()) == before}]


def measure_rolling_updates(service: DeployedService, times: int) -> list[Row]:
    """Replace all replicas under load."""
    service.deploy(num_replicas=2, **DEPLOYMENT_OPTIONS)

    def change(number: int) -> None:
        before = set(service.replica_pids())
        service.deploy(ray_actor_options={"num_cpus": 0.11 + 0.01 * (number % 2)})

        def are_replaced() -> bool:
            return not before & set(service.replica_pids()) and len(service.replica_pids()) == 2

        wait_for(are_replaced, "two new replicas", TIMEOUT_S)

    return [_change_under_load(service, "all replicas replaced", times, change)]


def measure_replica_kills(service: DeployedService, times: int) -> list[Row]:
    """Kill one of two replicas under load, repeatedly."""
    service.deploy(num_replicas=2, **DEPLOYMENT_OPTIONS)
    return [_change_under_load(service, "one of two replicas killed", times, lambda _: kill_replica(service))]


def measure_client_retries(service: DeployedService, times: int) -> list[Row]:
    """Kill the only replica while serving/client.py sends requests from eight threads."""
    from serving.client import Client, ServiceError

    service.deploy(num_replicas=1, **DEPLOYMENT_OPTIONS)
    sent, slowest, lost, ended = [0] * 8, [0.0] * 8, [0] * 8, threading.Event()
    client = Client(service.url)

    def send_requests(number: int) -> None:
        while not ended.is_set():
            start = time.monotonic()
            try:
                client.classify(SAMPLE_TEXT)
            except ServiceError:
                lost[number] += 1
            sent[number] += 1
            slowest[number] = max(slowest[number], time.monotonic() - start)

    threads = [threading.Thread(target=send_requests, args=(number,)) for number in range(len(sent))]
    for thread in threads:
        thread.start()
    try:
        for _ in range(times):
            kill_replica(service)
            time.sleep(2)
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    return [{
        "only replica killed, our client": times, "requests": sum(sent), "lost": sum(lost),
        "slowest, s": max(slowest),
    }]  # fmt: skip


def kill_replica(service: DeployedService) -> None:
    """Kill a replica, and wait until another one replaces it."""
    victim = service.replica_pids()[0]
    os.kill(victim, signal.SIGKILL)
    count = service.deployment["num_replicas"]

    def is_replaced() -> bool:
        return victim not in service.replica_pids() and len(service.replica_pids()) == count

    wait_for(is_replaced, "another replica", TIMEOUT_S)


def _change_under_load(service: DeployedService, name: str, times: int, change: Callable[[int], None]) -> Row:
    """Call `change` repeatedly under load; return the row of the requests meanwhile."""
    with generate_load(service.url + "/predict", SINGLE_TEXT_BODY, CONNECTIONS) as load:
        load.warm_up()
        for number in range(times):
            change(number)
            time.sleep(1)
    return {
        name: times, "requests": len(load.responses), "failed": count_failed(load.responses),
        "failures": format_failures(load.count_statuses()),
        "p50, ms": percentile_ms(load.responses, 50), "p99, ms": percentile_ms(load.responses, 99),
        "slowest, ms": 1000 * max(seconds for _, seconds, _ in load.responses),
    }  # fmt: skip


@contextmanager
def _sample_replicas(service: DeployedService, load: LoadGenerator) -> Iterator[list[Sample]]:
    """Context manager: sample connections and replicas twice a second into the list that it yields."""
    samples: list[Sample] = []
    ended = threading.Event()

    def sample() -> None:
        while not ended.wait(0.5):
            samples.append((load.elapsed_s(), load.connections, len(service.replica_pids())))

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield samples
    finally:
        ended.set()
        thread.join()


def _plot(path: Path, load: LoadGenerator, samples: Sequence[Sample]) -> None:
    """Plot load, replicas and latency over time."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 6), layout="constrained")
    above, middle, below = figure.subplots(3, 1, sharex=True)
    moments, connections, replicas = zip(*samples, strict=True)
    above.step(moments, connections, where="post", label="connections")
    ends = np.array([start + seconds for start, seconds, _ in load.responses])
    latencies = np.array([1000 * seconds for _, seconds, _ in load.responses])
    edges = np.arange(0, moments[-1], 1.0)
    above.plot(edges[:-1] + 0.5, np.histogram(ends, edges)[0], label="responses per second")
    above.legend()
    middle.step(moments, replicas, where="post", color="tab:green")
    middle.set_ylabel("replicas")
    middle.set_ylim(0, max(replicas) + 0.5)
    middle.yaxis.get_major_locator().set_params(integer=True)
    for percent, color in ((50, "tab:blue"), (99, "tab:red")):
        points = [(left + 0.5, np.percentile(values, percent))
                  for left in edges[:-1] if len(values := latencies[(ends >= left) & (ends < left + 1)])]  # fmt: skip
        below.plot(*zip(*points, strict=True), color=color, label=f"p{percent}")
    below.set_yscale("log")
    below.set_ylabel("latency, ms")
    below.set_xlabel("seconds")
    below.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
