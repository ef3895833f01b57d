"""Sides of benchmarks/prediction.py: commands of this project, and scripts of fastText and of Ray Data."""

import sys
from importlib.util import find_spec
from pathlib import Path

PROJECT, FASTTEXT = "this project", "fastText"
FILE, FOLDER, TWO_PROCESSES = f"{PROJECT}, to a file", f"{PROJECT}, to a folder", f"{PROJECT}, two processes"
CLUSTER, BATCHES = f"{PROJECT}, predict on a cluster", f"{PROJECT}, BatchClassifier in Ray Data"
NOOP, NOOP_NUMPY = "Ray Data, no-op map", "Ray Data, no-op map of numpy arrays"

FASTTEXT_LINES = """
import itertools, json, sys
import fasttext
fasttext.FastText.eprint = lambda *args, **kwargs: None
model = fasttext.load_model(sys.argv[1])
with open(sys.argv[2], encoding="utf-8") as source, open(sys.argv[3], "w", encoding="utf-8") as target:
    next(source)
    while lines := [line.rstrip("\\n").split("\\t") for line in itertools.islice(source, 16_384)]:
        labels, scores = model.predict([text for _, text in lines])
        for (number, text), label, score in zip(lines, labels, scores, strict=True):
            row = {"id": number, "text": text, "label": label[0][9:], "score": round(float(score[0]), 6)}
            target.write(json.dumps(row, ensure_ascii=False) + "\\n")
"""
FASTTEXT_PARQUET = """
import sys
import fasttext, numpy
import pyarrow as pa, pyarrow.parquet as pq
fasttext.FastText.eprint = lambda *args, **kwargs: None
model = fasttext.load_model(sys.argv[1])
source = pq.ParquetFile(sys.argv[2])
schema = source.schema_arrow.append(pa.field("label", pa.string())).append(pa.field("score", pa.float32()))
with pq.ParquetWriter(sys.argv[3], schema, compression="zstd") as target:
    for batch in source.iter_batches(1 << 17):
        labels, scores = model.predict(batch["text"].to_pylist())
        columns = [[label[0][9:] for label in labels], numpy.concatenate(scores)]
        target.write_table(pa.table([*batch.columns, *columns], schema=schema))
"""
RAY_DATA = """
import logging, sys
import ray.data
ray.init(log_to_driver=False, logging_level="ERROR")
logging.getLogger("ray.data").setLevel(logging.ERROR)
ray.data.DataContext.get_current().enable_progress_bars = False
source, target, step, checkpoint = sys.argv[1:]
texts = ray.data.read_parquet(source)
if step == "classify":
    import finetune_cnn
    pool = ray.data.ActorPoolStrategy(min_size=1, max_size=2, initial_size=2)
    arguments = {"fn_constructor_args": [checkpoint], "fn_constructor_kwargs": {"table_dtype": "int16"}}
    rows = texts.map_batches(
        finetune_cnn.BatchClassifier, batch_format="pyarrow", batch_size=16_384, compute=pool, **arguments
    )
else:
    rows = texts.map_batches(lambda batch: batch, batch_format=step)
rows.write_parquet(target)
"""


def build_commands(folder: Path, *, lines: bool) -> dict[str, list[str]]:
    """Return the commands on one machine, by side; they read and write files in the folder.

    lines: from tsv to jsonl instead of from parquet to parquet.
    """
    out = str(folder / "out")
    if lines:
        commands = {FILE: [*predict(folder, "texts.tsv"), "--out", f"{out}.jsonl", "--force"]}
        script, source, target = FASTTEXT_LINES, "texts.tsv", "out-fasttext.jsonl"
    else:
        command = predict(folder, "texts.parquet")
        commands = {
            FOLDER: [*command, "--out", f"{out}-1/", "--workers", "1", "--force"],
            TWO_PROCESSES: [*command, "--out", f"{out}-2/", "--workers", "2", "--force"],
            FILE: [*command, "--out", f"{out}.parquet", "--force"],
        }
        script, source, target = FASTTEXT_PARQUET, "texts.parquet", "out-fasttext.parquet"
    if find_spec("fasttext"):
        paths = (str(folder / name) for name in ("model.bin", source, target))
        commands[FASTTEXT] = [sys.executable, "-c", script, *paths]
    return commands


def build_cluster_commands(folder: Path) -> dict[str, list[str]]:
    """Return the commands on a cluster, by side; each writes into a folder of its own that must not exist."""
    source, checkpoint = str(folder / "texts.parquet"), str(folder / "checkpoint")
    ray_data = {NOOP: "pyarrow", NOOP_NUMPY: "numpy", BATCHES: "classify"}
    commands = {
        side: [sys.executable, "-c", RAY_DATA, source, str(folder / "cluster"), step, checkpoint]
        for side, step in ray_data.items()
    }
    return {CLUSTER: [*predict(folder, "texts.parquet"), "--out", f"{folder}/cluster/"]} | commands


def predict(folder: Path, source: str) -> list[str]:
    """Return the start of a command that labels a file of the folder."""
    return [sys.executable, "-m", "finetune_cnn", "predict", str(folder / "checkpoint"), str(folder / source)]


def train_fasttext(folder: Path, words: list[str], words_per_text: int) -> None:
    """Write a model of fastText with a vocabulary and two classes."""
    import fasttext

    fasttext.FastText.eprint = lambda *args, **kwargs: None
    path = folder / "train.txt"
    texts = [" ".join(words[start : start + words_per_text]) for start in range(0, len(words), words_per_text)]
    lines = (f"__label__{'np'[number % 2]} {text}\n" for number, text in enumerate(texts))
    path.write_text("".join(lines), encoding="utf-8")
    fasttext.train_supervised(str(path), epoch=1, thread=1, verbose=0).save_model(str(folder / "model.bin"))
