"""Training speed, compared with the usual hand-written loop: padded texts, Conv1d, dense Adam.

    python benchmarks/training.py                  # a few minutes, one thread
    python benchmarks/training.py --quick
    python benchmarks/training.py --device cuda    # needs only torch and numpy; docs/design/gpu.md has commands

Network and settings are Kim's: 300 dimensions, widths 3, 4 and 5 with 100 feature maps each, dropout 0.5, batches of
50. The usual loop pads the texts to the longest of their batch. The texts are those of MR and IMDB if they exist next
to the checkout, otherwise random ones of the same lengths. The two sides are measured alternately in several rounds;
the tables show medians. `matrix product` is the share of this project's time in the product of word vectors and
filters, which no convolution can avoid. benchmarks/training_batches.py describes the table by batch size,
benchmarks/training_steps.py those of steps and kernels on a GPU. The table of
reports to Ray Train starts a Ray with two workers; benchmarks/workers.py measures the speed of several workers.
"""

import argparse
import functools
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # to be run as a file

from benchmarks.reporting import Row, print_json, print_table
from benchmarks.training_batches import compare_batch_sizes, spread_words
from benchmarks.training_loops import baseline_steps, make_benchmark_corpus, project_steps
from benchmarks.training_steps import compare_steps, profile_kernels
from jobs.model import convolution

DATA_FOLDER = Path(__file__).resolve().parents[2] / "shared" / "data"


def measure_speed(steps: Iterator[int], seconds: float, device: str) -> float:
    """Return the examples per second of the steps that fit into `seconds`."""
    synchronize_device(device)
    start, rows = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        rows += next(steps)
    synchronize_device(device)
    return rows / (time.perf_counter() - start)


def synchronize_device(device: str) -> None:
    """Wait until a GPU has finished its work."""
    if device == "cuda":
        torch.cuda.synchronize()


def measure_interleaved(sides: dict[str, Iterator[int]], seconds: float, rounds: int, device: str) -> dict[str, float]:
    """Return each side's median examples per second; the sides alternate."""
    for steps in sides.values():
        warm_up(steps, seconds)
    speeds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, steps in sides.items():
            speeds[name].append(measure_speed(steps, seconds, device))
    return {name: statistics.median(values) for name, values in speeds.items()}


def warm_up(steps: Iterator[int], seconds: float) -> None:
    """Take three steps, or fewer if they take longer than `seconds`."""
    start = time.perf_counter()
    for _ in range(3):
        next(steps)
        if time.perf_counter() - start > seconds:
            break


def measure_matmul_share(steps: Iterator[int], seconds: float) -> float:
    """Return the share of the time of steps on a CPU in the product of word vectors and filters."""
    spent = 0.0
    project = convolution.project

    def timed(*arguments: Any) -> Tensor:
        nonlocal spent
        start = time.perf_counter()
        result = project(*arguments)
        spent += time.perf_counter() - start
        return result

    convolution.project = timed
    start = time.perf_counter()
    measure_speed(steps, seconds, "cpu")
    convolution.project = project
    return spent / (time.perf_counter() - start)


def compare_loops(name: str, options: argparse.Namespace, rows: int) -> tuple[str, list[Row]]:
    """Return the source of the texts, and a row for each embedding and precision."""
    corpus, source = make_benchmark_corpus(name, rows, Path(options.data))
    table = []
    precisions = options.precisions
    for embedding in ("static", "non-static"):
        sides = {"usual": baseline_steps(corpus, embedding == "static", 50, options.device)}
        static = {} if options.device == "cuda" else None
        sides |= {
            name: project_steps(corpus, embedding, 50, options.device, name, static=static) for name in precisions
        }
        speeds = measure_interleaved(sides, options.seconds, options.rounds, options.device)
        for precision in precisions:
            row: Row = {"embedding": embedding, "precision": precision, "usual loop": speeds["usual"],
                   "this project": speeds[precision], "times": speeds[precision] / speeds["usual"]}  # fmt: skip
            if options.device == "cpu":
                row["matrix product"] = measure_matmul_share(sides[precision], options.seconds)
            table.append(row)
    return source, table


