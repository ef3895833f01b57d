"""Speed of inference from raw text to label on one thread, compared with torch and fastText, and its cold start.

    pip install fasttext-wheel                # the extra `bench`; without it fastText is skipped
    python benchmarks/inference.py            # about two minutes
    python benchmarks/inference.py --quick

The texts are MR's, one at a time or in lists. Only speed is measured: the network has random weights, default settings
and MR's vocabulary, and a linear classifier that is trained on MR. `this project` is `predict` of the classifier that
`finetune_cnn.load` returns. `this project, service` is what a replica calls, which also computes probabilities and
counts. `this project, float32` has its table in that type instead of int16. `this project, network alone` has no linear
classifier (`model.linear=none`). `torch, this project` is the network that training measures. `torch, conv1d` is Kim's
network with torch's layers, over texts padded to the longest of a list. All sides tokenize with
`jobs.datasets.tokenizer`, except fastText, which splits at spaces; its model is trained on MR for five epochs.
The table of scripts has the same texts with other letters: é and ’ instead of e and ', and Cyrillic letters.
Sides are measured alternately in five rounds; the tables show medians. Times are those of the processor, so that other
processes on the machine matter less; all sides have one thread. A cold start is measured in a new process, from
its start to the result for a first text. `first on this machine` includes compilation and the projection table.
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
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_variable] = "1"  # before numpy and torch are imported
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # to be run as a file

from benchmarks.generated_data import drop_linear_classifier, make_random_checkpoint
from benchmarks.labelled_datasets import DATA_FOLDER
from benchmarks.reporting import Row, print_json, print_table
from cluster.package import REPOSITORY

PROJECT = "this project"
FLOAT32 = "this project, float32"
NETWORK = "this project, network alone"
SERVICE = "this project, service"
BATCH_SIZES = (1, 32, 256)
SCRIPTS = {
    "English": ("", ""),
    "with accents": ("e'", "é’"),
    "Cyrillic": ("abcdefghijklmnopqrstuvwxyz", "абцдефгхийклмнопярстувшчызь"[:26]),
}
COLD_START_SCRIPT = """
import sys
from jobs.model import checkpoint
{run}
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""
COLD_START_PROJECT = """
from serving.web import served_models
model = served_models.load_models(served_models.parse_user_config({"checkpoint": sys.argv[1]})).primary
print(model.scorer.score(["a fine film"], "softmax"))
"""
COLD_START_TORCH = """
from tests.support.torch_network import predict_proba
print(predict_proba(checkpoint.load_checkpoint(sys.argv[1]), ['a fine film']).argmax())
"""
Classify = Callable[[list[str]], Any]


