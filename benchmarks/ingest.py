"""Reading, tokenizing and numbering of large files by complete processes: seconds, words per second, peak memory.

    pip install fasttext-wheel            # the extra `bench`; without it fastText is skipped
    python benchmarks/ingest.py           # 500,000 rows of twenty words, three rounds; 10,000,000 rows, one round
    python benchmarks/ingest.py --quick
    python benchmarks/ingest.py --only ingest      # without the large file

Each side is a new process, imports and exit included, and the sides take turns; the tables show medians. This project
reads the rows from tsv, parquet, jsonl or fastText lines, draws the validation and test parts, tokenizes, looks up
vectors of 100 dimensions for 60,000 words, whose frequencies follow Zipf's law, and numbers the tokens: everything
before training. `in memory` has texts and tokens as Python objects, as small files are read. The first run writes the
cache, from which the second one reads. The last table is the order of an epoch: a process that has the tokens of the
large file's number of texts makes the batches of an epoch, with the texts in blocks, and with all in one block.

fastText reads lines with `__label__`, on one thread as it always does, and trains one epoch of one dimension: it has no
command that only reads. Peak memory is the resident memory of the process, pages of mapped files included.
"""

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # to be run as a file

from benchmarks.prediction import run_measured
from benchmarks.reporting import Row, print_json, print_table
from jobs.training.corpora.token_blocks import BLOCK_TOKENS

IN_MEMORY, FIRST, SECOND = "in memory", "first run", "second run"
FIRST_LINES, FASTTEXT = "first run, fastText lines", "fastText, fastText lines"
FIRST_PARQUET, FIRST_JSONL = "first run, parquet", "first run, jsonl"
SIDES = [IN_MEMORY, FIRST, SECOND, FIRST_PARQUET, FIRST_JSONL, FIRST_LINES, FASTTEXT]
FILES = {FIRST_LINES: "rows.txt", FASTTEXT: "rows.txt", FIRST_PARQUET: "rows.parquet", FIRST_JSONL: "rows.jsonl"}
NUM_WORDS, WORDS_PER_TEXT, DIMENSIONS = 60_000, 20, 100
CHUNK_ROWS = 10_000
TABLES = ["ingest", "large", "order"]
LOAD_SCRIPT = """
import sys
from jobs.config.experiment import load_experiment
from jobs.datasets import readers
from jobs.training.corpora.building import load_inputs
readers.MIN_PREPARED_BYTES = int(sys.argv[1])
load_inputs(load_experiment(None, sys.argv[2:]))
"""
ORDER_SCRIPT = """
import sys
import numpy as np
from jobs.datasets.tokenizer import Tokens
from jobs.training.corpora import token_blocks
from jobs.training.corpora.block_reader import BlockReader
rows, words, token_blocks.BLOCK_TOKENS, makes_batches = map(int, sys.argv[1:])
tokens = Tokens(np.ones(rows * words, np.int32), np.arange(0, rows * words + 1, words))
if makes_batches:
    for _ in BlockReader(token_blocks.TokenBlocks(tokens), 2, 256, 0).iter_batches(1):
        pass
"""
FASTTEXT_SCRIPT = """
import sys
import fasttext
fasttext.train_supervised(sys.argv[1], dim=1, epoch=1, thread=1, verbose=0)
"""


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="20,000 and 60,000 rows, one round")
    parser.add_argument("--rows", type=int, help="(default: 500,000)")
    parser.add_argument("--large-rows", type=int, help="0: none (default: 10,000,000)")
    parser.add_argument("--rounds", type=int, help="(default: 3)")
    parser.add_argument("--only", nargs="+", choices=TABLES, default=TABLES, help="some of the tables")
    options = parser.parse_args()
    num_rows = options.rows or (20_000 if options.quick else 500_000)
    rounds = options.rounds or (1 if options.quick else 3)
    num_large = options.large_rows
    if num_large is None:
        num_large = 60_000 if options.quick else 10_000_000
    tables = measure_processes(num_rows, num_large, rounds, options.only)
    if num_large and "order" in options.only:
        tables["order"] = measure_order(num_large, rounds)
        print_table(f"Order of an epoch of {num_large:,} texts", tables["order"])
    print_json("ingest", {"rows": num_rows, "large_rows": num_large, "rounds": rounds}, tables)


def measure_processes(num_rows: int, num_large: int, rounds: int, names: Sequence[str]) -> dict[str, list[Row]]:
    """Return the tables of complete processes, and print them."""
    if find_spec("fasttext") is None:
        print("fastText is skipped; to include it: pip install fasttext-wheel", file=sys.stderr)
    tables = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_vectors(folder / "vectors.bin")
        write_rows(folder, 1000)
        run_measured(build_command(folder, FIRST))  # compiles the kernels, if no process has done so
        if "ingest" in names:
            tables["ingest"] = measure(folder, num_rows, rounds, SIDES)
            print_table(f"Ingest of {num_rows:,} rows", tables["ingest"])
        if num_large and "large" in names:
            tables["large"] = measure(folder, num_large, 1, [FIRST, SECOND])
            print_table(f"Ingest of {num_large:,} rows", tables["large"])
    return tables


