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

from benchmarks.deployed_service import Deployed, wait_until
from benchmarks.load_generator import TEXT, Load, load
from serving.deployment.haproxy import HELD, QUEUE_MS

Row = dict[str, Any]
ONE = json.dumps({"inputs": TEXT}).encode()
CONNECTIONS = 16
# Work of some milliseconds, so that the replicas are what is busy, and not the load.
MANY = json.dumps(
    {"inputs": [" ".join(random.Random(place).choices(TEXT.split(), k=40)) for place in range(256)]}
).encode()
# Some milliseconds too, in requests that are small: ten times as many as can be answered must be sent as well.
EXPLAINED = {
    words: json.dumps({"inputs": [" ".join([TEXT] * (words // 20))] * 16, "parameters": {"explain": True, "top_k": 1}})
    for words in (20, 100)
}
COMMON = {"max_ongoing_requests": 64, "max_queued_requests": 256}


def scale(service: Deployed, seconds: Sequence[int], picture: Path | None) -> list[Row]:
    """Let a load rise and fall, so many seconds each; a row a phase, and a picture of all."""
    service.deploy(autoscaling_config=service.scaling | {"initial_replicas": 1, "downscale_delay_s": 10})
    wait_until(lambda: len(service.pids()) == 1)
    phases = list(zip((4, 64, 4), seconds, strict=True))
    rows = []
    with load(service.url + "/predict", MANY, phases[0][0]) as running, _watching(service, running) as watched:
        for connections, length in phases:
            running.connections = connections
            start, replicas = running.now(), len(service.pids())
            changed = None
            while running.now() < start + length:
                time.sleep(0.5)
                if changed is None and len(service.pids()) != replicas:
                    changed = running.now() - start
            answers = [each for each in list(running.answers) if start <= each[0]]
            late = [each for each in answers if each[0] >= start + length / 2]
            rows.append({
                "connections": connections, "seconds": length, "replicas": len(service.pids()),
                "first change after, s": changed, "requests/s": len(answers) / length,
                "p50, ms": _percentile(late, 50), "p99, ms": _percentile(late, 99), "failed": _failed(answers),
            })  # fmt: skip
    if picture is not None:
        _draw(picture, running, watched)
    return rows


def zero(service: Deployed, times: int) -> list[Row]:
    """Let all replicas go, and ask."""
    service.deploy(autoscaling_config=service.scaling | {
        "min_replicas": 0, "initial_replicas": 0, "downscale_delay_s": 1,
    })  # fmt: skip
    answers = []
    for _ in range(times):
        wait_until(service.sleeps)
        with load(service.url + "/predict", ONE, 1, pause_s=60) as running:
            wait_until(lambda: bool(running.answers))
        answers += running.answers
    return [{
        "asked of no replica": times, "failed": _failed(answers),
        "answered after, s": statistics.median(each[1] for each in answers),
        "at most, s": max(each[1] for each in answers),
    }]  # fmt: skip


def swap(service: Deployed, checkpoints: Sequence[str], times: int) -> list[Row]:
    """Change the checkpoint under load."""
    service.deploy(num_replicas=2, **COMMON)
    before = set(service.pids())

    def change(number: int) -> None:
        wanted = checkpoints[number % 2]
        service.deploy(user_config={"checkpoint": wanted})
        wait_until(lambda: service.serves(wanted))

    row = _under_load(service, "checkpoint swapped", times, change)
    return [row | {"same processes": set(service.pids()) == before}]


def roll(service: Deployed, times: int) -> list[Row]:
    """Replace all replicas under load."""
    service.deploy(num_replicas=2, **COMMON)

    def change(number: int) -> None:
        before = set(service.pids())
        service.deploy(ray_actor_options={"num_cpus": 0.11 + 0.01 * (number % 2)})
        wait_until(lambda: not before & set(service.pids()) and len(service.pids()) == 2)

    return [_under_load(service, "all replicas replaced", times, change)]


def kill(service: Deployed, times: int) -> list[Row]:
    """Kill one of two replicas under load, again and again."""
    service.deploy(num_replicas=2, **COMMON)
    return [_under_load(service, "one of two replicas killed", times, lambda _: kill_one(service))]


def client(service: Deployed, times: int) -> list[Row]:
    """Kill the only replica while our client asks from eight threads."""
    from serving.client import Client, ServiceError

    service.deploy(num_replicas=1, **COMMON)
    asked, slowest, lost, ended = [0] * 8, [0.0] * 8, [0] * 8, threading.Event()
    patient = Client(service.url)

    def ask(number: int) -> None:
        while not ended.is_set():
            start = time.monotonic()
            try:
                patient.classify(TEXT)
            except ServiceError:
                lost[number] += 1
            asked[number] += 1
            slowest[number] = max(slowest[number], time.monotonic() - start)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(asked))]
    for thread in threads:
        thread.start()
    try:
        for _ in range(times):
            kill_one(service)
            time.sleep(2)
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    return [{
        "only replica killed, our client": times, "requests": sum(asked), "lost": sum(lost),
        "slowest, s": max(slowest),
    }]  # fmt: skip


def shed(service: Deployed, seconds: int) -> list[Row]:
    """Ask for as much as one replica can answer, and for ten times as much; for two kinds of requests."""
    service.deploy(num_replicas=1, **COMMON)
    return [_shed(service, seconds, words, body.encode()) for words, body in EXPLAINED.items()]


def _shed(service: Deployed, seconds: int, words: int, body: bytes) -> Row:
    with load(service.url + "/predict", body, 8) as running:
        _settle(running)
        capacity = _rate(running, seconds)
    pause = 0.1
    # Those that the replica holds, and so many more that each is turned away after a while, and asks again.
    connections = HELD + int(12 * capacity * (pause + QUEUE_MS / 1000))
    with load(service.url + "/predict", body, connections, pause_s=pause) as running:
        _settle(running, 5)
        start, before = running.now(), len(running.answers)
        answered = _rate(running, seconds)
        asked = (len(running.answers) - before) / (running.now() - start)
    statuses, told = running.statuses(), dict(running.retry_after)
    return {
        "words a text": words, "requests/s at capacity": capacity, "times capacity": asked / capacity,
        "answered/s": answered, "of capacity": answered / capacity, "shed with 503": statuses[503],
        "with Retry-After": sum(told.values()), "others": _others(statuses - Counter({503: statuses[503]})),
    }  # fmt: skip


def kill_one(service: Deployed) -> None:
    """Kill a replica, and wait until another is in its place."""
    victim = service.pids()[0]
    os.kill(victim, signal.SIGKILL)
    count = service.deployment["num_replicas"]
    wait_until(lambda: victim not in service.pids() and len(service.pids()) == count)


def _under_load(service: Deployed, what: str, times: int, change: Callable[[int], None]) -> Row:
    """Change something so many times; return what became of the requests meanwhile."""
    with load(service.url + "/predict", ONE, CONNECTIONS) as running:
        _settle(running)
        for number in range(times):
            change(number)
            time.sleep(1)
    failed = running.failed()
    return {
        what: times, "requests": len(running.answers), "failed": len(failed),
        "as": _others(running.statuses()),
        "p50, ms": _percentile(running.answers, 50), "p99, ms": _percentile(running.answers, 99),
        "slowest, ms": 1000 * max(each[1] for each in running.answers),
    }  # fmt: skip


def _settle(running: Load, seconds: float = 1) -> None:
    wait_until(lambda: running.statuses()[200] > 20)
    time.sleep(seconds)


def _rate(running: Load, seconds: int) -> float:
    """Return how many requests a second are answered with 200 in the next seconds."""
    start, before = time.monotonic(), running.statuses()[200]
    time.sleep(seconds)
    return (running.statuses()[200] - before) / (time.monotonic() - start)


def _others(statuses: Counter) -> str:
    """Name the statuses other than 200, with how often they came."""
    return ", ".join(f"{status} ({count})" for status, count in statuses.items() if status != 200) or "-"


def _failed(answers: Sequence[tuple[float, float, int | str]]) -> int:
    return sum(status != 200 for _, _, status in answers)


def _percentile(answers: Sequence[tuple[float, float, int | str]], percent: float) -> float:
    return 1000 * float(np.percentile([seconds for _, seconds, _ in answers], percent))


@contextmanager
def _watching(service: Deployed, running: Load) -> Iterator[list[tuple[float, int, int]]]:
    """Hold a list that grows: seconds, connections, replicas."""
    found: list[tuple[float, int, int]] = []
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.5):
            found.append((running.now(), running.connections, len(service.pids())))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        thread.join()


def _draw(path: Path, running: Load, watched: Sequence[tuple[float, int, int]]) -> None:
    """Draw load, replicas and latency over time."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 6), layout="constrained")
    above, middle, below = figure.subplots(3, 1, sharex=True)
    moments, connections, replicas = zip(*watched, strict=True)
    above.step(moments, connections, where="post", label="connections")
    ends = np.array([start + took for start, took, _ in running.answers])
    took = np.array([1000 * seconds for _, seconds, _ in running.answers])
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