def main() -> None:
    """Measure all sides and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer texts, one round")
    parser.add_argument("--data", type=Path, default=DATA_FOLDER, help="folder of the data sets (default: %(default)s)")
    options = parser.parse_args()
    source = options.data / "mr" / "all.tsv"
    if not source.exists():
        sys.exit(f"{source}: no such file; set the option --data")
    rows = [line.split("\t", 1) for line in source.read_text(encoding="utf-8").splitlines()[1:]]
    random.Random(0).shuffle(rows)
    texts = [text for _, text in rows]
    count, rounds = (512, 1) if options.quick else (2048, 5)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = _make_checkpoint(rows, Path(folder, "checkpoint"))
        speeds = _measure_speeds(_make_sides(checkpoint, rows, folder), texts[:count], rounds)
        lists = _measure_twenty_words(checkpoint, texts, rounds)
        scripts = _measure_scripts(rows[:count], Path(folder), rounds)
        cold = _measure_cold_starts(Path(folder), 1 if options.quick else 3)
    print_table("Raw text to label, microseconds per text, one thread, medians", speeds)
    print_table("Texts of twenty tokens in lists of 256, one thread", lists)
    print_table("Letters of other scripts, microseconds per text of this project", scripts)
    print_table("Process start to the first result", cold)
    tables = {"speed": speeds, "twenty words": lists, "scripts": scripts, "cold": cold}
    print_json("inference", {"texts": count, "rounds": rounds}, tables)


def _make_checkpoint(rows: list[list[str]], folder: Path) -> Any:
    """Return and save a checkpoint for the vocabulary of labelled texts: a network with random weights, and a linear
    classifier that is trained on them."""
    import numpy as np

    from jobs.config.experiment import Experiment
    from jobs.datasets.tokenizer import count_words, encode, tokenize
    from jobs.model.checkpoint import save_checkpoint
    from jobs.model.linear.tensors import SCALE
    from jobs.training.corpora.corpus import Corpus, EncodedSplit
    from jobs.training.linear.svc import train_linear_classifier

    tokens = [tokenize(text) for _, text in rows]
    words = [word for word, _ in count_words(tokens, Experiment().text.max_words)]
    checkpoint = make_random_checkpoint(words)
    names, labels = np.unique([label for label, _ in rows], return_inverse=True)
    part = EncodedSplit(encode(tokens, checkpoint.vocabulary, Experiment().text.max_tokens), labels)
    none = np.empty(0, np.float32)
    corpus = Corpus(part, part, names.tolist(), words, none, none, none, None, "", "")
    tensors = train_linear_classifier(corpus, None) | {SCALE: np.ones(2, np.float32)}
    checkpoint = replace(checkpoint, weights=checkpoint.weights | tensors)
    save_checkpoint(folder, checkpoint)
    return checkpoint


def _make_sides(checkpoint: Any, rows: list[list[str]], folder: str) -> dict[str, Classify]:
    """Return for each side a function from a list of texts to labels."""
    import torch

    from jobs.datasets.tokenizer import Vocabulary, encode, tokenize
    from jobs.inference.classifier import Classifier
    from serving.web.compiled_scorer import CompiledScorer
    from tests.support.torch_network import build_network, predict_logits

    torch.set_num_threads(1)
    classifier, float32 = Classifier(checkpoint), Classifier(checkpoint, table_dtype="float32")
    network_alone = Classifier(drop_linear_classifier(checkpoint))
    network, vocabulary = build_network(checkpoint), Vocabulary(checkpoint.words)
    max_tokens = checkpoint.experiment.text.max_tokens

    def classify_with_torch(texts: list[str]) -> Any:
        tokens = encode((tokenize(text) for text in texts), vocabulary, max_tokens)
        return predict_logits(network, tokens).argmax(1).tolist()

    scorer, labels = CompiledScorer(classifier, max(BATCH_SIZES)), [*range(len(classifier.labels))]

    def classify_like_the_service(texts: list[str]) -> Any:
        scorer.score(texts, "softmax")
        return [labels[best] for best in scorer.best[: len(texts)].tolist()]

    sides: dict[str, Classify] = {
        PROJECT: classifier.predict,
        FLOAT32: float32.predict,
        SERVICE: classify_like_the_service,
        NETWORK: network_alone.predict,
        "torch, this project": classify_with_torch,
        "torch, conv1d": _make_conv1d(checkpoint, vocabulary),
    }
    if find_spec("fasttext"):
        sides["fastText"] = _train_fasttext(rows, folder)
    else:
        print("fastText is skipped; to include it: pip install fasttext-wheel", file=sys.stderr)
    return sides


def _make_conv1d(checkpoint: Any, vocabulary: Any) -> Classify:
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


def _train_fasttext(rows: list[list[str]], folder: str) -> Classify:
    """Return fastText's own model, trained for five epochs."""
    import fasttext

    fasttext.FastText.eprint = lambda *args, **kwargs: None
    path = Path(folder, "train.txt")
    path.write_text("".join(f"__label__{label} {text}\n" for label, text in rows), encoding="utf-8")
    model = fasttext.train_supervised(str(path), epoch=5, thread=1, verbose=0)
    return lambda texts: model.predict(texts)[0]


def _measure_speeds(sides: dict[str, Classify], texts: list[str], rounds: int) -> list[Row]:
    times: dict[tuple[str, int], list[float]] = {(side, batch): [] for side in sides for batch in BATCH_SIZES}
    for _ in range(rounds):
        for (side, batch), values in times.items():
            values.append(_measure_seconds(sides[side], texts, batch) / len(texts) * 1e6)
    medians = {key: statistics.median(values) for key, values in times.items()}
    table = []
    for side in sides:
        row: Row = {"side": side}
        for batch in BATCH_SIZES:
            row[f"lists of {batch}"] = round(medians[side, batch], 1)
            row[f"x ours, {batch}"] = round(medians[side, batch] / medians[PROJECT, batch], 2)
        table.append(row)
    return table


