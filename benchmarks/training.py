"""Training speed, beside the usual hand-written loop: texts padded to the longest of their batch, Conv1d, dense Adam.

    python benchmarks/training.py                  # a few minutes, one thread
    python benchmarks/training.py --quick
    python benchmarks/training.py --device cuda    # needs torch and numpy, nothing else

The network and the settings are Kim's: 300 dimensions, widths 3, 4 and 5 with 100 maps each, dropout 0.5, batches
of 50. Texts are those of MR and IMDB where they lie beside the checkout, else drawn with the same lengths. The two
sides take turns, and what is given is the median over the turns. `in products` is the share of this project's time
that goes into the matrix product of words and filters, without which there is no convolution.
"""

import argparse
import functools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # to be run as a file

from benchmarks.reporting import print_json, print_table
from benchmarks.training_loops import add_random_vectors, baseline_steps, make_benchmark_corpus, project_steps
from jobs.datasets.tokenizer import Tokens
from jobs.model import convolution
from jobs.training.process_group import ProcessGroup

DATA_FOLDER = Path(__file__).resolve().parents[2] / "shared" / "data"


def measure_speed(steps: Iterator[int], seconds: float, device: str) -> float:
    """Return the examples a second of steps over so many seconds, whole steps."""
    synchronize_device(device)
    start, rows = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        rows += next(steps)
    synchronize_device(device)
    return rows / (time.perf_counter() - start)


