"""Training with several workers on one machine: speed of two, and the work and messages of up to 16.

    python benchmarks/workers.py            # about five minutes, two cores
    python benchmarks/workers.py --quick

Network and texts are those of benchmarks/training.py (Kim's, texts of MR), non-static, each worker with one thread.

Table `speed`: examples per second of one worker and of two, alternately, by global batch size; medians of the rounds.
Table `scaling`: the processor's milliseconds of a step in each worker, without those of waiting for others, and what it
sends to others. Workers that share a core take longer in the caches, so with more workers than cores the times are
upper bounds. `times` is the speed with a core for each worker, relative to a single worker with the same batch, if
nothing but this work took time.
"""

import argparse
import functools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # to be run as a file

from benchmarks.reporting import Row, print_json, print_table
from benchmarks.training_loops import make_benchmark_corpus, project_steps
from jobs.training.exchange.shared_memory import SharedMemory
from jobs.training.process_group import ProcessGroup

DATA_FOLDER = Path(__file__).resolve().parents[2] / "shared" / "data"
NUM_ROWS = 10_662
MEASURED_ROUNDS = 5


def take_steps(steps: Iterator[int], count: int) -> int:
    """Take some steps, and return their rows."""
    return sum(next(steps) for _ in range(count))


def start_worker(rank: int, size: int, folder: str) -> tuple[ProcessGroup, ProcessGroup | None]:
    """Join the process group; return the workers' groups with gloo and with shared memory, if there is any."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/meet-{size}", rank=rank, world_size=size)
    shared = ProcessGroup(rank, size)
    return ProcessGroup(rank, size), shared if shared.enable_shared_memory() else None


def measure_speed(rank: int, folder: str, data: str, batch_sizes: list[int], seconds: float, rounds: int) -> None:
    """Train as one of two processes, together and alone alternately; the first one writes a file."""
    gloo, shared = start_worker(rank, 2, folder)
    groups = {"shared memory": shared, "gloo": gloo} if shared else {"gloo": gloo}
    corpus, source = make_benchmark_corpus("mr", NUM_ROWS, Path(data))
    table: list[Row] = []
    for batch_size in batch_sizes:
        make_steps = functools.partial(project_steps, corpus, "non-static", batch_size, "cpu")
        sides = {"alone": make_steps()} | {name: make_steps(group=group) for name, group in groups.items()}
        # The same number of steps in both processes, so that neither waits for the other.
        num_steps = max(2, round(seconds * 6000 / batch_size))
        speeds: dict[str, list[float]] = {name: [] for name in sides}
        sent = {"alone": 0.0}
        for number in range(rounds + 1):
            for name, steps in sides.items():
                torch.distributed.barrier()
                if name == "alone" and rank:
                    continue
                start, group = time.perf_counter(), groups.get(name, ProcessGroup())
                before = group.bytes_sent
                rows = take_steps(steps, num_steps if number else 2)
                if number:  # the first round is a warm-up
                    speeds[name].append(rows / (time.perf_counter() - start))
                    sent[name] = (group.bytes_sent - before) / num_steps
        medians = {name: statistics.median(values) for name, values in speeds.items()} if rank == 0 else {}
        table += [
            {"batch": batch_size, "workers": name if name == "alone" else f"2, {name}", "examples/s": speed,
             "times": speed / medians["alone"], "MB a step": sent[name] / 1e6}
            for name, speed in medians.items()
        ]  # fmt: skip
    if rank == 0:
        torch.save((source, table), f"{folder}/speed.pt")
    torch.distributed.destroy_process_group()


def measure_work(rank: int, size: int, folder: str, data: str, batch_sizes: list[int], steps: int) -> None:
    """Train as one of several processes; write the processor's seconds and the bytes of a step to a file."""
    _, group = start_worker(rank, size, folder) if size > 1 else (None, ProcessGroup())
    if group is None:
        raise SystemExit("this machine has no shared memory")
    if size == 1:
        torch.set_num_threads(1)
    waited = count_waiting()
    corpus, source = make_benchmark_corpus("mr", NUM_ROWS, Path(data))
    results = {}
    for batch_size in batch_sizes:
        training = project_steps(corpus, "non-static", batch_size, "cpu", group=group)
        take_steps(training, 2)
        samples = []
        for _ in range(MEASURED_ROUNDS):
            start, waiting, before = time.process_time(), waited[0], group.bytes_sent
            take_steps(training, steps)
            spent = time.process_time() - start - (waited[0] - waiting)
            samples.append((spent / steps, (group.bytes_sent - before) / steps))
        results[batch_size] = [statistics.median(values) for values in zip(*samples, strict=True)]
    torch.save((source, results), f"{folder}/work-{size}-{rank}.pt")
    if size > 1:
        torch.distributed.destroy_process_group()


