"""From raw text to label on one thread: the service's classifier beside torch and fastText, and its cold start.

    pip install fasttext-wheel                # the extra `bench`
    python benchmarks/inference.py            # about two minutes
    python benchmarks/inference.py --quick

Texts are MR's, one at a time or in lists; only speed is measured, so the network's weights are random, at the
default settings and with MR's own vocabulary. `torch, this project` is what `python -m jobs predict` runs;
`torch, conv1d` is Kim's network as it is usually written, over texts padded to the longest of a list. Each side
tokenises with `jobs.datasets.tokenizer`, except fastText, which splits at spaces; its model is trained on MR for five
epochs.
Sides take turns, five rounds; the table holds medians. The cold start is a process of its own, from its start to
the answer to a first text; `first on this machine` also compiles, and computes the table.
"""

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

for _threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_threads] = "1"  # before numpy and torch are imported
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # to be run as a file

from benchmarks.labelled_datasets import DATA_FOLDER
from benchmarks.reporting import print_json, print_table
from cluster.package import REPOSITORY

PROJECT = "this project"
BATCH_SIZES = (1, 32, 256)
COLD_START_SCRIPT = """
import sys
from jobs.model import checkpoint
from {module} import {name} as made
{run}
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""
COLD_START_PROJECT = """
loaded = made.load_models(made.parse_user_config({"checkpoint": sys.argv[1]})).primary
print(loaded.try_fast_path(b'{"inputs": "a fine film"}', flat=True))
"""
COLD_START_TORCH = "print(made(checkpoint.load_checkpoint(sys.argv[1]), ['a fine film']).argmax())"


def main() -> None:
    """Measure every side and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer texts, one round")
    parser.add_argument("--data", type=Path, default=DATA_FOLDER, help="folder of the sets (default: %(default)s)")
    options = parser.parse_args()
    source = options.data / "mr" / "all.tsv"
    if not source.exists():
        sys.exit(f"{source}: no such file; name the data with --data")
    rows = [line.split("\t", 1) for line in source.read_text(encoding="utf-8").splitlines()[1:]]
    random.Random(0).shuffle(rows)
    count, rounds = (512, 1) if options.quick else (2048, 5)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = _checkpoint([text for _, text in rows], Path(folder, "checkpoint"))
        speeds = _speeds(_sides(checkpoint, rows, folder), [text for _, text in rows[:count]], rounds)
        lists = _twenty_words(checkpoint, [text for _, text in rows], rounds)
        cold = _cold_starts(Path(folder), 1 if options.quick else 3)
    print_table("Raw text to label, microseconds a text, one thread, medians", speeds)
    print_table("Texts of twenty tokens in lists of 256, one thread", lists)
    print_table("From process start to the first answer", cold)
    print_json("inference", {"texts": count, "rounds": rounds}, {"speed": speeds, "twenty words": lists, "cold": cold})


def _checkpoint(texts: list[str], folder: Path) -> Any:
    """Return a checkpoint with random weights for the vocabulary of some texts, written to a folder too."""
    import numpy as np

    from jobs.config.experiment import Experiment
    from jobs.datasets.tokenizer import count_words, tokenize
    from jobs.model.checkpoint import Checkpoint, save_checkpoint
    from jobs.model.network import Network

    experiment = Experiment()
    words = [word for word, _ in count_words(map(tokenize, texts), experiment.text.max_words)]
    vectors = np.random.default_rng(0).normal(size=(len(words) + 2, 300)).astype(np.float32)
    vectors[0] = 0
    network = Network(experiment.model, vectors, 2)
    weights = {name: value.numpy() for name, value in network.weights().items()}
    checkpoint = Checkpoint(experiment, ["neg", "pos"], words, weights, {"epoch": 1})
    save_checkpoint(folder, checkpoint)
    return checkpoint


def _sides(checkpoint: Any, rows: list[list[str]], folder: str) -> dict[str, Callable[[list[str]], Any]]:
    """Return for each side what turns a list of texts into labels."""
    import numpy as np
    import torch

    from jobs.datasets.tokenizer import Vocabulary, encode, tokenize
    from jobs.inference.classifier import Classifier
    from jobs.inference.predict import build_network, predict_logits

    torch.set_num_threads(1)
    classifier, network, vocabulary = Classifier(checkpoint), build_network(checkpoint), Vocabulary(checkpoint.words)
    longest = checkpoint.experiment.text.max_tokens

    def by_predict(texts: list[str]) -> Any:
        tokens = encode((tokenize(text) for text in texts), vocabulary, longest)
        return predict_logits(network, tokens, np.arange(len(texts))).argmax(1).tolist()

    sides = {
        PROJECT: lambda texts: classifier.predict_logits(texts).argmax(1).tolist(),
        "torch, this project": by_predict,
        "torch, conv1d": _conv1d(checkpoint, vocabulary),
    }
    if find_spec("fasttext"):
        sides["fastText"] = _fasttext(rows, folder)
    else:
        print("fastText is left out: pip install fasttext-wheel", file=sys.stderr)
    return sides


