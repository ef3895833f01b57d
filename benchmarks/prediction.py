"""Batch prediction of files by complete commands: rows per second and core, a cluster, memory, and rows after kills.

    pip install fasttext-wheel                # the extra `bench`; without it fastText is skipped
    python benchmarks/prediction.py           # 2,000,000 rows of twenty words, memory up to 10,000,000, ten kills
    python benchmarks/prediction.py --quick
    python benchmarks/prediction.py --only speed cluster

Only speed is measured: the network has random weights, default settings and a vocabulary of 60,000 words, whose
frequencies follow Zipf's law in the texts; a text occurs again after 100,000 rows. Each side is a new process, imports
and exit included, and the sides take turns; the tables show medians. A command's core seconds are those of its
processes together. fastText predicts lists of 16,384 texts or more on one thread, and writes labels with their
probabilities; its model has the same vocabulary. On the cluster, a Ray head of two CPUs, commands connect to it first.

Peak memory is that of the largest process, `sum` that of all processes of the command, where a page that several
processes share counts once. A kill is a kill -9 of the command or of one of its workers, in turn, at a random time
after it has written a part; then the command is repeated. Whenever the folder is complete, its rows are counted, and
while kills are left it is removed.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # to be run as a file

from benchmarks import prediction_sides as sides
from benchmarks.generated_data import save_random_checkpoint
from benchmarks.prediction_kills import measure_kills
from benchmarks.ray_head import start_ray_head
from benchmarks.reporting import Row, print_json, print_table
from cluster.package import REPOSITORY

NUM_WORDS, WORDS_PER_TEXT = 60_000, 20
WORDS = [f"w{number}" for number in range(NUM_WORDS)]
NUM_TEXTS = 100_000  # are different
GROUP_ROWS = 50_000
LINES_SHARE = 4  # of the rows are also in a tsv file
SAMPLE_S = 0.2
WRITE_SCRIPT = """
import sys
from pathlib import Path
from benchmarks.prediction import write_parquet
write_parquet(Path(sys.argv[1]), int(sys.argv[2]))
"""
TITLES = {
    "speed": "From parquet to parquet, complete commands (medians)",
    "lines": "From tsv to jsonl, complete commands (medians)",
    "cluster": "From parquet to parquet on a cluster of two CPUs, complete commands (medians)",
    "memory": "Peak memory by number of rows, two processes",
    "kills": "Rows after kills, two processes",
    "driver": "What the command does before its processes start",
}
PARTS = tuple(TITLES)


class Usage(NamedTuple):
    """What a command used: seconds, seconds of its cores, and the peak memory of its largest process in MB."""

    seconds: float
    core_seconds: float
    peak_mb: float


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="20,000 rows, one round, two kills, fewer sides")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="(default: all)")
    parser.add_argument("--rows", type=int, help="(default: 2,000,000)")
    parser.add_argument("--large-rows", type=int, help="most rows of the memory curve (default: 10,000,000)")
    parser.add_argument("--rounds", type=int, help="(default: 3)")
    parser.add_argument("--kills", type=int, help="(default: 10)")
    parser.add_argument("--prepare", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    num_rows = options.rows or (20_000 if options.quick else 2_000_000)
    if options.prepare:
        prepare(options.prepare, num_rows)
        return
    num_large = options.large_rows or (2 * num_rows if options.quick else 10_000_000)
    rounds, kills = options.rounds or (1 if options.quick else 3), options.kills or (2 if options.quick else 10)
    if not find_spec("fasttext"):
        print("fastText is skipped; to include it: pip install fasttext-wheel", file=sys.stderr)
    tables: dict[str, list[Row]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # In another process: Linux counts the memory of this one at the start of a command as that of the command.
        run_command([sys.executable, __file__, "--prepare", name, "--rows", str(num_rows)])
        if "speed" in options.only:
            tables["speed"] = measure_speed(sides.build_commands(folder, lines=False), num_rows, rounds)
        if "lines" in options.only:
            commands = sides.build_commands(folder, lines=True)
            tables["lines"] = measure_speed(commands, num_rows // LINES_SHARE, rounds)
        if "cluster" in options.only:
            tables["cluster"] = measure_cluster(folder, num_rows, rounds, quick=options.quick)
        if "memory" in options.only:
            counts = [num_large] if options.quick else [num_rows // 4, num_rows, num_large]
            tables["memory"] = measure_memory(folder, counts)
        if "kills" in options.only:
            tables["kills"] = measure_kills(folder, num_rows // LINES_SHARE, kills)
        if "driver" in options.only:
            tables["driver"] = measure_driver(folder, num_rows // LINES_SHARE, 20 if options.quick else 1000)
    for name, table in tables.items():
        print_table(TITLES[name], table)
    print_json("prediction", {"rows": num_rows, "rounds": rounds, "kills": kills}, tables)


def prepare(folder: Path, num_rows: int) -> None:
    """Write the checkpoint, the texts, and the model of fastText."""
    save_random_checkpoint(folder / "checkpoint", WORDS)
    write_parquet(folder / "texts.parquet", num_rows)
    with (folder / "texts.tsv").open("w", encoding="utf-8") as stream:
        texts = make_texts()
        stream.write("id\ttext\n")
        stream.writelines(f"{number}\t{texts[number % NUM_TEXTS]}\n" for number in range(num_rows // LINES_SHARE))
    if find_spec("fasttext"):
        sides.train_fasttext(folder, WORDS, WORDS_PER_TEXT)


def make_texts() -> list[str]:
    """Return the different texts."""
    import numpy as np

    ranks = np.random.default_rng(0).random((NUM_TEXTS, WORDS_PER_TEXT))
    numbers = (NUM_WORDS**ranks - 1).astype(int).tolist()  # Zipf's law: the density of the rank is its reciprocal
    return [" ".join([WORDS[number] for number in row]) for row in numbers]


def write_parquet(path: Path, num_rows: int) -> None:
    """Write texts with numbers as parquet."""
    import pyarrow as pa
    import pyarrow.parquet

    texts = pa.array(make_texts())
    with pyarrow.parquet.ParquetWriter(path, pa.schema({"id": pa.int64(), "text": pa.string()})) as writer:
        for start in range(0, num_rows, GROUP_ROWS):
            count = min(GROUP_ROWS, num_rows - start)
            ids = pa.array(range(start, start + count))
            writer.write_table(pa.table({"id": ids, "text": texts.slice(start % NUM_TEXTS, count)}))


def measure_speed(commands: Mapping[str, Sequence[str]], num_rows: int, rounds: int) -> list[Row]:
    """Return seconds, rows per second and peak memory of each side."""
    if rounds > 1:
        run_command(next(iter(commands.values())))  # compiles the kernels, if no process has done so
    results: dict[str, list[Usage]] = {side: [] for side in commands}
    for number in range(rounds):
        for side, command in commands.items():
            results[side].append(run_command(command))
            print(f"round {number + 1}, {side}: {results[side][-1].seconds:.1f} s", flush=True)
    table: list[Row] = []
    for side, usages in results.items():
        seconds, core_seconds, peak = (statistics.median(column) for column in zip(*usages, strict=True))
        row = {"side": side, "rows": num_rows, "seconds": seconds, "core seconds": core_seconds}
        row |= {"rows/s": num_rows / seconds, "rows/s and core": num_rows / core_seconds, "peak MB": peak}
        table.append(row)
    by_side = {row["side"]: row["seconds"] for row in table}
    for row in table:
        row["x first"] = by_side[next(iter(commands))] / row["seconds"]
        if sides.FASTTEXT in by_side:
            row["x fastText"] = by_side[sides.FASTTEXT] / row["seconds"]
    return table


def measure_cluster(folder: Path, num_rows: int, rounds: int, *, quick: bool) -> list[Row]:
    """Return seconds and rows per second of each side on a Ray head of this machine."""
    commands = sides.build_cluster_commands(folder)
    if quick:
        del commands[sides.NOOP_NUMPY], commands[sides.BATCHES]
    seconds: dict[str, list[float]] = {side: [] for side in commands}
    with start_ray_head() as head:
        for number in range(rounds + (not quick)):
            for side, command in commands.items():
                shutil.rmtree(folder / "cluster", ignore_errors=True)
                usage = run_command(command, head.environment)
                count = count_parquet_rows(folder / "cluster")
                if count != num_rows:
                    sys.exit(f"{side} wrote {count:,} of {num_rows:,} rows")
                print(f"cluster, round {number + 1}, {side}: {usage.seconds:.1f} s", flush=True)
                if number or quick:  # the first round fills caches of files and of Ray's workers
                    seconds[side].append(usage.seconds)
    medians = {side: statistics.median(values) for side, values in seconds.items()}
    return [
        {
            "side": side,
            "rows": num_rows,
            "seconds": value,
            "rows/s": num_rows / value,
            "x no-op": medians[sides.NOOP] / value,
        }
        for side, value in medians.items()
    ]


def count_parquet_rows(folder: Path) -> int:
    """Return the number of rows of the files of a folder."""
    import pyarrow.parquet

    return sum(pyarrow.parquet.read_metadata(path).num_rows for path in folder.glob("*.parquet"))


def measure_memory(folder: Path, counts: Sequence[int]) -> list[Row]:
    """Return the peak memory of commands for growing numbers of rows."""
    table: list[Row] = []
    for count in counts:
        run_command([sys.executable, "-c", WRITE_SCRIPT, str(folder / "memory.parquet"), str(count)])
        command = [*sides.predict(folder, "memory.parquet"), "--workers", "2", "--force", "--out", f"{folder}/memory/"]
        sums: list[float] = []
        usage = run_command(command, sums=sums)
        row: Row = {"rows": count, "input MB": (folder / "memory.parquet").stat().st_size / 1e6}
        table.append(row | {"seconds": usage.seconds, "peak MB": usage.peak_mb, "sum MB": max(sums, default=0)})
        print(f"memory, {count:,} rows: {usage.seconds:.1f} s", flush=True)
        shutil.rmtree(folder / "memory")
    return table


def measure_driver(folder: Path, num_rows: int, num_files: int) -> list[Row]:
    """Return the core seconds that the driver takes for the columns and the parts of a jsonl file and of many files."""
    from jobs.config.settings import DataSettings
    from jobs.datasets.chunks import divide_files, scan_columns
    from jobs.datasets.formats.rows import ReadOptions, SourceFile
    from jobs.inference.sharded_prediction import PART_BYTES

    options = ReadOptions(DataSettings(text_column="text"), labelled=False, with_records=True)
    texts = make_texts()
    with (folder / "texts.jsonl").open("w", encoding="utf-8") as stream:
        rows = ({"id": number, "text": texts[number % NUM_TEXTS]} for number in range(num_rows))
        stream.writelines(json.dumps(row) + "\n" for row in rows)
    write_parquet(folder / "small.parquet", GROUP_ROWS)
    table: list[Row] = []
    for name, count in (("texts.jsonl", 1), ("small.parquet", num_files)):
        files = [SourceFile(str(folder / name), "jsonl" if count == 1 else "parquet")] * count
        start = time.process_time()
        scan_columns(files, options)
        columns = time.process_time()
        parts = divide_files(files, options, PART_BYTES)
        row: Row = {"input": name, "files": count, "rows": num_rows if count == 1 else GROUP_ROWS * count}
        seconds = {"columns, s": columns - start, "parts, s": time.process_time() - columns}
        table.append(row | {"number of parts": len(parts)} | seconds)
    return table


def run_measured(command: Sequence[str]) -> tuple[float, float]:
    """Return the seconds of a command, and the peak memory of its largest process in MB; exit if it fails."""
    usage = run_command(command)
    return usage.seconds, usage.peak_mb


def run_command(
    command: Sequence[str], environment: Mapping[str, str] | None = None, *, sums: list[float] | None = None
) -> Usage:
    """Return what a command used; exit if it fails.

    sums: samples of the memory of all its processes together are appended to it, in MB.
    """
    start = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    ended = threading.Event()
    if sums is not None:
        threading.Thread(target=sample_memory, args=(process.pid, sums, ended), daemon=True).start()
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    ended.set()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{output}")
    seconds = time.perf_counter() - start
    return Usage(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1e3)


def sample_memory(pid: int, sums: list[float], ended: threading.Event) -> None:
    """Append the memory of a process and its children in MB to a list, again and again, until the event."""
    while not ended.wait(SAMPLE_S):
        total = 0
        with suppress(OSError):
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            for process in [str(pid), *children]:
                lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
                total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
            sums.append(total / 1e3)


if __name__ == "__main__":
    main()