def _measure_seconds(classify: Classify, texts: list[str], batch: int) -> float:
    """Return the processor's seconds for all texts; with single texts, extrapolated from half of them."""
    sample = texts if batch > 1 else texts[: len(texts) // 2]
    classify(sample[:batch])
    start = time.process_time()
    for first in range(0, len(sample), batch):
        classify(sample[first : first + batch])
    return (time.process_time() - start) * len(texts) / len(sample)


def _measure_twenty_words(checkpoint: Any, texts: list[str], rounds: int) -> list[Row]:
    from jobs.datasets.tokenizer import tokenize
    from jobs.inference.classifier import Classifier

    sample = [" ".join(tokens[:20]) for tokens in map(tokenize, texts) if len(tokens) >= 20][:4096]
    classifier = Classifier(checkpoint)
    speeds = [len(sample) / _measure_seconds(classifier.predict, sample, 256) for _ in range(rounds)]
    return [{"side": PROJECT, "texts per second": round(statistics.median(speeds))}]


def _measure_scripts(labelled: list[list[str]], folder: Path, rounds: int) -> list[Row]:
    """Return a row for each script; the ratio is that of the time for texts of the same number of bytes."""
    from jobs.inference.classifier import Classifier

    sides: dict[str, tuple[Classify, list[str]]] = {}
    for script, letters in SCRIPTS.items():
        written = [text.translate(str.maketrans(*letters)) for _, text in labelled]
        pairs = [[label, text] for (label, _), text in zip(labelled, written, strict=True)]
        classifier = Classifier(_make_checkpoint(pairs, folder / script), share_table=False)
        sides[script] = classifier.predict_logits, written
    num_bytes = {script: sum(len(text.encode()) for text in written) for script, (_, written) in sides.items()}
    times: dict[tuple[str, int], list[float]] = {(script, batch): [] for script in sides for batch in BATCH_SIZES}
    for _ in range(rounds):
        for (script, batch), values in times.items():
            values.append(_measure_seconds(*sides[script], batch) / len(labelled) * 1e6)
    medians = {key: statistics.median(values) for key, values in times.items()}
    english = next(iter(SCRIPTS))
    rows: list[Row] = []
    for script, size in num_bytes.items():
        row: Row = {"script": script, "bytes": size / len(labelled)}
        for batch in BATCH_SIZES:
            row[f"lists of {batch}"] = medians[script, batch]
            ratio = medians[script, batch] / size / (medians[english, batch] / num_bytes[english])
            row[f"x English, {batch}"] = round(ratio, 2)
        rows.append(row)
    return rows


def _measure_cold_starts(folder: Path, runs: int) -> list[Row]:
    """Measure new processes; kernel cache and projection table are in folders that are empty at first."""
    project = COLD_START_SCRIPT.format(run=COLD_START_PROJECT)
    torch = COLD_START_SCRIPT.format(run=COLD_START_TORCH)
    first = [_measure_process(project, folder, folder / f"first{run}") for run in range(runs)]
    later = [_measure_process(project, folder, folder / "first0") for _ in range(runs)]
    with_torch = [_measure_process(torch, folder, folder / "first0") for _ in range(runs)]
    return [
        {"side": side, "seconds": statistics.median(pair[0] for pair in pairs), "peak MB": round(pairs[0][1])}
        for side, pairs in (
            (f"{PROJECT}, first on this machine", first),
            (f"{PROJECT}, then", later),
            ("torch, this project", with_torch),
        )
    ]


def _measure_process(script: str, folder: Path, scratch: Path) -> tuple[float, float]:
    """Return the seconds that a Python script takes, and its peak memory in MB."""
    scratch.mkdir(exist_ok=True)
    environment = os.environ | {"NUMBA_CACHE_DIR": str(scratch), "TMPDIR": str(scratch)}
    start = time.perf_counter()
    command = [sys.executable, "-c", script, str(folder / "checkpoint")]
    output = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True).stdout
    return time.perf_counter() - start, int(output.split()[-1]) / 1024


if __name__ == "__main__":
    main()