def count_waiting() -> list[float]:
    """Return a list of one number, the processor's seconds that this process has waited for other workers so far."""
    waited = [0.0]
    wait = SharedMemory.wait_for_worker

    def timed_wait(self: SharedMemory, rank: int) -> None:
        start = time.process_time()
        wait(self, rank)
        waited[0] += time.process_time() - start

    SharedMemory.wait_for_worker = timed_wait  # type: ignore[method-assign]
    return waited


def compare_speeds(options: argparse.Namespace, folder: str) -> tuple[str, list[Row]]:
    """Return the source of the texts, and the speed of one and of two workers by batch size."""
    from torch.multiprocessing.spawn import spawn

    run = functools.partial(
        measure_speed, folder=folder, data=options.data, batch_sizes=options.batch_sizes, seconds=options.seconds,
        rounds=options.rounds,
    )  # fmt: skip
    spawn(run, nprocs=2)
    source, table = torch.load(f"{folder}/speed.pt")
    return source, table


def compare_work(options: argparse.Namespace, folder: str) -> tuple[str, list[Row]]:
    """Return the source of the texts, and the work and messages of a step by number of workers and batch size."""
    from torch.multiprocessing.spawn import spawn

    fixed, of_each = options.fixed_batch, options.rows_of_each
    alone: dict[int, float] = {}
    table: list[Row] = []
    source = ""
    for size in options.workers:
        sizes = sorted({fixed, *(of_each * number for number in (options.workers if size == 1 else [size]))})
        run = functools.partial(
            measure_work, size=size, folder=folder, data=options.data, batch_sizes=sizes, steps=options.steps
        )
        spawn(run, nprocs=size)
        workers = []
        for rank in range(size):
            source, results = torch.load(f"{folder}/work-{size}-{rank}.pt")
            workers.append(results)
        if size == 1:
            alone = {batch_size: seconds for batch_size, (seconds, _) in workers[0].items()}
        for growth, batch_size in (("fixed", fixed), ("growing", of_each * size)):
            seconds = statistics.mean(results[batch_size][0] for results in workers)
            sent = statistics.mean(results[batch_size][1] for results in workers)
            table.append(
                {"batch": growth, "rows": batch_size, "workers": size, "ms of a worker": seconds * 1e3,
                 "times": alone[batch_size] / seconds, "MB a step": sent / 1e6}
            )  # fmt: skip
    return source, sorted(table, key=lambda row: (str(row["batch"]), int(str(row["workers"]))))


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="under a minute")
    parser.add_argument("--only", choices=["speed", "scaling"], help="one of the tables")
    parser.add_argument("--data", default=str(DATA_FOLDER), help="folder with mr/ (default: %(default)s)")
    options = parser.parse_args()
    options.seconds, options.rounds, options.steps = (0.2, 1, 2) if options.quick else (1.0, 5, 4)
    options.batch_sizes = [64, 256] if options.quick else [64, 128, 256, 1024]
    options.workers = [1, 2] if options.quick else [1, 2, 4, 8, 16]
    options.fixed_batch, options.rows_of_each = 256, 128
    tables: dict[str, list[Row]] = {}
    with tempfile.TemporaryDirectory() as folder:
        if options.only != "scaling":
            source, tables["speed"] = compare_speeds(options, folder)
            print_table(f"Examples per second by global batch size ({source})", tables["speed"])
        if options.only != "speed":
            source, tables["scaling"] = compare_work(options, folder)
            print_table(f"A step by number of workers ({source})", tables["scaling"])
    print_json("workers", {"quick": options.quick, "cores": os.cpu_count()}, tables)


if __name__ == "__main__":
    main()
