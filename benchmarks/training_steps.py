"""Tables of benchmarks/training.py about the steps of this project on a GPU: by kind of step, and by kernel.

Needs only torch and numpy, and Triton for the fused kernels. `shapes vary` are the steps that a CPU and several workers
take; the others have static shapes, with torch's operations or with Triton's kernels, one after another or as a CUDA
graph. On a CPU the table has no graphs and no kernels. The table of kernels has the time of each on the device, from
torch's profiler, next to docs/design/gpu.md, which predicts them.
"""

import argparse
from collections.abc import Callable, Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import torch

from benchmarks.reporting import Row
from benchmarks.training_batches import BATCHES_PER_EPOCH, capture_shapes, repeat_rows, spread_words
from benchmarks.training_loops import make_benchmark_corpus, project_steps

STEPS: dict[str, Mapping[str, bool] | None] = {
    "shapes vary": None,
    "torch": {"use_triton": False, "use_graphs": False},
    "torch, graphs": {"use_triton": False, "use_graphs": True},
    "Triton": {"use_triton": True, "use_graphs": False},
    "Triton, graphs": {"use_triton": True, "use_graphs": True},
}
PROFILED_STEPS = 20
MeasureFunction = Callable[[dict[str, Iterator[int]]], dict[str, float]]


def make_steps(corpus: Any, name: str, embedding: str, batch_size: int, device: str, precision: str) -> Iterator[int]:
    """Return the steps of one kind, which yield their rows."""
    return project_steps(corpus, embedding, batch_size, device, precision, static=STEPS[name])


def compare_steps(options: argparse.Namespace, measure: MeasureFunction) -> tuple[str, list[Row]]:
    """Return the source of the texts, and the examples per second of each kind of step.

    Args:
        options, measure: as of `benchmarks.training_batches.compare_batch_sizes`.
    """
    corpus, source = make_corpus(options)
    names = list(STEPS) if options.device == "cuda" else ["shapes vary", "torch"]
    table: list[Row] = []
    for embedding, batch_size in product(("static", "non-static"), options.batch_sizes):
        for precision in options.precisions:
            sides = {name: make_steps(corpus, name, embedding, batch_size, options.device, precision) for name in names}
            if options.device == "cuda":
                for steps in sides.values():
                    capture_shapes(steps, batch_size)
            table.append({"embedding": embedding, "batch": batch_size, "precision": precision, **measure(sides)})
    return source, table


def profile_kernels(options: argparse.Namespace) -> tuple[str, list[Row]]:
    """Return the source of the texts, and the time and the starts of each kernel in a step with Triton's kernels."""
    corpus, source = make_corpus(options)
    table: list[Row] = []
    for batch_size, precision in product(options.batch_sizes, options.precisions):
        steps = make_steps(corpus, "Triton", "non-static", batch_size, options.device, precision)
        for _ in range(PROFILED_STEPS):
            next(steps)
        torch.cuda.synchronize()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
            for _ in range(PROFILED_STEPS):
                next(steps)
            torch.cuda.synchronize()
        events = [event for event in profiler.key_averages() if event.self_device_time_total]
        for event in sorted(events, key=lambda event: -event.self_device_time_total):
            table.append(
                {"batch": batch_size, "precision": precision, "kernel": event.key[:60],
                 "starts": event.count / PROFILED_STEPS, "us": event.self_device_time_total / PROFILED_STEPS}
            )  # fmt: skip
    return source, table


def make_corpus(options: argparse.Namespace) -> tuple[Any, str]:
    """Return a corpus with several batches of the largest size, and the source of its texts."""
    corpus, source = make_benchmark_corpus("mr", 10_662, Path(options.data))
    tokens = repeat_rows(corpus.train.tokens, BATCHES_PER_EPOCH * max(options.batch_sizes))
    return spread_words(tokens, len(corpus.vectors), min(options.words)), source