def _conv1d(checkpoint: Any, vocabulary: Any) -> Callable[[list[str]], Any]:
    """Return Kim's network with torch's own layers."""
    import torch
    from torch import nn

    from jobs.datasets.tokenizer import tokenize

    model = checkpoint.experiment.model
    vectors = nn.Embedding(len(vocabulary), 300, padding_idx=0)
    filters = nn.ModuleList(nn.Conv1d(300, model.feature_maps, width) for width in model.filter_widths)
    output = nn.Linear(model.feature_maps * len(filters), 2)

    @torch.inference_mode()
    def classify(texts: list[str]) -> Any:
        ids = [torch.tensor(vocabulary.encode(tokenize(text))) for text in texts]
        tokens = nn.utils.rnn.pad_sequence(ids, batch_first=True)
        tokens = nn.functional.pad(tokens, (0, max(0, max(model.filter_widths) - tokens.shape[1])))
        rows = vectors(tokens).transpose(1, 2)  # (texts, 300, length)
        return output(torch.cat([layer(rows).relu().amax(2) for layer in filters], 1)).argmax(1).tolist()

    return classify


def _fasttext(rows: list[list[str]], folder: str) -> Callable[[list[str]], Any]:
    """Return fastText's own model, trained shortly."""
    import fasttext

    fasttext.FastText.eprint = lambda *words, **given: None
    path = Path(folder, "train.txt")
    path.write_text("".join(f"__label__{label} {text}\n" for label, text in rows), encoding="utf-8")
    model = fasttext.train_supervised(str(path), epoch=5, thread=1, verbose=0)
    return lambda texts: model.predict(texts)[0]


def _speeds(sides: dict[str, Callable], texts: list[str], rounds: int) -> list[dict[str, Any]]:
    found: dict[tuple[str, int], list[float]] = {(side, batch): [] for side in sides for batch in BATCH_SIZES}
    for _ in range(rounds):
        for side, batch in found:
            found[side, batch].append(_seconds(sides[side], texts, batch) / len(texts) * 1e6)
    medians = {key: statistics.median(values) for key, values in found.items()}
    table = []
    for side in sides:
        row: dict[str, Any] = {"side": side}
        for batch in BATCH_SIZES:
            row[f"lists of {batch}"] = round(medians[side, batch], 1)
            row[f"x ours, {batch}"] = round(medians[side, batch] / medians[PROJECT, batch], 2)
        table.append(row)
    return table


def _seconds(classify: Callable[[list[str]], Any], texts: list[str], batch: int) -> float:
    some = texts if batch > 1 else texts[: len(texts) // 2]
    classify(some[:batch])
    start = time.perf_counter()
    for first in range(0, len(some), batch):
        classify(some[first : first + batch])
    return (time.perf_counter() - start) * len(texts) / len(some)


def _twenty_words(checkpoint: Any, texts: list[str], rounds: int) -> list[dict[str, Any]]:
    from jobs.datasets.tokenizer import tokenize
    from jobs.inference.classifier import Classifier

    some = [" ".join(tokens[:20]) for tokens in map(tokenize, texts) if len(tokens) >= 20][:4096]
    classifier = Classifier(checkpoint)
    speeds = [
        len(some) / _seconds(lambda each: classifier.predict_logits(each).argmax(1).tolist(), some, 256)
        for _ in range(rounds)
    ]
    return [{"side": PROJECT, "texts a second": round(statistics.median(speeds))}]


def _cold_starts(folder: Path, runs: int) -> list[dict[str, Any]]:
    """Measure processes of their own; the compiled kernel and the table in folders that are empty at first."""
    ours = COLD_START_SCRIPT.format(module="serving.web", name="served_models", run=COLD_START_PROJECT)
    torch = COLD_START_SCRIPT.format(module="jobs.inference.predict", name="predict_proba", run=COLD_START_TORCH)
    first = [_cold(ours, folder, folder / f"first{run}") for run in range(runs)]
    later = [_cold(ours, folder, folder / "first0") for _ in range(runs)]
    torches = [_cold(torch, folder, folder / "first0") for _ in range(runs)]
    return [
        {"side": side, "seconds": statistics.median(each[0] for each in found), "peak MB": round(found[0][1])}
        for side, found in (
            (f"{PROJECT}, first on this machine", first),
            (f"{PROJECT}, then", later),
            ("torch, this project", torches),
        )
    ]


def _cold(script: str, folder: Path, scratch: Path) -> tuple[float, float]:
    scratch.mkdir(exist_ok=True)
    environment = os.environ | {"NUMBA_CACHE_DIR": str(scratch), "TMPDIR": str(scratch)}
    start = time.perf_counter()
    command = [sys.executable, "-c", script, str(folder / "checkpoint")]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True)
    return time.perf_counter() - start, int(done.stdout.split()[-1]) / 1024


if __name__ == "__main__":
    main()
