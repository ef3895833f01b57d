"""Classes of very different sizes: `train.class_weights: balanced`, the default, and a balanced linear SVC.

    python benchmarks/imbalance.py            # eight seeds, about seven minutes on two cores
    python benchmarks/imbalance.py --quick    # one seed, one epoch, a fifth of the rows

The data are the sections of Debian's packages, predicted from their short descriptions: 57 classes with 2 to 4,952
training rows. This project trains with the vectors file, with default and with chosen settings, each without and with
weights of the classes. The SVC of scikit-learn reads TF-IDF of words and bigrams of the same tokens, with
`class_weight="balanced"`; its C has the best macro F1 on the validation part. That part also chooses this project's
settings and epoch. The test part chooses nothing.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # to be run as a file

from benchmarks.labelled_datasets import parse_options, require_vectors
from benchmarks.reporting import Row, print_json, print_table
from jobs.config.experiment import Experiment
from jobs.datasets.dataset import Dataset, load_dataset
from jobs.datasets.tokenizer import tokenize
from jobs.evaluation.metrics import accuracy, macro_f1

# Of the settings that were tried, those with the best macro F1 on the validation part, without weights; the learning
# rate was not tried, and is the default of that time.
CHOSEN: dict[str, Any] = {
    "train.metric": "macro_f1",
    "train.epochs": 15,
    "train.patience": 6,
    "train.learning_rate": 0.001,
    "train.vectors_learning_rate": 0.004,
    "model.max_norm": None,
    "model.filter_widths": [1, 2, 3],
}
BALANCED = {"train.class_weights": "balanced"}
SIDES: dict[str, dict[str, Any]] = {
    "default settings": {},
    "default settings, balanced": BALANCED,
    "chosen settings": CHOSEN,
    "chosen settings, balanced": CHOSEN | BALANCED,
}
SVC = "balanced linear SVC"
SVC_COSTS = (0.1, 0.3, 1.0, 3.0, 10.0)
QUICK_SHARE = 5  # every fifth training row
Result = tuple[float, float]  # macro F1 and accuracy on the test part


def main() -> None:
    """Train all sides, and print the table."""
    options = parse_options(__doc__, "one seed, one epoch, a fifth of the rows", seeds=8)
    vectors, seeds = require_vectors(options), options.seeds
    start = time.perf_counter()
    results: dict[str, list[Result]] = {}
    with tempfile.TemporaryDirectory() as storage:
        experiment = _make_experiment(options, vectors, storage)
        dataset = _load_dataset(experiment, quick=options.quick)
        for side, result in _train_networks(experiment, dataset, seeds):
            results.setdefault(side, []).append(result)
            print(f"{side:26} macro F1 {100 * result[0]:.2f}   accuracy {100 * result[1]:.2f}", flush=True)
    results[SVC] = [_train_svc(dataset)]
    rows = [_make_row(side, results[side]) for side in (*SIDES, SVC)]
    print_table("Sections of Debian's packages: test figures, %, mean over seeds", rows)
    print_json("imbalance", {"seeds": seeds, "seconds": time.perf_counter() - start}, {"sides": rows})


def _make_experiment(options: argparse.Namespace, vectors: str, storage: str) -> Experiment:
    settings = {
        "name": "section", "storage": storage, "data.folder": str(options.data / "debtags"), "vectors.path": vectors,
        "data.train": "train.jsonl", "data.validation": "dev.jsonl", "data.test": "test.jsonl",
        "data.label_column": "section",
    }  # fmt: skip
    return Experiment().replace(settings | ({"train.epochs": 1} if options.quick else {}))


def _load_dataset(experiment: Experiment, *, quick: bool) -> Dataset:
    dataset = load_dataset(experiment)
    if not quick:
        return dataset
    labels = np.array(dataset.train.labels)
    _, first_of_class = np.unique(labels, return_index=True)  # each class stays
    rows = sorted({*range(0, len(labels), QUICK_SHARE), *first_of_class.tolist()})
    return Dataset(dataset.train.select(rows), dataset.validation, dataset.test, dataset.labels, [])


def _train_networks(experiment: Experiment, dataset: Dataset, seeds: int) -> Iterator[tuple[str, Result]]:
    from jobs.training.corpora.building import build_corpus
    from jobs.training.cross_validation import train_in_parallel

    epochs = {"train.epochs": 1} if experiment.train.epochs == 1 else {}
    corpora = [build_corpus(experiment.replace({"seed": seed}), dataset, use_pretrained=True) for seed in range(seeds)]
    jobs = (
        (side, experiment.replace(settings | {"seed": seed} | epochs), corpora[seed], dataset.test)
        for seed in range(seeds)
        for side, settings in SIDES.items()
    )
    for side, result in train_in_parallel(jobs, 1):
        yield side, (result.macro_f1, result.accuracy)


def _train_svc(dataset: Dataset) -> Result:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.svm import LinearSVC

    vectorizer = TfidfVectorizer(tokenizer=tokenize, token_pattern=None, ngram_range=(1, 2), lowercase=False)
    features = vectorizer.fit_transform(dataset.train.texts)
    numbers = {label: number for number, label in enumerate(dataset.labels)}
    train, *others = (
        np.array([numbers[label] for label in part.labels])
        for part in (dataset.train, dataset.validation, dataset.test)
    )
    validation, test = others
    held_out = vectorizer.transform(dataset.validation.texts)
    models = [LinearSVC(C=cost, class_weight="balanced").fit(features, train) for cost in SVC_COSTS]
    best = max(models, key=lambda model: macro_f1(validation, model.predict(held_out)))
    print(f"{SVC}: C={best.C}", flush=True)
    predicted = best.predict(vectorizer.transform(dataset.test.texts))
    return macro_f1(test, predicted), accuracy(test, predicted)


def _make_row(side: str, results: list[Result]) -> Row:
    scores, accuracies = ([100 * value for value in values] for values in zip(*results, strict=True))
    return {
        "side": side,
        "macro F1": round(statistics.mean(scores), 2),
        "deviation": round(statistics.stdev(scores), 2) if len(scores) > 1 else None,
        "accuracy": round(statistics.mean(accuracies), 2),
    }


if __name__ == "__main__":
    main()
