"""Quantized checkpoints: size and accuracy, compared with fastText's compressed models.

    pip install fasttext-wheel                 # the extra `bench`; without it fastText is skipped
    python benchmarks/quantization.py          # all sets; two to ten minutes each on a busy core
    python benchmarks/quantization.py --quick  # TREC, two epochs, fastText with words only

Checkpoints have default settings and the vectors file; of its words, those of the training texts and the 60,000 most
frequent others are in the vocabulary, or the number of the table. fastText's models have words, or words and pairs of
words, 25 epochs and a learning rate of 0.5; they are compressed as its documentation says, with normalized vectors, the
100,000 most important features and another training of these. Both read the tokens of the same training rows. Sizes are
those of the files that classification needs. "changed" is the share of test texts whose label differs from that of the
model before compression.
"""

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # to be run as a file

from benchmarks.labelled_datasets import add_data_options, make_experiment, require_vectors
from benchmarks.reporting import Row, print_json, print_table
from jobs.config.experiment import Experiment
from jobs.datasets.dataset import Dataset, load_dataset
from jobs.datasets.readers import Split
from jobs.datasets.tokenizer import tokenize
from jobs.estimator.training import train_dataset
from jobs.inference.classifier import Classifier
from jobs.model.checkpoint import load_checkpoint, save_checkpoint
from jobs.model.checkpoint_tensors import CLASSIFICATION_FILES
from jobs.portable.quantization import quantize_checkpoint

SETS = ("trec", "sst2", "mr", "clinc150", "agnews20k", "imdb")
# Bits of each number of a word vector, and number of words; None for all.
SIDES: tuple[tuple[int, int | None], ...] = ((8, None), (6, None), (5, None), (4, None), (4, 20_000), (4, 5_000))
FASTTEXT = {"words": {"wordNgrams": 1}, "words and pairs": {"wordNgrams": 2, "bucket": 500_000}}
CUTOFF = 100_000
QUICK_EPOCHS = 2


def main() -> None:
    """Train and compress on each set, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="TREC, two epochs, fastText with words only")
    add_data_options(parser)
    parser.add_argument("--sets", nargs="+", choices=SETS, help="(default: all)")
    options = parser.parse_args()
    vectors = require_vectors(options)
    start = time.perf_counter()
    rows: list[Row] = []
    for name in options.sets or (["trec"] if options.quick else SETS):
        with tempfile.TemporaryDirectory() as folder:
            experiment = make_experiment(name, options.data, vectors, 0, folder)
            if options.quick:
                experiment = experiment.replace({"train.epochs": QUICK_EPOCHS})
            dataset = load_dataset(experiment)
            rows += _measure_checkpoints(name, experiment, dataset, Path(folder))
            if find_spec("fasttext"):
                sides = ["words"] if options.quick else list(FASTTEXT)
                rows += _measure_fasttext(name, dataset, sides, Path(folder))
    print_table("Size, MB, and accuracy, %", rows)
    print_json("quantization", {"seconds": time.perf_counter() - start}, {"models": rows})


def _measure_checkpoints(name: str, experiment: Experiment, dataset: Dataset, folder: Path) -> Iterator[Row]:
    checkpoint = train_dataset(experiment, dataset).checkpoint
    original = folder / "original"
    save_checkpoint(original, checkpoint)
    before = _Measurement.of_checkpoint(original, dataset)
    yield before.to_row(name, "checkpoint", before)
    for bits, max_words in SIDES:
        out = folder / f"{bits}-{max_words}"
        quantize_checkpoint(str(original), str(out), bits, max_words)
        side = f"{bits} bits" + (f", {max_words:,} words" if max_words else "")
        yield _Measurement.of_checkpoint(out, dataset).to_row(name, side, before)


def _measure_fasttext(name: str, dataset: Dataset, sides: Sequence[str], folder: Path) -> Iterator[Row]:
    import fasttext

    fasttext.FastText.eprint = lambda *args, **kwargs: None
    numbers = {label: number for number, label in enumerate(dataset.labels)}
    lines = [f"__label__{numbers[label]} {_join(text)}\n" for text, label in _pairs(dataset.train)]
    random.Random(0).shuffle(lines)  # fastText does not shuffle, and several sets are sorted by label
    (folder / "train.txt").write_text("".join(lines))
    for side in sides:
        model = fasttext.train_supervised(
            str(folder / "train.txt"), epoch=25, lr=0.5, thread=1, verbose=0, **FASTTEXT[side]
        )
        model.save_model(str(folder / "model.bin"))
        before = _Measurement.of_fasttext(model, folder / "model.bin", dataset)
        yield before.to_row(name, f"fastText, {side}", before)
        model.quantize(str(folder / "train.txt"), qnorm=True, retrain=True, cutoff=CUTOFF, epoch=1, thread=1)
        model.save_model(str(folder / "model.ftz"))
        yield _Measurement.of_fasttext(model, folder / "model.ftz", dataset).to_row(
            name, f"fastText, {side}, compressed", before
        )


@dataclass(frozen=True)
class _Measurement:
    """Size in bytes, and the predicted and the true classes of the validation and the test part."""

    size: int
    predicted: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]

    @classmethod
    def of_checkpoint(cls, folder: Path, dataset: Dataset) -> "_Measurement":
        classifier = Classifier(load_checkpoint(str(folder)), share_table=False)
        size = sum((folder / name).stat().st_size for name in CLASSIFICATION_FILES if (folder / name).exists())
        return cls._measure(size, dataset, lambda texts: classifier.predict_logits(texts).argmax(axis=1))

    @classmethod
    def of_fasttext(cls, model: Any, path: Path, dataset: Dataset) -> "_Measurement":
        def predict(texts: Sequence[str]) -> np.ndarray:
            best, _ = model.predict([_join(text) for text in texts])
            return np.array([int(label.removeprefix("__label__")) for (label,) in best])

        return cls._measure(path.stat().st_size, dataset, predict)

    @classmethod
    def _measure(cls, size: int, dataset: Dataset, predict: Callable[[Sequence[str]], np.ndarray]) -> "_Measurement":
        parts = {"validation": dataset.validation, "test": dataset.test}
        numbers = {label: number for number, label in enumerate(dataset.labels)}
        labels = {name: np.array([numbers[label] for label in part.labels]) for name, part in parts.items()}
        return cls(size, {name: predict(part.texts) for name, part in parts.items()}, labels)

    def to_row(self, name: str, side: str, before: "_Measurement") -> Row:
        row: Row = {"set": name, "model": side, "MB": round(self.size / 1e6, 2)}
        row["% of size"] = round(100 * self.size / before.size, 1)
        for part, labels in self.labels.items():
            row[part] = round(100 * float(np.mean(self.predicted[part] == labels)), 2)
        row["changed"] = round(100 * float(np.mean(self.predicted["test"] != before.predicted["test"])), 2)
        print(f"{name:9} {side:36} {row['MB']:8.2f} MB   test {row['test']:.2f}", flush=True)
        return row


def _join(text: str) -> str:
    return " ".join(tokenize(text))


def _pairs(part: Split) -> Iterator[tuple[str, str]]:
    return zip(part.texts, part.labels, strict=True)


if __name__ == "__main__":
    main()