def measure(folder: Path, num_rows: int, rounds: int, sides: list[str]) -> list[Row]:
    """Return the medians of sides, which read the same rows."""
    write_rows(folder, num_rows)
    sides = [side for side in sides if side != FASTTEXT or find_spec("fasttext")]
    results: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}
    for number in range(rounds):
        for side in sides:
            if side != SECOND:  # which follows the first run
                shutil.rmtree(folder / "runs", ignore_errors=True)
            results[side].append(run_measured(build_command(folder, side)))
            print(f"round {number + 1}, {side}: {results[side][-1][0]:.1f} s", flush=True)
    table = []
    for side, values in results.items():
        seconds, peak = (statistics.median(column) for column in zip(*values, strict=True))
        rate = num_rows * WORDS_PER_TEXT / seconds
        table.append({"side": side, "seconds": seconds, "words/s": rate, "peak MB": peak})
    return table


def measure_order(num_rows: int, rounds: int) -> list[Row]:
    """Return seconds and additional memory, beyond those of a process that only has the tokens; medians."""
    block = min(BLOCK_TOKENS, num_rows * WORDS_PER_TEXT // 3)  # the small form has several blocks too
    sides = {"tokens alone": (block, 0), "one block": (1 << 60, 1), "blocks": (block, 1)}
    command = [sys.executable, "-c", ORDER_SCRIPT, str(num_rows), str(WORDS_PER_TEXT)]
    results: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}
    for _ in range(rounds):
        for side, values in sides.items():
            results[side].append(run_measured([*command, *map(str, values)]))
    medians = {
        side: [statistics.median(column) for column in zip(*values, strict=True)] for side, values in results.items()
    }
    base_seconds, base_peak = medians.pop("tokens alone")
    return [
        {"side": side, "seconds": seconds - base_seconds, "additional MB": peak - base_peak}
        for side, (seconds, peak) in medians.items()
    ]


def build_command(folder: Path, side: str) -> list[str]:
    """Return the command of a side."""
    path = folder / FILES.get(side, "rows.tsv")
    if side == FASTTEXT:
        return [sys.executable, "-c", FASTTEXT_SCRIPT, str(path)]
    min_bytes = 1 << 60 if side == IN_MEMORY else 0
    values = [f"data.train={path}", f"vectors.path={folder / 'vectors.bin'}", f"storage={folder / 'runs'}"]
    return [sys.executable, "-c", LOAD_SCRIPT, str(min_bytes), *values]


def write_rows(folder: Path, num_rows: int) -> None:
    """Write the same rows of four labels in every format."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet

    random = np.random.default_rng(0)
    words = [f"wd{number}" for number in range(NUM_WORDS)]
    schema = pa.schema({"label": pa.string(), "text": pa.string()})
    with (
        (folder / "rows.tsv").open("w") as tsv,
        (folder / "rows.txt").open("w") as lines,
        (folder / "rows.jsonl").open("w") as jsonl,
        pyarrow.parquet.ParquetWriter(folder / "rows.parquet", schema) as parquet,
    ):
        tsv.write("label\ttext\n")
        for start in range(0, num_rows, CHUNK_ROWS):
            count = min(CHUNK_ROWS, num_rows - start)
            ranks = random.random((count, WORDS_PER_TEXT))
            numbers = (NUM_WORDS**ranks - 1).astype(int).tolist()  # Zipf's law
            labels = [f"c{number}" for number in random.integers(0, 4, count)]
            texts = [" ".join([words[number] for number in row]) for row in numbers]
            rows = list(zip(labels, texts, strict=True))
            tsv.writelines(f"{label}\t{text}\n" for label, text in rows)
            lines.writelines(f"__label__{label} {text}\n" for label, text in rows)
            jsonl.writelines(json.dumps({"text": text, "label": label}) + "\n" for label, text in rows)
            parquet.write_table(pa.table([labels, texts], schema=schema))


def write_vectors(path: Path) -> None:
    """Write random vectors of all words as a binary word2vec file."""
    import numpy as np

    vectors = np.random.default_rng(0).normal(size=(NUM_WORDS, DIMENSIONS)).astype("<f4")
    with path.open("wb") as stream:
        stream.write(f"{NUM_WORDS} {DIMENSIONS}\n".encode())
        for number, vector in enumerate(vectors):
            stream.write(f"wd{number} ".encode() + vector.tobytes() + b"\n")


if __name__ == "__main__":
    main()