def synchronize_device(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def measure_interleaved(sides: dict[str, Iterator[int]], seconds: float, turns: int, device: str) -> dict[str, float]:
    """Return each side's median examples a second; they take turns."""
    for steps in sides.values():
        for _ in range(3):
            next(steps)
    found: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(turns):
        for name, steps in sides.items():
            found[name].append(measure_speed(steps, seconds, device))
    return {name: statistics.median(values) for name, values in found.items()}


def measure_matmul_share(steps: Iterator[int], seconds: float) -> float:
    """Return the share of the time of steps on a CPU that goes into the product of words and filters."""
    spent = 0.0
    project = convolution.project

    def timed(*arguments: Any) -> Tensor:
        nonlocal spent
        start = time.perf_counter()
        found = project(*arguments)
        spent += time.perf_counter() - start
        return found

    convolution.project = timed
    start = time.perf_counter()
    measure_speed(steps, seconds, "cpu")
    convolution.project = project
    return spent / (time.perf_counter() - start)


def compare_loops(name: str, options: argparse.Namespace, rows: int) -> tuple[str, list[dict[str, Any]]]:
    """Return where the texts are from, and the usual loop's speed and this project's for each kind."""
    corpus, source = make_benchmark_corpus(name, rows, Path(options.data))
    found = []
    precisions = ["float32", "bfloat16"] if supports_bfloat16(options.device) else ["float32"]
    for embedding in ("static", "non-static"):
        sides = {"usual": baseline_steps(corpus, embedding == "static", 50, options.device)}
        sides |= {each: project_steps(corpus, embedding, 50, options.device, each) for each in precisions}
        speeds = measure_interleaved(sides, options.seconds, options.turns, options.device)
        for precision in precisions:
            row = {"embedding": embedding, "precision": precision, "usual loop": speeds["usual"],
                   "this project": speeds[precision], "times": speeds[precision] / speeds["usual"]}  # fmt: skip
            if options.device == "cpu":
                row["in products"] = measure_matmul_share(sides[precision], options.seconds)
            found.append(row)
    return source, found


def supports_bfloat16(device: str) -> bool:
    """Tell whether the processor has an instruction for it; others are slower with it than without."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported()
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    return "avx512_bf16" in flags or "amx_bf16" in flags


def compare_vocabulary_sizes(options: argparse.Namespace) -> tuple[str, list[dict[str, Any]]]:
    """Return where the texts are from, and the speed with a short and a long table, the same texts."""
    corpus, source = make_benchmark_corpus("mr", 4000, Path(options.data))
    sizes = [len(corpus.vectors), 400_000]
    # The words of the texts, spread over the long table as they would lie there.
    spread = np.random.default_rng(0).permutation(np.arange(1, sizes[1]))[: sizes[0]]
    ids = spread[corpus.train.tokens.ids].astype(np.int32)
    long = add_random_vectors(Tokens(ids, corpus.train.tokens.offsets), sizes[1])
    sides = {f"{len(each.vectors):,}": project_steps(each, "non-static", 50, options.device) for each in (corpus, long)}
    speeds = measure_interleaved(sides, options.seconds, options.turns, options.device)
    first = next(iter(speeds.values()))
    return source, [
        {"words": name, "this project": value, "a step costs": first / value} for name, value in speeds.items()
    ]


def run_worker(rank: int, size: int, folder: str, data: str, seconds: float, turns: int) -> None:
    """One of two processes that train together, and alone in turn; writes speeds and bytes."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=size)
    corpus, source = make_benchmark_corpus("mr", 10_662, Path(data))
    here, apart = ProcessGroup(rank, size), ProcessGroup(rank, size)
    groups = {"by memory": here, "by gloo": apart} if here.enable_shared_memory() else {"by gloo": apart}
    sides = {name: project_steps(corpus, "non-static", 256, "cpu", group=group) for name, group in groups.items()}
    alone = project_steps(corpus, "non-static", 256, "cpu")
    found: dict[str, list[float]] = {name: [] for name in ("alone", *sides)}
    sent = {}
    for turn in range(turns + 1):
        torch.distributed.barrier()
        if rank == 0:
            found["alone"].append(measure_speed(alone, seconds, "cpu"))
        # The same number of steps on both sides, so that none waits for the other.
        steps = max(1, int(seconds * 20))
        for name, each in sides.items():
            torch.distributed.barrier()
            before, start, rows = groups[name].bytes_sent, time.perf_counter(), 0
            for _ in range(steps):
                rows += next(each)
            found[name].append(rows / (time.perf_counter() - start))
            sent[name] = (groups[name].bytes_sent - before) // steps
        if turn == 0:  # to warm up
            found = {name: [] for name in found}
    if rank == 0:
        torch.save((source, found, sent), f"{folder}/found.pt")
    torch.distributed.destroy_process_group()


def compare_worker_counts(options: argparse.Namespace) -> tuple[str, list[dict[str, Any]]]:
    """Return where the texts are from, and the speed of one and of two workers, non-static, global batches of 256."""
    import torch.multiprocessing as multiprocessing

    with tempfile.TemporaryDirectory() as folder:
        run = functools.partial(
            run_worker, size=2, folder=folder, data=options.data, seconds=options.seconds, turns=options.turns
        )
        multiprocessing.spawn(run, nprocs=2)
        source, found, sent = torch.load(f"{folder}/found.pt")
    speeds = {name: statistics.median(values) for name, values in found.items()}
    one = speeds.pop("alone")
    return source, [
        {"workers": "1", "this project": one, "times": 1.0, "bytes a step": 0},
        *(
            {"workers": f"2, {name}", "this project": both, "times": both / one, "bytes a step": sent[name]}
            for name, both in speeds.items()
        ),
    ]


TABLE_TITLES = {
    "short": "examples a second, MR's texts",
    "long": "examples a second, IMDB's texts",
    "vocabulary": "examples a second with tables of so many trained words",
    "workers": "examples a second of single-threaded workers, global batches of 256, non-static",
}


def main() -> None:
    """Measure and print."""
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
    parser.add_argument(
        "--data", default=str(DATA_FOLDER), help="folder with mr/ and imdb/ (default: beside the checkout)"
    )
    options = parser.parse_args()
    options.seconds, options.turns = (0.5, 2) if options.quick else (3.0, 7)
    torch.set_num_threads(1)
    measures: dict[str, Callable[[], tuple[str, list[dict[str, Any]]]]] = {
        "short": lambda: compare_loops("mr", options, 2000 if options.quick else 10_662),
        "long": lambda: compare_loops("imdb", options, 500 if options.quick else 5000),
        "vocabulary": lambda: compare_vocabulary_sizes(options),
        "workers": lambda: compare_worker_counts(options),
    }
    found: dict[str, list[dict[str, Any]]] = {}
    for name in options.only:
        if options.device == "cpu" or name in ("short", "long"):
            source, found[name] = measures[name]()
            print_table(f"{TABLE_TITLES[name]} ({source}), {options.device}", found[name])
    if options.device == "cpu" and not supports_bfloat16("cpu"):
        print("\nbfloat16 is not measured: this processor has no instruction for it")
    settings = {"quick": options.quick, "device": options.device}
    if options.device == "cuda":
        settings["gpu"] = torch.cuda.get_device_name()
    print_json("training", settings, found)


if __name__ == "__main__":
    main()
