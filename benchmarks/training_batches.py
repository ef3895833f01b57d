"""Table of benchmarks/training.py by batch size, compared with the usual loop and with a bound of the time of a step.

Needs only torch and numpy. Both sides train the same texts in the same precision (the usual loop with autocast), the
usual loop with torch's fused Adam, and with `--compile` also with torch.compile.

The bound is the least time of a step on the same device: what the kernels of a step take to start, and the longer one
of its arithmetic and its memory traffic. Matrix products, copies and starts are measured at the beginning. The traffic
has each array once: word vectors and their products with the filters, the maxima, gradients, and the optimiser's
states. The arithmetic has a matrix product of the distinct words and the filters, and for the gradients of filters and
of trained vectors one each, in which only the windows count where a filter is maximal.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice, product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.reporting import Row
from benchmarks.training_loops import (
    DIMENSIONS,
    FEATURE_MAPS,
    FILTER_WIDTHS,
    add_random_vectors,
    baseline_steps,
    make_benchmark_corpus,
    project_steps,
)
from jobs.datasets.tokenizer import Tokens
from jobs.model.batches import make_epoch_batches

# Kernels of a step that does nothing twice: gather, product, windows, loss, gradients and optimisers.
KERNELS_PER_STEP = 20
COLUMNS = sum(FILTER_WIDTHS) * FEATURE_MAPS  # of the product of words and filters
FEATURES = len(FILTER_WIDTHS) * FEATURE_MAPS
BATCHES_PER_EPOCH = 4  # of the largest batch size

MeasureFunction = Callable[[dict[str, Iterator[int]]], dict[str, float]]


@dataclass(frozen=True)
class DeviceLimits:
    """Measured limits of a device: operations and bytes per second, and seconds to start a kernel."""

    flops: float
    bandwidth: float
    start_s: float


def measure_limits(device: str, precision: str) -> DeviceLimits:
    """Return the limits of a device: float32 products on a GPU in TF32; a CPU needs no time to start a kernel."""
    on_gpu = device == "cuda"
    size, length = (8192, 1 << 28) if on_gpu else (1024, 1 << 24)
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    factor = torch.randn(size, size, device=device, dtype=dtype)
    source = torch.randn(length, device=device)
    target = torch.empty_like(source)
    before = torch.get_float32_matmul_precision()
    if on_gpu:
        torch.set_float32_matmul_precision("high")
    product_s = _time_call(lambda: factor @ factor, device)
    torch.set_float32_matmul_precision(before)
    copy_s = _time_call(lambda: target.copy_(source), device)
    return DeviceLimits(2 * size**3 / product_s, 2 * source.nbytes / copy_s, _measure_start() if on_gpu else 0.0)


def _measure_start(kernels: int = 1000) -> float:
    """Return the seconds of a kernel that does next to nothing, in a CUDA graph."""
    number, graph = torch.zeros(1, device="cuda"), torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(kernels):
            number.add_(1)
    return _time_call(graph.replay, "cuda") / kernels


def _time_call(function: Callable[[], object], device: str, calls: int = 10) -> float:
    """Return the seconds of the fastest of several calls."""
    seconds = []
    for _ in range(calls):
        start = time.perf_counter()
        function()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def bound_step(batch_size: int, num_words: int, num_tokens: int, embedding: str, precision: str) -> tuple[float, float]:
    """Return the operations of a step and the bytes that it must read or write.

    Args:
        num_words: distinct words of a batch; num_tokens: its tokens.
    """
    trains_vectors = embedding != "static"
    product_bytes = 2 if precision == "bfloat16" else 4
    factors = num_words * DIMENSIONS * 4 + COLUMNS * DIMENSIONS * 4
    flops = 2 * DIMENSIONS * COLUMNS * (num_words + (1 + trains_vectors) * min(num_words, batch_size))
    traffic = factors + num_words * COLUMNS * product_bytes * 2  # written, and read for the windows
    traffic += num_tokens * 4 + batch_size * FEATURES * 4 * 4  # maxima, their windows, gradient, dropout
    traffic += factors  # read again for the gradients
    traffic += COLUMNS * DIMENSIONS * 4 * 8  # gradient, and Adam reads four arrays and writes three
    if trains_vectors:
        traffic += num_words * DIMENSIONS * 4 * 8
    return float(flops), float(traffic)


def compare_batch_sizes(options: argparse.Namespace, measure: MeasureFunction) -> tuple[str, list[Row]]:
    """Return the source of the texts, and a row for each vocabulary, embedding, batch size and precision.

    Args:
        options: those of benchmarks/training.py.
        measure: returns the examples per second of each side.
    """
    limits = {precision: measure_limits(options.device, precision) for precision in options.precisions}
    corpus, source = make_benchmark_corpus("mr", 10_662, Path(options.data))
    tokens = repeat_rows(corpus.train.tokens, BATCHES_PER_EPOCH * max(options.batch_sizes))
    table: list[Row] = []
    for num_words in options.words:
        corpus = spread_words(tokens, len(corpus.vectors), num_words)
        for embedding, batch_size in product(("static", "non-static"), options.batch_sizes):
            distinct, length = average_batch(corpus.train.tokens, batch_size)
            for precision in options.precisions:
                speeds = measure(_make_sides(corpus, embedding, batch_size, precision, options))
                flops, traffic = bound_step(batch_size, distinct, length, embedding, precision)
                limit = limits[precision]
                seconds = KERNELS_PER_STEP * limit.start_s + max(flops / limit.flops, traffic / limit.bandwidth)
                ours, bound = speeds["this project"], batch_size / seconds
                table.append(
                    {"words": num_words, "embedding": embedding, "batch": batch_size, "precision": precision,
                     "distinct words": distinct, **speeds, "times": ours / speeds["usual loop"],
                     "bound": bound, "of bound": ours / bound}
                )  # fmt: skip
    return source, table


def _make_sides(
    corpus: Any, embedding: str, batch_size: int, precision: str, options: argparse.Namespace
) -> dict[str, Iterator[int]]:
    """Return the steps of each side; the compiled one is compiled."""
    arguments = (corpus, embedding == "static", batch_size, options.device)
    sides = {"usual loop": baseline_steps(*arguments, precision=precision, fused=True)}
    if options.compile:
        torch.compiler.reset()  # after some compilations of the same code torch would run the rest without
        compiled = sides["compiled"] = baseline_steps(*arguments, precision=precision, fused=True, compiled=True)
        for _ in range(5):  # other lengths of texts may compile again
            next(compiled)
    static = {} if options.device == "cuda" else None
    ours = project_steps(corpus, embedding, batch_size, options.device, precision, static=static)
    if static is not None:
        capture_shapes(ours, batch_size)
    return sides | {"this project": ours}


def capture_shapes(steps: Iterator[int], batch_size: int) -> None:
    """Take the steps that compile kernels and capture graphs of most shapes."""
    for _ in islice(steps, min(300, max(3 * BATCHES_PER_EPOCH, 30_000 // batch_size))):
        pass


def repeat_rows(tokens: Tokens, rows: int) -> Tokens:
    """Return at least that many texts: these, and further ones drawn from them."""
    drawn = np.random.default_rng(0).integers(0, len(tokens), max(0, rows - len(tokens)))
    texts = [tokens.ids[tokens.offsets[row] : tokens.offsets[row + 1]] for row in drawn]
    lengths = np.concatenate([tokens.lengths, tokens.lengths[drawn]])
    return Tokens(np.concatenate([tokens.ids, *texts]), np.concatenate([[0], lengths.cumsum()]))


def spread_words(tokens: Tokens, num_used: int, num_words: int) -> Any:
    """Return a corpus of the texts with `num_words` words, of which the `num_used` words of the texts are spread."""
    if num_words <= num_used:
        return add_random_vectors(tokens, num_used)
    spread = np.random.default_rng(0).permutation(np.arange(1, num_words))[:num_used]
    return add_random_vectors(Tokens(spread[tokens.ids].astype(np.int32), tokens.offsets), num_words)


def average_batch(tokens: Tokens, batch_size: int, batches: int = 20) -> tuple[int, int]:
    """Return the distinct words and the tokens of a batch, on average."""
    counts = []
    for rows in islice(make_epoch_batches(tokens.lengths, batch_size, 0, 1), batches):
        ids = np.concatenate([tokens.ids[tokens.offsets[row] : tokens.offsets[row + 1]] for row in rows])
        counts.append((len(np.unique(ids)), len(ids)))
    distinct, length = np.mean(counts, axis=0)
    return round(distinct), round(length)
