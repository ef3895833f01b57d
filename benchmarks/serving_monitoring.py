"""Serving: cost of the distance between a service's texts and the validation rows of its checkpoint.

    python benchmarks/serving_monitoring.py            # less than a minute
    python benchmarks/serving_monitoring.py --quick

Two replicas in this process, without Ray, have the same checkpoint; only one of them stores the distribution of
validation rows, and so counts texts in its bins. They respond to the same requests, alternately in several rounds. The
table shows medians, and medians of the ratios of each round. `flush` is what each replica does every two seconds.
"""

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # to be run as a file

from benchmarks.generated_data import save_random_checkpoint
from benchmarks.load_generator import SAMPLE_TEXT
from benchmarks.reporting import Row, print_json, print_table
from jobs.config.text_distribution import count_distribution
from jobs.model.checkpoint import load_checkpoint, save_checkpoint
from serving.app import ApplicationArguments, Replica

WORDS = 20_000
BODIES = {
    "one text of 20 words": json.dumps({"inputs": SAMPLE_TEXT}).encode(),
    "256 texts of 20 words": json.dumps({"inputs": [SAMPLE_TEXT] * 256}).encode(),
}
SIDES = {"without": False, "with": True}
Step = Callable[[], Awaitable[None]]


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few requests")
    options = parser.parse_args()
    rounds, seconds = (3, 0.02) if options.quick else (41, 0.2)
    with tempfile.TemporaryDirectory(prefix="sm-") as folder:
        rows = asyncio.run(_measure(Path(folder), rounds, seconds))
    print_table("Microseconds, with and without a distribution in the checkpoint", rows)
    print_json("serving_monitoring", {"quick": options.quick, "rounds": rounds}, {"rows": rows})


async def _measure(folder: Path, rounds: int, seconds: float) -> list[Row]:
    """Return a row for each kind of request, and for the flush."""
    replicas = {side: await _start_replica(folder / side, monitored=monitored) for side, monitored in SIDES.items()}
    rows = []
    for name, body in BODIES.items():
        sides = {side: _make_request(replica, body) for side, replica in replicas.items()}
        rows.append({"step": name, **await _compare(sides, rounds, seconds)})
    sides = {side: _make_flush(replica) for side, replica in replicas.items()}
    rows.append({"step": "flush", **await _compare(sides, rounds, seconds)})
    return rows


async def _start_replica(folder: Path, *, monitored: bool) -> Replica:
    vocabulary = [*dict.fromkeys(SAMPLE_TEXT.lower().split()), *(f"word{number}" for number in range(WORDS))][:WORDS]
    save_random_checkpoint(folder / "random", vocabulary)
    checkpoint = load_checkpoint(str(folder / "random"))
    if monitored:
        rows = np.arange(1000)
        stored = count_distribution(rows % 2, rows / 1000, rows % 40, np.zeros(1000, np.int64), 2)
        checkpoint = replace(checkpoint, metrics={**checkpoint.metrics, "distribution": stored})
    save_checkpoint(folder / "checkpoint", checkpoint)
    replica = Replica(ApplicationArguments().model_dump())
    await replica.reconfigure({"checkpoint": str(folder / "checkpoint")})
    return replica


def _make_request(replica: Replica, body: bytes) -> Step:
    """Return a function that sends a request to the application of a replica."""
    application = replica.__serve_build_asgi_app__()
    scope = {"type": "http", "method": "POST", "path": "/predict", "headers": []}

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body}

    async def send(message: Any) -> None:
        assert message.get("status", 200) == 200

    async def request() -> None:
        await application(scope, receive, send)

    return request


def _make_flush(replica: Replica) -> Step:
    models = replica.models
    assert models is not None

    async def flush() -> None:
        models.primary.take_counts("primary")

    return flush


async def _compare(sides: dict[str, Step], rounds: int, seconds: float) -> Row:
    """Return the duration of a step on both sides in microseconds, and the difference."""
    samples: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(rounds + 1):  # the first round warms up
        for side, step in sides.items() if number % 2 else reversed(sides.items()):
            duration = await _time(step, seconds)
            if number:
                samples[side].append(duration)
    ratios = [second / first for first, second in zip(*samples.values(), strict=True)]
    differences = [second - first for first, second in zip(*samples.values(), strict=True)]
    row: Row = {side: round(1e6 * statistics.median(values), 3) for side, values in samples.items()}
    return row | {
        "difference": round(1e6 * statistics.median(differences), 3), "ratio": round(statistics.median(ratios), 4)
    }  # fmt: skip


async def _time(step: Step, seconds: float) -> float:
    """Return the seconds that a step takes, as a mean over about `seconds`."""
    count, start = 0, perf_counter()
    while (now := perf_counter()) - start < seconds:
        for _ in range(10):
            await step()
        count += 10
    return (now - start) / count


if __name__ == "__main__":
    main()
