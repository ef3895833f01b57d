"""Batch prediction of files by complete commands: rows per second, peak memory, processes, and rows after kills.

    pip install fasttext-wheel                # the extra `bench`; without it fastText is skipped
    python benchmarks/prediction.py           # 500,000 rows of twenty words, three rounds, ten kills
    python benchmarks/prediction.py --quick

Only speed is measured: the network has random weights, default settings and a vocabulary of 60,000 words, whose
frequencies follow Zipf's law in the texts. Each side is a new process, imports and exit included, and the sides take
turns; the tables show medians. fastText reads lines, predicts lists of 256 on one thread, and writes labels with their
probabilities; its model has the same vocabulary. Peak memory is that of the largest process.

A kill is a kill -9 of the command or of one of its workers, in turn, at a random time after it has written a part; then
the command is repeated. Whenever the folder is complete, its rows are counted, and while kills are left it is removed.
"""

import argparse
import contextlib
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # to be run as a file

from benchmarks.generated_data import make_random_checkpoint
from benchmarks.reporting import Row, print_json, print_table
from cluster.package import REPOSITORY

PROJECT, FASTTEXT = "this project", "fastText"
NUM_WORDS, WORDS_PER_TEXT = 60_000, 20
WORDS = [f"w{number}" for number in range(NUM_WORDS)]
TIMEOUT_S = 1800
MAX_DELAY_S = 0.1  # between the first new part and a kill
FASTTEXT_SCRIPT = """
import itertools, json, sys
import fasttext
fasttext.FastText.eprint = lambda *args, **kwargs: None
model = fasttext.load_model(sys.argv[1])
with open(sys.argv[2], encoding="utf-8") as source, open(sys.argv[3], "w", encoding="utf-8") as target:
    next(source)
    while lines := [line.rstrip("\\n").split("\\t") for line in itertools.islice(source, 256)]:
        labels, scores = model.predict([text for _, text in lines])
        for (number, text), label, score in zip(lines, labels, scores, strict=True):
            row = {"id": number, "text": text, "label": label[0][9:], "score": round(float(score[0]), 6)}
            target.write(json.dumps(row, ensure_ascii=False) + "\\n")
"""
# Parts of the size of those of a larger input.
KILLED_SCRIPT = """
import sys
from jobs.__main__ import main
from jobs.inference import sharded_prediction
sharded_prediction.PART_BYTES = int(sys.argv[1])
sys.exit(main(sys.argv[2:]))
"""


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="20,000 rows, one round, two kills")
    parser.add_argument("--rows", type=int, help="(default: 500,000)")
    parser.add_argument("--rounds", type=int, help="(default: 3)")
    parser.add_argument("--kills", type=int, help="(default: 10)")
    parser.add_argument("--prepare", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.prepare:
        prepare(options.prepare, options.rows)
        return
    num_rows = options.rows or (20_000 if options.quick else 500_000)
    rounds, kills = options.rounds or (1 if options.quick else 3), options.kills or (2 if options.quick else 10)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # In another process: Linux counts the memory of this one at the start of a command as that of the command.
        run_measured([sys.executable, __file__, "--prepare", name, "--rows", str(num_rows)])
        speed = measure_speed(folder, num_rows, rounds)
        memory = measure_memory(folder, num_rows)
        killed = measure_kills(folder, num_rows, kills)
    print_table("Complete commands, medians", speed)
    print_table("Peak memory by number of rows", memory)
    print_table("Rows after kills, two workers", killed)
    settings = {"rows": num_rows, "rounds": rounds, "kills": kills}
    print_json("prediction", settings, {"speed": speed, "memory": memory, "kills": killed})


def prepare(folder: Path, num_rows: int) -> None:
    """Write the checkpoint, the texts, and the model of fastText."""
    make_random_checkpoint(folder / "checkpoint", WORDS)
    for part, count in (("", num_rows), ("-quarter", num_rows // 4)):
        write_texts(folder, f"texts{part}", count)
    if find_spec("fasttext"):
        train_fasttext(folder)


def write_texts(folder: Path, name: str, num_rows: int) -> None:
    """Write texts with numbers as tsv and parquet."""
    import numpy as np
    import pyarrow
    import pyarrow.parquet

    ranks = np.random.default_rng(0).random((num_rows, WORDS_PER_TEXT))
    numbers = (NUM_WORDS**ranks - 1).astype(int).tolist()  # Zipf's law: the density of the rank is its reciprocal
    texts = [" ".join([f"w{number}" for number in row]) for row in numbers]
    with (folder / f"{name}.tsv").open("w", encoding="utf-8") as stream:
        stream.write("id\ttext\n")
        stream.writelines(f"{number}\t{text}\n" for number, text in enumerate(texts))
    table = pyarrow.table({"id": range(num_rows), "text": texts})
    pyarrow.parquet.write_table(table, folder / f"{name}.parquet")


def build_commands(folder: Path) -> dict[str, list[str]]:
    """Return the command of each side; it reads and writes files in the folder."""
    predict = [sys.executable, "-m", "finetune_cnn", "predict", str(folder / "checkpoint")]
    tsv, parquet, out = (str(folder / name) for name in ("texts.tsv", "texts.parquet", "out"))
    commands = {
        f"{PROJECT}, tsv to jsonl": [*predict, tsv, "--out", f"{out}.jsonl", "--force"],
        f"{PROJECT}, parquet to parquet": [*predict, parquet, "--out", f"{out}.parquet", "--force"],
        f"{PROJECT}, to a folder, one process": [*predict, parquet, "--out", f"{out}-1/", "--workers", "1", "--force"],
        f"{PROJECT}, to a folder, two": [*predict, parquet, "--out", f"{out}-2/", "--workers", "2", "--force"],
    }
    if find_spec("fasttext"):
        model = str(folder / "model.bin")
        commands[f"{FASTTEXT}, tsv to jsonl"] = [sys.executable, "-c", FASTTEXT_SCRIPT, model, tsv, f"{out}-fasttext"]
    else:
        print("fastText is skipped; to include it: pip install fasttext-wheel", file=sys.stderr)
    return commands


def train_fasttext(folder: Path) -> None:
    """Write a model of fastText with the vocabulary of the checkpoint and two classes."""
    import fasttext

    fasttext.FastText.eprint = lambda *args, **kwargs: None
    path = folder / "train.txt"
    texts = [" ".join(WORDS[start : start + WORDS_PER_TEXT]) for start in range(0, NUM_WORDS, WORDS_PER_TEXT)]
    lines = (f"__label__{'np'[number % 2]} {text}\n" for number, text in enumerate(texts))
    path.write_text("".join(lines), encoding="utf-8")
    fasttext.train_supervised(str(path), epoch=1, thread=1, verbose=0).save_model(str(folder / "model.bin"))


def measure_speed(folder: Path, num_rows: int, rounds: int) -> list[Row]:
    """Return seconds, rows per second and peak memory of each side."""
    commands = build_commands(folder)
    results: dict[str, list[tuple[float, float]]] = {side: [] for side in commands}
    for number in range(rounds):
        for side, command in commands.items():
            results[side].append(run_measured(command))
            print(f"round {number + 1}, {side}: {results[side][-1][0]:.1f} s", flush=True)
    table = []
    first = statistics.median(seconds for seconds, _ in next(iter(results.values())))
    for side, values in results.items():
        seconds, peak = (statistics.median(column) for column in zip(*values, strict=True))
        rate = num_rows / seconds
        table.append({"side": side, "seconds": seconds, "rows/s": rate, "x first": seconds / first, "peak MB": peak})
    return table


def measure_memory(folder: Path, num_rows: int) -> list[Row]:
    """Return the peak memory for a quarter of the rows and for all of them."""
    predict = [sys.executable, "-m", "finetune_cnn", "predict", str(folder / "checkpoint")]
    table: list[Row] = []
    for name, count in (("texts-quarter", num_rows // 4), ("texts", num_rows)):
        row: Row = {"rows": count}
        for source, target in ((".tsv", ".jsonl"), (".parquet", ".parquet")):
            command = [*predict, str(folder / f"{name}{source}"), "--out", str(folder / f"memory{target}"), "--force"]
            row[f"{source[1:]} to {target[1:]}, MB"] = run_measured(command)[1]
        table.append(row)
    return table


def run_measured(command: list[str]) -> tuple[float, float]:
    """Return the seconds of a command, and the peak memory of its largest process in MB; exit if it fails."""
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{output}")
    return time.perf_counter() - start, usage.ru_maxrss / 1e3


def measure_kills(folder: Path, num_rows: int, kills: int) -> list[Row]:
    """Return the numbers of kills, and of rows in all complete folders; exit if there were fewer kills."""
    out = folder / "killed"
    part_bytes = str((folder / "texts.tsv").stat().st_size // (4 * kills))
    arguments = ["predict", str(folder / "checkpoint"), str(folder / "texts.tsv"), "--out", f"{out}/"]
    command = [sys.executable, "-c", KILLED_SCRIPT, part_bytes, *arguments, "--format", "jsonl", "--workers", "2"]
    choose = random.Random(0)
    killed: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for _ in range(5 * kills):  # a fast machine may complete a folder before the kill
        written = find_parts(out)
        victim = ("command", "worker")[killed.total() % 2] if killed.total() < kills else None
        is_killed, status = run_killed(command, out, victim, choose)
        if victim and is_killed:
            killed[victim] += 1
        parts = find_parts(out)
        total["parts written again"] += sum(parts[path] != written[path] for path in written)
        if status == 0:
            total.update(check_rows(out, num_rows))
            if killed.total() == kills:
                return [{"kills of the command": killed["command"], "of a worker": killed["worker"], **total}]
            shutil.rmtree(out)
    sys.exit(f"only {killed.total()} of {kills} kills, or no complete folder after them; use more --rows")


def run_killed(command: list[str], out: Path, victim: str | None, choose: random.Random) -> tuple[bool, int]:
    """Run a command, kill it or a worker after it has written a part; return whether that was done, and the status."""
    num_parts = len(find_parts(out))
    is_killed = False
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + TIMEOUT_S
        while victim and process.poll() is None and len(find_parts(out)) == num_parts and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(choose.random() * MAX_DELAY_S)
        if victim == "command":
            process.kill()  # nothing happens if it has ended
        elif victim and process.poll() is None:
            workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            with contextlib.suppress(IndexError, ProcessLookupError):  # they have ended
                os.kill(int(choose.choice(workers)), signal.SIGKILL)
                is_killed = True
        status = process.wait(TIMEOUT_S)
    return is_killed or status == -signal.SIGKILL, status


def find_parts(out: Path) -> dict[Path, int]:
    """Return the complete parts of a folder with the times when they were written."""
    return {path: path.stat().st_mtime_ns for path in out.glob("part-*")}


def check_rows(out: Path, num_rows: int) -> dict[str, int]:
    """Return what a complete folder has."""
    parts = find_parts(out)
    ids = Counter(line.split('"id": "')[1].split('"')[0] for path in parts for line in path.open(encoding="utf-8"))
    return {
        "folders": 1, "parts": len(parts), "rows": ids.total(),
        "lost": len({str(number) for number in range(num_rows)} - ids.keys()),
        "duplicated": ids.total() - len(ids), "partial files": len(list(out.glob(".part-*"))),
    }  # fmt: skip


if __name__ == "__main__":
    main()
