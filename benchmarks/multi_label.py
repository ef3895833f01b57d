"""Several labels per text: default and chosen settings, and a linear SVC for each label on the same rows.

    python benchmarks/multi_label.py            # three seeds, about ten minutes on two cores
    python benchmarks/multi_label.py --quick    # one seed, one epoch, a fifth of the rows

The data are the tags of Debian's packages, predicted from their short descriptions: 131 labels, 3.3 per text. The
validation part chooses epochs, thresholds and the settings below; the test part chooses nothing. The SVC of
scikit-learn reads TF-IDF of words and pairs of words of the same tokens; its threshold, one for all labels, has the
best micro F1 on the validation part.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # to be run as a file

from benchmarks.labelled_datasets import parse_options, require_vectors
from benchmarks.reporting import Row, print_json, print_table
from jobs.config.experiment import Experiment
from jobs.config.settings import TextSettings
from jobs.datasets.dataset import Dataset, load_dataset
from jobs.datasets.label_sets import encode_labels
from jobs.datasets.prepared.corpus_tokens import tokenize_texts
from jobs.estimator.training import train_dataset
from jobs.evaluation.multi_label.linear_svc import score_with_svcs
from jobs.evaluation.multi_label.metrics import compute_metrics
from jobs.inference.classifier import Classifier
from jobs.training.parallel_tasks import run_in_processes

# Among the settings that were tried, of the best ones on validation rows; the learning rates were not tried, and are
# the defaults of that time.
CHOSEN: dict[str, Any] = {
    "model.filter_widths": [1, 2, 3],
    "model.feature_maps": 500,
    "model.max_norm": None,
    "train.learning_rate": 0.001,
    "train.vectors_learning_rate": 0.001,
    "train.weight_decay": 0.1,
    "train.epochs": 10,
}
SIDES: dict[str, dict[str, Any]] = {
    "default settings": {},
    "chosen settings": CHOSEN,
    "chosen settings, macro F1": CHOSEN | {"train.threshold_objective": "macro_f1"},
}
SVC = "linear SVC for each label"
QUICK_SHARE = 5  # every fifth training row
DEVIATIONS = ("micro F1", "macro F1")  # metrics whose deviation over the seeds is printed
Result = tuple[dict[str, float], float]  # metrics on the test part in %, and the seconds of training


def main() -> None:
    """Train all sides, and print the table."""
    options = parse_options(__doc__, "one seed, one epoch, a fifth of the rows", seeds=3)
    vectors = require_vectors(options)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as storage:
        experiment = _make_experiment(options, vectors, storage)
        dataset = load_dataset(experiment)
        if options.quick:
            rows = range(0, len(dataset.train), QUICK_SHARE)
            dataset = Dataset(dataset.train.select(rows), dataset.validation, dataset.test, dataset.labels, [])
        labels = encode_labels(dataset.test, dataset.labels)
        results: dict[str, list[Result]] = {side: [] for side in SIDES}
        quick = {"train.epochs": 1} if options.quick else {}
        jobs = (
            (side, (experiment.replace(settings | quick | {"seed": seed}), dataset, labels))
            for seed in range(options.seeds)
            for side, settings in SIDES.items()
        )
        for side, result in run_in_processes(_measure_network, jobs, 1):
            results[side].append(result)
            print(f"{side:28} micro F1 {result[0]['micro F1']:.2f}   macro F1 {result[0]['macro F1']:.2f}", flush=True)
    table = [_make_row(SVC, [_measure_svc(dataset, labels)])]
    table += [_make_row(side, own) for side, own in results.items()]
    print_table("Tags of Debian's packages: test figures, %, mean over seeds", table)
    print_json("multi_label", {"seeds": options.seeds, "seconds": time.perf_counter() - start}, {"sides": table})


def _make_experiment(options: argparse.Namespace, vectors: str, storage: str) -> Experiment:
    data = {"folder": str(options.data / "debtags"), "train": "train.jsonl", "validation": "dev.jsonl"}
    return Experiment.model_validate(
        {
            "storage": storage,
            "data": data | {"test": "test.jsonl", "label_column": "labels", "multi_label": True},
            "vectors": {"path": vectors},
        }
    )


def _measure_network(experiment: Experiment, dataset: Dataset, labels: np.ndarray) -> Result:
    """Return the metrics on the test part in %, and the seconds of training."""
    start = time.perf_counter()
    checkpoint = train_dataset(experiment, dataset).checkpoint
    seconds = time.perf_counter() - start
    classifier = Classifier(checkpoint, table_dtype="float32", share_table=False)
    probabilities = classifier.predict_proba(dataset.test.texts)
    return _list_metrics(labels, probabilities >= checkpoint.label_thresholds, probabilities), seconds


def _measure_svc(dataset: Dataset, labels: np.ndarray) -> Result:
    start = time.perf_counter()
    tokens = tokenize_texts(dataset.test.texts, TextSettings())
    svc = score_with_svcs(dataset, dataset.labels, tokens, TextSettings())
    return _list_metrics(labels, svc.predicted, svc.scores), time.perf_counter() - start


def _list_metrics(labels: np.ndarray, predicted: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    return {name: 100 * value for name, value in compute_metrics(labels, predicted, scores).to_rows().items()}


def _make_row(side: str, results: list[Result]) -> Row:
    row: Row = {"side": side}
    for name in results[0][0]:
        row[name] = round(statistics.mean(metrics[name] for metrics, _ in results), 2)
    for name in DEVIATIONS:
        values = [metrics[name] for metrics, _ in results]
        row[f"{name} deviation"] = round(statistics.stdev(values), 2) if len(values) > 1 else None
    return row | {"seconds": round(statistics.mean(seconds for _, seconds in results), 1)}


if __name__ == "__main__":
    main()
