"""Quality filter: trained on 2,000 labelled texts, it scores millions of documents and writes those above a threshold.

    python -m experiments.quality_filter                                  # 2,000,000 documents, on this machine
    python -m experiments.quality_filter --documents 100000 --folder runs/filter
    python -m experiments.quality_filter --folder /shared/filter --submit http://HOST:8265

With --submit, training and prediction are jobs of a cluster whose nodes all see the folder. On this machine, fastText
does the same afterwards if it is installed. A folder that has documents already is not written again.
"""

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from experiments.quality_filter.documents import DROP, KEEP, PACKAGES, collect_documents, write_documents

EXPERIMENT = "experiments/quality_filter/filter.yaml"
NAME = "quality_filter"
FASTTEXT_TRAINING = """
import csv, sys
from pathlib import Path
import fasttext
folder = Path(sys.argv[1])
with (folder / "labelled.csv").open(newline="", encoding="utf-8") as stream:
    rows = [f"__label__{label} {' '.join(text.split())}\\n" for label, text in [*csv.reader(stream)][1:]]
(folder / "labelled.txt").write_text("".join(rows), encoding="utf-8")
model = fasttext.train_supervised(str(folder / "labelled.txt"), epoch=25, wordNgrams=2, thread=1, verbose=0)
model.save_model(str(folder / "model.bin"))
"""
FASTTEXT_PREDICTION = """
import sys
from pathlib import Path
import fasttext, numpy
import pyarrow as pa, pyarrow.parquet as pq
fasttext.FastText.eprint = lambda *args, **kwargs: None
folder, keep, min_score = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
model = fasttext.load_model(str(folder / "model.bin"))
(folder / "fasttext").mkdir()
for path in sorted((folder / "documents").glob("*.parquet")):
    source = pq.ParquetFile(path)
    schema = source.schema_arrow.append(pa.field("label", pa.string())).append(pa.field("score", pa.float32()))
    with pq.ParquetWriter(folder / "fasttext" / path.name, schema, compression="zstd") as target:
        for batch in source.iter_batches(1 << 16):
            labels, scores = model.predict(batch["text"].to_pylist())
            labels, scores = [label[0][9:] for label in labels], numpy.concatenate(scores)
            table = pa.table([*batch.columns, labels, scores], schema=schema)
            is_kept = (numpy.array(labels) == keep) & (scores >= min_score)
            target.write_table(table.filter(pa.array(is_kept)))
"""


class Usage(NamedTuple):
    """What a command took: seconds, and seconds of its cores."""

    seconds: float
    core_seconds: float


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the steps; a command that fails ends them with its exit code."""
    parser = argparse.ArgumentParser(prog="python -m experiments.quality_filter", description=__doc__.splitlines()[0])
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="settings of the training, by dotted path")
    parser.add_argument("--documents", type=int, default=2_000_000, help="number (default: %(default)s)")
    parser.add_argument("--min-score", type=float, default=0.9, help="of documents that are kept (default: 0.9)")
    parser.add_argument("--folder", type=Path, help="for all files (default: a temporary folder, deleted at the end)")
    parser.add_argument("--submit", metavar="URL", help="dashboard of a cluster, as in http://HOST:8265")
    parser.add_argument("--packages", nargs="+", default=PACKAGES, help="whose texts are the documents")
    options = parser.parse_args(arguments)
    if options.folder is None and options.submit:
        parser.error("--submit needs a --folder that every node of the cluster sees")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(options.folder or name).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / "documents").exists():
            print(f"reading the documents that are in {folder}", flush=True)
        else:
            print(f"writing {options.documents:,} documents to {folder}", flush=True)
            write_documents(folder, collect_documents(options.packages), options.documents)
        train, predict = build_commands(folder, options.settings, options.min_score, options.submit)
        run([sys.executable, "-m", "finetune_cnn", *train])
        usages = {"this project": run([sys.executable, "-m", "finetune_cnn", *predict])}
        if find_spec("fasttext") and not options.submit:
            shutil.rmtree(folder / "fasttext", ignore_errors=True)
            run([sys.executable, "-c", FASTTEXT_TRAINING, str(folder)], announced=False)
            command = [sys.executable, "-c", FASTTEXT_PREDICTION, str(folder), KEEP, str(options.min_score)]
            usages["fastText"] = run(command, announced=False)
        report(folder, usages, has_core_seconds=not options.submit)


def build_commands(
    folder: Path, settings: Sequence[str], min_score: float, address: str | None
) -> tuple[list[str], list[str]]:
    """Return the arguments of `finetune-cnn` that train the filter, and those that filter the documents."""
    prefix = ["submit", "--address", address, "--"] if address else []
    train = [EXPERIMENT, f"data.train={folder / 'labelled.csv'}", f"storage={folder / 'runs'}", *settings]
    out = ["--out", f"{folder / 'kept'}/", "--min-score", f"{KEEP}={min_score}", "--force"]
    predict = [str(folder / "runs" / NAME), str(folder / "documents"), *out]
    return [*prefix, "train", *train], [*prefix, "predict", *predict]


def run(command: Sequence[str], *, announced: bool = True) -> Usage:
    """Run a command to its end, and return what it took."""
    if announced:
        print(f"\n$ finetune-cnn {shlex.join(command[3:])}", flush=True)
    start = time.monotonic()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(process.returncode)
    return Usage(time.monotonic() - start, usage.ru_utime + usage.ru_stime)


def report(folder: Path, usages: dict[str, Usage], *, has_core_seconds: bool) -> None:
    """Print what each side kept, and what it took."""
    expected = count_labels(folder / "documents")
    total = sum(expected.values())
    print(f"\n{total:,} documents, of which {expected[KEEP]:,} are prose")
    for (side, usage), name in zip(usages.items(), ("kept", "fasttext"), strict=False):
        kept = count_labels(folder / name)
        num_kept = max(1, sum(kept.values()))
        print(
            f"{side}: kept {num_kept:,}, of which {kept[KEEP] / num_kept:.2%} are prose, "
            f"and {kept[KEEP] / max(1, expected[KEEP]):.2%} of the prose; {usage.seconds:.1f} s"
            + (f", {usage.core_seconds / total * 1e6:.1f} core seconds per million documents" * has_core_seconds)
        )


def count_labels(folder: Path) -> dict[str, int]:
    """Return the number of documents of each right label in the files of a folder."""
    import pyarrow.compute as pc
    import pyarrow.parquet

    counts = {KEEP: 0, DROP: 0}
    for path in folder.glob("*.parquet"):
        column = pyarrow.parquet.read_table(path, columns=["expected"])["expected"]
        for item in pc.value_counts(column).to_pylist():
            counts[item["values"]] += item["counts"]
    return counts


if __name__ == "__main__":
    main()