def supports_bfloat16(device: str) -> bool:
    """Return whether the processor has instructions for bfloat16; without them bfloat16 is slower than float32."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported()
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    return "avx512_bf16" in flags or "amx_bf16" in flags


def compare_vocabulary_sizes(options: argparse.Namespace) -> tuple[str, list[Row]]:
    """Return the source of the texts, and the speed with a short and a long table for the same texts."""
    corpus, source = make_benchmark_corpus("mr", 4000, Path(options.data))
    # The words of the texts are spread over the long table, as in real tables.
    long = spread_words(corpus.train.tokens, len(corpus.vectors), 400_000)
    sides = {f"{len(item.vectors):,}": project_steps(item, "non-static", 50, options.device) for item in (corpus, long)}
    speeds = measure_interleaved(sides, options.seconds, options.rounds, options.device)
    first = next(iter(speeds.values()))
    return source, [
        {"words": name, "this project": value, "cost of a step": first / value} for name, value in speeds.items()
    ]


def compare_reports(options: argparse.Namespace) -> tuple[str, list[Row]]:
    """Return the source of the texts, and the seconds of an epoch of two workers with and without reports."""
    from benchmarks import training_reports  # Ray is not needed for the other tables

    epochs, rounds = (5, 1) if options.quick else (8, 5)
    return training_reports.compare_reports(Path(options.data), epochs, rounds)


TABLE_TITLES = {
    "short": "Examples per second, MR's texts",
    "long": "Examples per second, IMDB's texts",
    "batches": "Examples per second by batch size, MR's texts",
    "vocabulary": "Examples per second by number of trained words",
    "steps": "Examples per second by kind of step, MR's texts",
    "kernels": "Kernels of a step, MR's texts",
    "reports": "Epochs of four steps of two Ray Train workers, by their reports to Ray Train",
}

GPU_TABLES = ("short", "long", "batches", "steps", "kernels")
CPU_TABLES = tuple(name for name in TABLE_TITLES if name != "kernels")


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="under a minute")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=TABLE_TITLES,
        default=list(TABLE_TITLES),
        metavar="TABLE",
        help=", ".join(TABLE_TITLES),
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--data", default=str(DATA_FOLDER), help="folder with mr/ and imdb/ (default: %(default)s)")
    parser.add_argument("--compile", action="store_true", help="table batches: also the usual loop with torch.compile")
    parser.add_argument("--batch-sizes", nargs="+", type=int, metavar="ROWS", help="of the table batches")
    parser.add_argument("--words", nargs="+", type=int, metavar="WORDS", help="vocabularies of the table batches")
    options = parser.parse_args()
    on_gpu = options.device == "cuda"  # lent for minutes
    options.seconds, options.rounds = (0.4, 1) if options.quick else (1.0 if on_gpu else 3.0, 7)
    options.precisions = ["float32", "bfloat16"] if supports_bfloat16(options.device) else ["float32"]
    is_long = on_gpu and not options.quick
    options.batch_sizes = options.batch_sizes or ([50, 256, 1024, 4096, 16_384] if is_long else [50, 256])
    options.words = options.words or ([20_000, 400_000] if is_long else [20_000])
    torch.set_num_threads(1)
    measure_briefly = functools.partial(
        measure_interleaved, seconds=options.seconds / 4, rounds=min(3, options.rounds), device=options.device
    )
    measures: dict[str, Callable[[], tuple[str, list[Row]]]] = {
        "short": lambda: compare_loops("mr", options, 2000 if options.quick else 10_662),
        "long": lambda: compare_loops("imdb", options, 500 if options.quick else 5000),
        "batches": lambda: compare_batch_sizes(options, measure_briefly),
        "vocabulary": lambda: compare_vocabulary_sizes(options),
        "steps": lambda: compare_steps(options, measure_briefly),
        "kernels": lambda: profile_kernels(options),
        "reports": lambda: compare_reports(options),
    }
    tables: dict[str, list[Row]] = {}
    for name in options.only:
        if name in (GPU_TABLES if on_gpu else CPU_TABLES):
            source, tables[name] = measures[name]()
            print_table(f"{TABLE_TITLES[name]} ({source}), {options.device}", tables[name])
    if options.device == "cpu" and not supports_bfloat16("cpu"):
        print("\nbfloat16 is not measured: this processor has no instructions for it")
    settings = {"quick": options.quick, "device": options.device}
    if options.device == "cuda":
        settings["gpu"] = torch.cuda.get_device_name()
    print_json("training", settings, tables)


if __name__ == "__main__":
    main()
