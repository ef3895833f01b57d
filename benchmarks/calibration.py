"""Calibration of scores: the expected calibration error with the fitted temperature, and without it.

    python benchmarks/calibration.py            # six sets, three seeds: a quarter of an hour or so
    python benchmarks/calibration.py --quick    # TREC, one seed, two epochs

All settings are at their defaults, with the vectors file. The temperature is fitted to the validation part. The error
is that of the test part, in 15 bins with equal numbers of rows, sorted by the score of the predicted label. Even a
perfectly calibrated classifier has an error, by chance: that of labels that are drawn with its scores as probabilities.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # to be run as a file

from benchmarks.labelled_datasets import make_experiment, parse_options, require_vectors
from benchmarks.reporting import Row, print_json, print_table
from cluster.package import REPOSITORY
from jobs.config.experiment import Experiment, load_experiment
from jobs.datasets.dataset import Dataset, load_dataset
from jobs.evaluation.calibration import Calibration, compute_curves, measure_calibration

SETS = ("trec", "sst2", "mr", "clinc150", "agnews20k", "tickets")
Result = tuple[int, float, float, Calibration]  # test rows, accuracy without temperature, accuracy, calibration


def main() -> None:
    """Train on each set, and print the table."""
    options = parse_options(__doc__, "TREC, one seed, two epochs", seeds=3, sets=SETS)
    vectors, sets, seeds = require_vectors(options), options.sets, options.seeds
    start = time.perf_counter()
    results: dict[str, list[Result]] = {}
    with tempfile.TemporaryDirectory() as storage:
        for (name, seed), result in _measure(sets, seeds, options, vectors, storage):
            results.setdefault(name, []).append(result)
            print(f"{name:9} seed {seed}   {result[3].describe()}", flush=True)
    rows = [_make_row(name, results[name]) for name in sets]
    print_table("Expected calibration error of the test part, %, mean over seeds", rows)
    print_json("calibration", {"seeds": seeds, "seconds": time.perf_counter() - start}, {"sets": rows})


def _measure(
    sets: list[str], seeds: int, options: argparse.Namespace, vectors: str, storage: str
) -> Iterator[tuple[tuple[str, int], Result]]:
    from jobs.training.parallel_tasks import run_in_processes

    def list_jobs() -> Iterator[tuple[tuple[str, int], tuple[Experiment, Dataset]]]:
        for name in sets:
            for seed in range(seeds):
                experiment = _make_experiment(name, seed, options, vectors, storage)
                yield (name, seed), (experiment, load_dataset(experiment))

    yield from run_in_processes(train_and_measure, list_jobs(), 1)


def _make_experiment(name: str, seed: int, options: argparse.Namespace, vectors: str, storage: str) -> Experiment:
    if name == "tickets":
        settings = {"data.folder": str(REPOSITORY), "vectors.path": vectors, "storage": storage, "seed": seed}
        return load_experiment(str(REPOSITORY / "experiments" / "tickets.yaml")).replace(settings)
    experiment = make_experiment(name, options.data, vectors, seed, storage)
    return experiment.replace({"train.epochs": 2}) if options.quick else experiment


def train_and_measure(experiment: Experiment, dataset: Dataset) -> Result:
    """Train in this process, and measure the best epoch on the test part."""
    from jobs.estimator.training import train_dataset
    from jobs.inference.classifier import Classifier

    checkpoint, test = train_dataset(experiment, dataset).checkpoint, dataset.test
    classifier = Classifier(checkpoint, share_table=False)
    labels = np.array([checkpoint.labels.index(label) for label in test.labels])
    probabilities = classifier.predict_proba(test.texts)
    accuracies = [
        float(np.mean(scores.argmax(axis=1) == labels))
        for scores in (classifier.predict_logits(test.texts), probabilities)
    ]
    curves = compute_curves(probabilities, labels, checkpoint.temperature)
    return len(test), *accuracies, measure_calibration(probabilities, curves, checkpoint.temperature)


def _make_row(name: str, results: list[Result]) -> Row:
    def average(values: Iterator[float]) -> float:
        return round(100 * statistics.mean(values), 2)

    return {
        "set": name,
        "test rows": results[0][0],
        "temperature": round(statistics.mean(result[3].temperature for result in results), 2),
        "error without it": average(result[3].uncalibrated_error for result in results),
        "error": average(result[3].error for result in results),
        "by chance": average(result[3].chance_error for result in results),
        "accuracy without it": average(result[1] for result in results),
        "accuracy": average(result[2] for result in results),
    }


if __name__ == "__main__":
    main()
