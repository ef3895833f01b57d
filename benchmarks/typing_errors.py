"""Accuracy on texts with typing errors, and how much of it `text.max_edit_distance=1` recovers.

    python benchmarks/typing_errors.py                                  # four English sets, two seeds
    python benchmarks/typing_errors.py --folder debian --sets German Russian Japanese Chinese
    python benchmarks/typing_errors.py --ngrams --sets trec sst2        # and vectors made of n-grams
    python benchmarks/typing_errors.py --quick                          # TREC, one seed, two epochs

All rows are of training parts. In English a fifth of them is held out and measured, and of the rest a tenth is the
validation part, where the set has no file of it; other languages are measured on the validation part of
`benchmarks/languages.py`, which also describes the texts and their vectors. Settings are defaults, with the vectors
file in English and up to 30 epochs in other languages. The side `network` is the network alone, of the epoch that is
best with the linear classifier; all rows of a set have the same training.

10 or 20 % of the words of at least four letters get one random error: two adjacent letters are swapped, or one is
dropped, inserted or replaced.

With --ngrams a third side has distance 0, and gives each unknown word a vector: the mean of vectors of its n-grams of 3
to 6 characters with its bounds, in 65,536 buckets, as in fastText. They are fitted by ridge regression to the vectors
of all words after training ("bag of subwords", Zhao et al. 2018).
"""

import argparse
import random
import re
import statistics
import sys
import tempfile
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # to be run as a file

from benchmarks import languages
from benchmarks.generated_data import drop_linear_classifier
from benchmarks.labelled_datasets import make_experiment, parse_options, require_vectors
from benchmarks.reporting import Row, print_json, print_table
from jobs.config.experiment import Experiment
from jobs.datasets.dataset import Dataset, stratified_split
from jobs.datasets.readers import read_rows
from jobs.datasets.tokenizer import tokenize
from jobs.embeddings.pretraining import train_word2vec_on_files
from jobs.estimator.training import train_dataset
from jobs.inference.classifier import Classifier
from jobs.model.checkpoint import Checkpoint

ENGLISH = ("trec", "sst2", "mr", "agnews20k")
SETS = (*ENGLISH, *languages.LANGUAGES)
SIDES = ("network", "words-and-pairs")
SHARES = (0, 10, 20)  # % of the words with an error
HELD_OUT_SHARE = 0.2
NGRAM_SIZES, NUM_BUCKETS = range(3, 7), 1 << 16
RIDGE, ITERATIONS = 0.3, 12  # of 0.1, 0.3 and 1 it predicts vectors of words left out best in English
REPETITIONS = 5  # of a timed classification
ALPHABETS = {"German": "abcdefghijklmnopqrstuvwxyzäöüß", "Russian": "абвгдежзийклмнопрстуфхцчшщъыьэюя"}
WORD = re.compile(r"[^\W\d_]{4,}")
Measurement = dict[str, float]


