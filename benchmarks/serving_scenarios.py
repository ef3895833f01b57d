"""What happens to requests while load, checkpoints and replicas change. For benchmarks/serving.py.

Each scene takes a service that runs, and returns rows for a table. Loads send no request a second time.
"""

import json
import os
import random
import signal
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.deployed_service import DeployedService, wait_until
from benchmarks.load_generator import SAMPLE_TEXT, LoadGenerator, generate_load
from serving.deployment.haproxy import MAX_REQUESTS_PER_REPLICA, QUEUE_TIMEOUT_MS

Row = dict[str, Any]
SINGLE_TEXT_BODY = json.dumps({"inputs": SAMPLE_TEXT}).encode()
CONNECTIONS = 16
# Work of some milliseconds, so that the replicas are what is busy, and not the load.
BATCH_BODY = json.dumps(
    {"inputs": [" ".join(random.Random(place).choices(SAMPLE_TEXT.split(), k=40)) for place in range(256)]}
).encode()
# Some milliseconds too, in requests that are small: ten times as many as can be answered must be sent as well.
EXPLANATION_BODIES = {
    words: json.dumps(
        {"inputs": [" ".join([SAMPLE_TEXT] * (words // 20))] * 16, "parameters": {"explain": True, "top_k": 1}}
    )
    for words in (20, 100)
}
DEPLOYMENT_OPTIONS = {"max_ongoing_requests": 64, "max_queued_requests": 256}


def measure_autoscaling(service: DeployedService, seconds: Sequence[int], picture: Path | None) -> list[Row]:
    """Let a load rise and fall, so many seconds each; a row a phase, and a picture of all."""
    service.deploy(autoscaling_config=service.autoscaling_config | {"initial_replicas": 1, "downscale_delay_s": 10})
    wait_until(lambda: len(service.replica_pids()) == 1)
    phases = list(zip((4, 64, 4), seconds, strict=True))
    rows = []
    with (
        generate_load(service.url + "/predict", BATCH_BODY, phases[0][0]) as running,
        _watching(service, running) as watched,
    ):
        for connections, length in phases:
            running.connections = connections
            start, replicas = running.elapsed_s(), len(service.replica_pids())
            changed = None
            while running.elapsed_s() < start + length:
                time.sleep(0.5)
                if changed is None and len(service.replica_pids()) != replicas:
                    changed = running.elapsed_s() - start
            answers = [each for each in list(running.responses) if start <= each[0]]
            late = [each for each in answers if each[0] >= start + length / 2]
            rows.append({
                "connections": connections, "seconds": length, "replicas": len(service.replica_pids()),
                "first change after, s": changed, "requests/s": len(answers) / length,
                "p50, ms": _percentile(late, 50), "p99, ms": _percentile(late, 99), "failed": _failed(answers),
            })  # fmt: skip
    if picture is not None:
        _draw(picture, running, watched)
    return rows


def measure_scale_from_zero(service: DeployedService, times: int) -> list[Row]:
    """Let all replicas go, and ask."""
    service.deploy(autoscaling_config=service.autoscaling_config | {
        "min_replicas": 0, "initial_replicas": 0, "downscale_delay_s": 1,
    })  # fmt: skip
    answers = []
    for _ in range(times):
        wait_until(service.has_no_replicas)
        with generate_load(service.url + "/predict", SINGLE_TEXT_BODY, 1, pause_s=60) as running:
            wait_until(lambda: bool(running.responses))
        answers += running.responses
    return [{
        "asked of no replica": times, "failed": _failed(answers),
        "answered after, s": statistics.median(each[1] for each in answers),
        "at most, s": max(each[1] for each in answers),
    }]  # fmt: skip


def measure_checkpoint_swaps(service: DeployedService, checkpoints: Sequence[str], times: int) -> list[Row]:
    """Change the checkpoint under load."""
    service.deploy(num_replicas=2, **DEPLOYMENT_OPTIONS)
    before = set(service.replica_pids())

    def change(number: int) -> None:
        wanted = checkpoints[number % 2]
        service.deploy(user_config={"checkpoint": wanted})
        wait_until(lambda: service.all_replicas_serve(wanted))

    row = _under_load(service, "checkpoint swapped", times, change)
    return [row | {"same processes": set(service.replica_pids()) == before}]


def measure_rolling_updates(service: DeployedService, times: int) -> list[Row]:
    """Replace all replicas under load."""
    service.deploy(num_replicas=2, **DEPLOYMENT_OPTIONS)

    def change(number: int) -> None:
        before = set(service.replica_pids())
        service.deploy(ray_actor_options={"num_cpus": 0.11 + 0.01 * (number % 2)})
        wait_until(lambda: not before & set(service.replica_pids()) and len(service.replica_pids()) == 2)

    return [_under_load(service, "all replicas replaced", times, change)]


def measure_replica_kills(service: DeployedService, times: int) -> list[Row]:
    """Kill one of two replicas under load, again and again."""
    service.deploy(num_replicas=2, **DEPLOYMENT_OPTIONS)
    return [_under_load(service, "one of two replicas killed", times, lambda _: kill_replica(service))]


def measure_client_retries(service: DeployedService, times: int) -> list[Row]:
    """Kill the only replica while our client asks from eight threads."""
    from serving.client import Client, ServiceError

    service.deploy(num_replicas=1, **DEPLOYMENT_OPTIONS)
    asked, slowest, lost, ended = [0] * 8, [0.0] * 8, [0] * 8, threading.Event()
    patient = Client(service.url)

    def ask(number: int) -> None:
        while not ended.is_set():
            start = time.monotonic()
            try:
                patient.classify(SAMPLE_TEXT)
            except ServiceError:
                lost[number] += 1
            asked[number] += 1
            slowest[number] = max(slowest[number], time.monotonic() - start)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(asked))]
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
        "only replica killed, our client": times, "requests": sum(asked), "lost": sum(lost),
        "slowest, s": max(slowest),
    }]  # fmt: skip


