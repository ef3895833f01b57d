"""Overload of a replica, and the admission queue compared with others: scenarios of benchmarks/serving.py.

Each takes a running service and returns the rows of a table. The load is sent without retries.
"""

import json
import statistics
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from benchmarks.deployed_service import TIMEOUT_S, DeployedService
from benchmarks.load_generator import SAMPLE_TEXT, format_failures, generate_load, percentile_ms
from benchmarks.reporting import Row
from benchmarks.serving_scenarios import BATCH_BODY, DEPLOYMENT_OPTIONS
from serving.deployment.haproxy import MAX_REQUESTS_PER_REPLICA, QUEUE_TIMEOUT_MS
from tests.support.waiting import wait_for

# Milliseconds of work in small requests, so that the load generator can send ten times a replica's capacity.
EXPLANATION_BODIES = {
    words: json.dumps(
        {"inputs": [" ".join([SAMPLE_TEXT] * (words // 20))] * 16, "parameters": {"explain": True, "top_k": 1}}
    )
    for words in (20, 100)
}
ADMISSION_SIDES = ("queue", "lock", "none")  # of benchmarks/admission_deployments.py


def measure_load_shedding(service: DeployedService, seconds: int) -> list[Row]:
    """Send requests at the capacity of one replica, and at ten times that rate; for two kinds of requests."""
    service.deploy(num_replicas=1, **DEPLOYMENT_OPTIONS)
    return [_measure_overload(service, seconds, words, body.encode()) for words, body in EXPLANATION_BODIES.items()]


def measure_admission(
    service: DeployedService, rounds: int, seconds: int, send_texts: Callable[[str, int], Row]
) -> list[Row]:
    """Compare the admission queue with a lock and with nothing: overload, and scaling from one replica.

    send_texts: sends single texts to a URL for some seconds, more than one replica can respond to.
    """
    rows: dict[str, list[Row]] = {side: [] for side in ADMISSION_SIDES}
    application = service.configuration["applications"][0]
    usual = application["import_path"]
    for _ in range(rounds):
        for side in ADMISSION_SIDES:
            application["import_path"] = f"benchmarks.admission_deployments:build_{side}"
            service.deploy(num_replicas=1, **DEPLOYMENT_OPTIONS)
            overload = _measure_overload(service, seconds // 2, 20, EXPLANATION_BODIES[20].encode())
            row: Row = {
                "capacity": overload["capacity, requests/s"],
                "overload": overload["load, ratio to capacity"],
                "answered": overload["throughput, ratio to capacity"],
                "p99, ms": overload["p99, ms"],
            }
            row |= {f"one replica: {key}": value for key, value in send_texts(service.url + "/predict", 5).items()}
            row |= {f"lists: {key}": value for key, value in _scale(service, seconds, _send_lists).items()}
            row |= {f"single texts: {key}": value for key, value in _scale(service, seconds, send_texts).items()}
            rows[side].append(row)
    application["import_path"] = usual
    return [
        {"admission": side} | {key: statistics.median(row[key] for row in rows[side]) for key in rows[side][0]}
        for side in ADMISSION_SIDES
    ]


def _scale(service: DeployedService, seconds: int, send: Callable[[str, int], Row]) -> Row:
    """Start with one replica, send requests, and return the highest number of replicas and the row of `send`."""
    service.deploy(autoscaling_config=service.autoscaling_config | {"initial_replicas": 1, "downscale_delay_s": 4})
    wait_for(lambda: len(service.replica_pids()) == 1, "one replica", TIMEOUT_S)
    counts = [1]
    with ThreadPoolExecutor(1) as pool:
        sent = pool.submit(send, service.url + "/predict", seconds)
        while not sent.done():
            time.sleep(0.5)
            counts.append(len(service.replica_pids()))
    return {"replicas": max(counts)} | sent.result()


def _send_lists(url: str, seconds: int) -> Row:
    """Send lists of texts over 64 connections; return rate and latency of the second half."""
    with generate_load(url, BATCH_BODY, 64) as load:
        wait_for(lambda: load.elapsed_s() > seconds / 2 and load.responses, "responses", seconds + TIMEOUT_S)
        before = len(load.responses)
        rate = load.measure_rate(seconds // 2)
    return {"requests/s": rate, "p99, ms": percentile_ms(load.responses[before:], 99)}


def _measure_overload(service: DeployedService, seconds: int, words: int, body: bytes) -> Row:
    with generate_load(service.url + "/predict", body, 8) as load:
        load.warm_up()
        capacity = load.measure_rate(seconds)
    pause = 0.1
    # Those that the replica accepts, and those that are rejected after the queue timeout and sent again.
    connections = MAX_REQUESTS_PER_REPLICA + int(12 * capacity * (pause + QUEUE_TIMEOUT_MS / 1000))
    with generate_load(service.url + "/predict", body, connections, pause_s=pause) as load:
        load.warm_up(5)
        start, before = load.elapsed_s(), len(load.responses)
        throughput = load.measure_rate(seconds)
        sent = (len(load.responses) - before) / (load.elapsed_s() - start)
        answered = [response for response in load.responses[before:] if response[2] == 200]
    statuses = load.count_statuses()
    return {
        "words per text": words, "capacity, requests/s": capacity, "load, ratio to capacity": sent / capacity,
        "throughput, requests/s": throughput, "throughput, ratio to capacity": throughput / capacity,
        "p99, ms": percentile_ms(answered, 99),
        "rejected with 503": statuses[503],
        "with Retry-After": sum(load.retry_after.values()),
        "others": format_failures(statuses - Counter({503: statuses[503]})),
    }  # fmt: skip