def main() -> None:
    """Train on each set with each seed, and print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--ngrams", action="store_true", help="measure vectors made of n-grams too")
    parser.add_argument("--folder", type=Path, help="folder of the texts in other languages (default: a temporary one)")
    options = parse_options(__doc__, "TREC, one seed, two epochs", seeds=2, sets=SETS, parser=parser)
    vectors = require_vectors(options)
    start = time.perf_counter()
    accuracies, costs = [], []
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch, "data")
        languages.prepare(folder, [name for name in options.sets if name not in ENGLISH])
        for name in options.sets:
            measured: dict[str, list[Measurement]] = {side: [] for side in SIDES}
            for seed in range(options.seeds):
                if name in ENGLISH:
                    experiment, dataset = _load_english(name, seed, options.data, vectors, scratch)
                else:
                    experiment, dataset = _load_language(folder / name, seed, scratch)
                values = {"train.epochs": 2} if options.quick else {}
                checkpoint = train_dataset(experiment.replace(values), dataset).checkpoint
                for side, own in zip(SIDES, (drop_linear_classifier(checkpoint), checkpoint), strict=True):
                    measured[side].append(measure(own, dataset, ngrams=options.ngrams))
                    print(f"{name:10} seed {seed}  {side:16} {measured[side][-1]}", flush=True)
            rows, cost = summarize(name, measured)
            accuracies += rows
            costs.append(cost)
    print_table("Accuracy by the share of words with an error, %, means over seeds", accuracies)
    print_table("Index, and processor time to classify (words-and-pairs)", costs)
    settings = {"seeds": options.seeds, "seconds": time.perf_counter() - start}
    print_json("typing_errors", settings, {"accuracy": accuracies, "costs": costs})


def summarize(name: str, measured: Mapping[str, Sequence[Measurement]]) -> tuple[list[Row], Row]:
    """Return the rows of a set in both tables; measured: of each seed, by side."""
    rows = []
    for side, values in measured.items():
        means = {key: statistics.mean(value[key] for value in values) for key in values[0]}
        rows += [_make_row(name, side, share, means) for share in SHARES]
    cost: Row = {"set": name, **{key: round(means[key], 3) for key in ("words", "index MB", "index s")}}
    for share in SHARES:
        cost |= {f"us, {share} %, distance {distance}": means[f"us {share} {distance}"] for distance in (0, 1)}
    return rows, cost


def _load_english(name: str, seed: int, data: Path, vectors: str, storage: str) -> tuple[Experiment, Dataset]:
    """Return an experiment and its rows; the test part is held out of the training file."""
    experiment = make_experiment(name, data, vectors, seed, storage)
    settings = experiment.data
    assert settings.train is not None
    train, test = stratified_split(read_rows(settings.train, settings), HELD_OUT_SHARE, seed, "share")
    if settings.validation is not None:
        validation = read_rows(settings.validation, settings)
    else:
        train, validation = stratified_split(train, settings.validation_share, seed, "share")
    return experiment, Dataset(train, validation, test, sorted(set(train.labels)), [])


def _load_language(folder: Path, seed: int, scratch: str) -> tuple[Experiment, Dataset]:
    """Return an experiment with vectors of its texts, and its rows; the test part is the validation file."""
    experiment = languages.make_experiment(folder, "unicode", seed, Path(scratch), quick=False)
    vectors = Path(scratch, f"{folder.name}-{seed}.bin")
    if not vectors.exists():
        train_word2vec_on_files([str(folder / "texts.jsonl")], str(vectors), experiment, threads=1)
    settings = experiment.data
    assert settings.train is not None
    assert settings.validation is not None
    rows, test = read_rows(settings.train, settings), read_rows(settings.validation, settings)
    train, validation = stratified_split(rows, settings.validation_share, seed, "share")
    dataset = Dataset(train, validation, test, sorted(set(train.labels)), [])
    return experiment.replace({"vectors.path": str(vectors)}), dataset


def measure(checkpoint: Checkpoint, dataset: Dataset, *, ngrams: bool) -> Measurement:
    """Return accuracies, shares of unknown words and times of both distances, and the size of the index."""
    experiment, labels = checkpoint.experiment, np.array(dataset.test.labels)
    letters = ALPHABETS.get(experiment.name, ALPHABETS["German"][:26])
    result: Measurement = {"words": len(checkpoint.words)}
    for distance in (0, 1):
        own = replace(checkpoint, experiment=experiment.replace({"text.max_edit_distance": distance}))
        if distance:
            start = time.process_time()
            index = own.vocabulary.nearest_words
            result["index s"] = time.process_time() - start
            result["index MB"] = (index.offsets.nbytes + index.entries.nbytes) / 1e6
        classifier = Classifier(own, share_table=False)
        for share in SHARES:
            texts = _add_errors(dataset.test.texts, share / 100, experiment.seed, letters)
            seconds = []
            for _ in range(REPETITIONS):
                start = time.process_time()
                scored = classifier.score_texts(texts)
                seconds.append(time.process_time() - start)
            predicted = np.array(checkpoint.labels)[scored.logits.argmax(axis=1)]
            result[f"accuracy {share} {distance}"] = 100 * float(np.mean(predicted == labels))
            result[f"unknown {share} {distance}"] = 100 * scored.num_unknown / max(1, scored.num_tokens)
            result[f"us {share} {distance}"] = 1e6 * min(seconds) / len(texts)
    if ngrams:
        parts = {share: _add_errors(dataset.test.texts, share / 100, experiment.seed, letters) for share in SHARES}
        extended = _add_ngram_vectors(checkpoint, [text for texts in parts.values() for text in texts])
        classifier = Classifier(extended, share_table=False)
        for share, texts in parts.items():
            result[f"accuracy {share} n-grams"] = 100 * float(np.mean(np.array(classifier.predict(texts)) == labels))
    return result


def _add_ngram_vectors(checkpoint: Checkpoint, texts: list[str]) -> Checkpoint:
    """Return a checkpoint that has the unknown words of some texts too, with vectors made of their n-grams."""
    known, vectors = set(checkpoint.words), checkpoint.weights["vectors"]
    unknown = sorted({word for text in texts for word in tokenize(text, checkpoint.experiment.text)} - known)
    ngram_vectors = _fit(_list_ngrams(checkpoint.words), vectors[2:])
    weights = checkpoint.weights | {"vectors": np.concatenate([vectors, _list_ngrams(unknown) @ ngram_vectors])}
    return replace(checkpoint, words=[*checkpoint.words, *unknown], weights=weights)


def _list_ngrams(words: list[str]) -> Any:
    """Return the share of each bucket in the n-grams of each word, `(words, buckets)` sparse float32."""
    from scipy import sparse

    buckets, offsets = [], [0]
    for word in words:
        marked = f"<{word}>"
        spans = [marked[start : start + size] for size in NGRAM_SIZES for start in range(len(marked) - size + 1)]
        buckets += [zlib.crc32(ngram.encode("utf-8", "surrogatepass")) % NUM_BUCKETS for ngram in spans or [marked]]
        offsets.append(len(buckets))
    lengths = np.diff(offsets)
    shares = np.repeat(1 / lengths, lengths).astype(np.float32)
    return sparse.csr_matrix((shares, buckets, offsets), shape=(len(words), NUM_BUCKETS))


def _fit(shares: Any, vectors: np.ndarray) -> np.ndarray:
    """Return the vectors of the buckets, `(buckets, dimensions)`, by conjugate gradients with a diagonal scaling."""
    transposed = shares.T.tocsr()
    scale = 1 / (np.asarray(transposed.multiply(transposed).sum(axis=1)) + RIDGE)
    solution = np.zeros((NUM_BUCKETS, vectors.shape[1]), np.float32)
    residual = transposed @ vectors
    direction = scale * residual
    product = (residual * direction).sum(axis=0)
    for _ in range(ITERATIONS):
        image = transposed @ (shares @ direction) + RIDGE * direction
        step = product / (direction * image).sum(axis=0)
        solution += step * direction
        residual -= step * image
        scaled = scale * residual
        previous, product = product, (residual * scaled).sum(axis=0)
        direction = scaled + product / previous * direction
    return solution


def _make_row(name: str, side: str, share: int, means: Measurement) -> Row:
    exact, near = means[f"accuracy {share} 0"], means[f"accuracy {share} 1"]
    row = {
        "set": name,
        "side": side,
        "errors, %": share,
        "unknown words, %": round(means[f"unknown {share} 0"], 2),
        "with distance 1": round(means[f"unknown {share} 1"], 2),
        "accuracy": round(exact, 2),
        "accuracy, distance 1": round(near, 2),
        "gain": round(near - exact, 2),
    }
    key = f"accuracy {share} n-grams"
    return row | ({"gain of n-grams": round(means[key] - exact, 2)} if key in means else {})


def _add_errors(texts: list[str], share: float, seed: int, letters: str) -> list[str]:
    """Return texts in which a share of the words of at least four letters has an error."""
    generator = random.Random(seed)
    return [
        WORD.sub(lambda word: _add_error(word[0], generator, letters) if generator.random() < share else word[0], text)
        for text in texts
    ]


def _add_error(word: str, generator: random.Random, letters: str) -> str:
    kind = generator.randrange(4)
    index = generator.randrange(len(word) - (kind == 0))
    if kind == 0:
        return word[:index] + word[index + 1] + word[index] + word[index + 2 :]
    inserted = "" if kind == 1 else generator.choice(letters)
    return word[:index] + inserted + word[index + (kind != 2) :]


if __name__ == "__main__":
    main()