def measure_load_shedding(service: DeployedService, seconds: int) -> list[Row]:
    """Ask for as much as one replica can answer, and for ten times as much; for two kinds of requests."""
    service.deploy(num_replicas=1, **DEPLOYMENT_OPTIONS)
    return [_shed(service, seconds, words, body.encode()) for words, body in EXPLANATION_BODIES.items()]


def _shed(service: DeployedService, seconds: int, words: int, body: bytes) -> Row:
    with generate_load(service.url + "/predict", body, 8) as running:
        _settle(running)
        capacity = _rate(running, seconds)
    pause = 0.1
    # Those that the replica holds, and so many more that each is turned away after a while, and asks again.
    connections = MAX_REQUESTS_PER_REPLICA + int(12 * capacity * (pause + QUEUE_TIMEOUT_MS / 1000))
    with generate_load(service.url + "/predict", body, connections, pause_s=pause) as running:
        _settle(running, 5)
        start, before = running.elapsed_s(), len(running.responses)
        answered = _rate(running, seconds)
        asked = (len(running.responses) - before) / (running.elapsed_s() - start)
    statuses, told = running.count_statuses(), dict(running.retry_after)
    return {
        "words a text": words, "requests/s at capacity": capacity, "times capacity": asked / capacity,
        "answered/s": answered, "of capacity": answered / capacity, "shed with 503": statuses[503],
        "with Retry-After": sum(told.values()), "others": _others(statuses - Counter({503: statuses[503]})),
    }  # fmt: skip


def kill_replica(service: DeployedService) -> None:
    """Kill a replica, and wait until another is in its place."""
    victim = service.replica_pids()[0]
    os.kill(victim, signal.SIGKILL)
    count = service.deployment["num_replicas"]
    wait_until(lambda: victim not in service.replica_pids() and len(service.replica_pids()) == count)


def _under_load(service: DeployedService, what: str, times: int, change: Callable[[int], None]) -> Row:
    """Change something so many times; return what became of the requests meanwhile."""
    with generate_load(service.url + "/predict", SINGLE_TEXT_BODY, CONNECTIONS) as running:
        _settle(running)
        for number in range(times):
            change(number)
            time.sleep(1)
    failed = running.failed_responses()
    return {
        what: times, "requests": len(running.responses), "failed": len(failed),
        "as": _others(running.count_statuses()),
        "p50, ms": _percentile(running.responses, 50), "p99, ms": _percentile(running.responses, 99),
        "slowest, ms": 1000 * max(each[1] for each in running.responses),
    }  # fmt: skip


def _settle(running: LoadGenerator, seconds: float = 1) -> None:
    wait_until(lambda: running.count_statuses()[200] > 20)
    time.sleep(seconds)


def _rate(running: LoadGenerator, seconds: int) -> float:
    """Return how many requests a second are answered with 200 in the next seconds."""
    start, before = time.monotonic(), running.count_statuses()[200]
    time.sleep(seconds)
    return (running.count_statuses()[200] - before) / (time.monotonic() - start)


def _others(statuses: Counter) -> str:
    """Name the statuses other than 200, with how often they came."""
    return ", ".join(f"{status} ({count})" for status, count in statuses.items() if status != 200) or "-"


def _failed(answers: Sequence[tuple[float, float, int | str]]) -> int:
    return sum(status != 200 for _, _, status in answers)


def _percentile(answers: Sequence[tuple[float, float, int | str]], percent: float) -> float:
    return 1000 * float(np.percentile([seconds for _, seconds, _ in answers], percent))


@contextmanager
def _watching(service: DeployedService, running: LoadGenerator) -> Iterator[list[tuple[float, int, int]]]:
    """Hold a list that grows: seconds, connections, replicas."""
    found: list[tuple[float, int, int]] = []
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.5):
            found.append((running.elapsed_s(), running.connections, len(service.replica_pids())))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        thread.join()


def _draw(path: Path, running: LoadGenerator, watched: Sequence[tuple[float, int, int]]) -> None:
    """Draw load, replicas and latency over time."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 6), layout="constrained")
    above, middle, below = figure.subplots(3, 1, sharex=True)
    moments, connections, replicas = zip(*watched, strict=True)
    above.step(moments, connections, where="post", label="connections")
    ends = np.array([start + took for start, took, _ in running.responses])
    took = np.array([1000 * seconds for _, seconds, _ in running.responses])
    edges = np.arange(0, moments[-1], 1.0)
    above.plot(edges[:-1] + 0.5, np.histogram(ends, edges)[0], label="requests answered a second")
    above.legend()
    middle.step(moments, replicas, where="post", color="tab:green")
    middle.set_ylabel("replicas")
    middle.set_ylim(0, max(replicas) + 0.5)
    middle.yaxis.get_major_locator().set_params(integer=True)
    for percent, colour in ((50, "tab:blue"), (99, "tab:red")):
        points = [(left + 0.5, np.percentile(inside, percent))
                  for left in edges[:-1] if len(inside := took[(ends >= left) & (ends < left + 1)])]  # fmt: skip
        below.plot(*zip(*points, strict=True), color=colour, label=f"p{percent}")
    below.set_yscale("log")
    below.set_ylabel("latency, ms")
    below.set_xlabel("seconds")
    below.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
