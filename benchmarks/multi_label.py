"""Several labels per text: default and chosen settings, and a linear SVC for each label on the same rows.

    python benchmarks/multi_label.py            # one seed, about three minutes on a core
    python benchmarks/multi_label.py --quick    # one epoch, a fifth of the rows

The data are the tags of Debian's packages, predicted from their short descriptions: 131 labels, 3.3 per text. The
validation part chooses epochs, thresholds and the settings below; the test part chooses nothing. The SVC of
scikit-learn reads TF-IDF of words and pairs of words of the same tokens; its threshold, one for all labels, has the
best micro F1 on the validation part.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # to be run as a file

from benchmarks.labelled_datasets import add_data_options, require_vectors
from benchmarks.reporting import Row, print_json, print_table
from jobs.config.experiment import Experiment
from jobs.datasets.dataset import Dataset, load_dataset
from jobs.datasets.label_sets import encode_labels
from jobs.datasets.tokenizer import tokenize
from jobs.estimator.training import train_dataset
from jobs.evaluation.multi_label.evaluation import LabelMetrics, compute_metrics
from jobs.evaluation.multi_label.linear_svc import score_with_svcs
from jobs.inference.classifier import Classifier

# Among the settings that were tried, of the best ones on validation rows.
CHOSEN: dict[str, Any] = {
    "model.filter_widths": [1, 2, 3],
    "model.feature_maps": 500,
    "model.max_norm": None,
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


def main() -> None:
    """Train all sides, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one epoch, a fifth of the rows")
    add_data_options(parser)
    options = parser.parse_args()
    vectors = require_vectors(options)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as storage:
        experiment = _make_experiment(options, vectors, storage)
        dataset = load_dataset(experiment)
        if options.quick:
            rows = range(0, len(dataset.train), QUICK_SHARE)
            dataset = Dataset(dataset.train.select(rows), dataset.validation, dataset.test, dataset.labels, [])
        labels = encode_labels(dataset.test, dataset.labels)
        table = [_make_row(SVC, *_measure_svc(dataset, labels))]
        for side, settings in SIDES.items():
            own = experiment.replace(settings | ({"train.epochs": 1} if options.quick else {}))
            table.append(_make_row(side, *_measure_network(own, dataset, labels)))
    print_table("Tags of Debian's packages: test figures, %", table)
    print_json("multi_label", {"seconds": time.perf_counter() - start}, {"sides": table})


def _make_experiment(options: argparse.Namespace, vectors: str, storage: str) -> Experiment:
    data = {"folder": str(options.data / "debtags"), "train": "train.jsonl", "validation": "dev.jsonl"}
    return Experiment.model_validate(
        {
            "storage": storage,
            "data": data | {"test": "test.jsonl", "label_column": "labels", "multi_label": True},
            "vectors": {"path": vectors},
        }
    )


def _measure_network(experiment: Experiment, dataset: Dataset, labels: np.ndarray) -> tuple[LabelMetrics, float]:
    """Return the metrics on the test part, and the seconds of training."""
    start = time.perf_counter()
    checkpoint = train_dataset(experiment, dataset).checkpoint
    seconds = time.perf_counter() - start
    classifier = Classifier(checkpoint, table_dtype="float32", share_table=False)
    probabilities = classifier.predict_proba(dataset.test.texts)
    return compute_metrics(labels, probabilities >= checkpoint.label_thresholds, probabilities), seconds


def _measure_svc(dataset: Dataset, labels: np.ndarray) -> tuple[LabelMetrics, float]:
    start = time.perf_counter()
    tokens = [tokenize(text, True) for text in dataset.test.texts]
    scores, threshold = score_with_svcs(dataset, dataset.labels, tokens, lowercase=True)
    return compute_metrics(labels, scores >= threshold, scores), time.perf_counter() - start


def _make_row(side: str, metrics: LabelMetrics, seconds: float) -> Row:
    row: Row = {"side": side} | {name: round(100 * value, 2) for name, value in metrics.to_rows().items()}
    print(f"{side:28} micro F1 {row['micro F1']:.2f}   macro F1 {row['macro F1']:.2f}   {seconds:.0f} s", flush=True)
    return row | {"seconds": round(seconds, 1)}


if __name__ == "__main__":
    main()
