"""Out-of-scope requests of CLINC150: scores that recognize them, and the two uses of examples of them.

    python benchmarks/out_of_scope.py            # three seeds, six trainings, about five minutes on two cores
    python benchmarks/out_of_scope.py --quick    # one seed, two epochs, a third of the training rows

150 classes of requests to a voice assistant, and requests that belong to none (Larson et al. 2019). All settings are at
their defaults, with the vectors file and 200 out-of-scope examples in `data.out_of_scope`. Thresholds are selected on
the validation part, and on the examples that were not trained on. The test part, with 1,000 other out-of-scope
requests, chooses nothing.

The first table compares scores of the network without a class of out-of-scope examples: the product uses the maximum
softmax probability (Hendrycks & Gimpel 2017); energy is the logarithm of the sum of exponentials of the logits (Liu et
al. 2020); the others are of the features before the last layer: cosine with the mean of the nearest class, Mahalanobis
distance to it with a covariance that the classes share (Lee et al. 2018), cosine with the nearest training text. The
second table compares the uses of the examples, with the thresholds that the checkpoints store.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # to be run as a file

from benchmarks.labelled_datasets import make_experiment, parse_options, require_vectors
from benchmarks.reporting import Row, print_json, print_table
from jobs.config.abstention import OBJECTIVES, require_rule
from jobs.config.experiment import Experiment
from jobs.config.settings import DataSettings
from jobs.datasets.dataset import Dataset, add_out_of_scope_class, load_dataset
from jobs.datasets.readers import read_rows
from jobs.evaluation.abstention import compute_auroc, compute_risk_coverage, select_retention_threshold
from jobs.evaluation.metrics import softmax
from jobs.model.checkpoint import Checkpoint

USES = {"threshold": "thresholds only", "class": "also a class"}
QUICK_SHARE = 3  # every third training row
RIDGE = 1e-4  # added to the diagonal of the covariance, whose features may be constant
Rows = list[Row]


def main() -> None:
    """Train both ways, and print the tables."""
    options = parse_options(__doc__, "one seed, two epochs, a third of the training rows", seeds=3)
    vectors, seeds = require_vectors(options), options.seeds
    start = time.perf_counter()
    results: dict[tuple[str, int], tuple[Rows, Rows]] = {}
    with tempfile.TemporaryDirectory() as storage:
        for (use, seed), result in _measure(options, seeds, vectors, storage):
            results[use, seed] = result
            print(f"{USES[use]}, seed {seed}: accuracy {result[1][0]['accuracy']:.1f} %", flush=True)
    ordered = [results[use, seed] for use in USES for seed in range(seeds)]
    scores, uses = (_average([row for result in ordered for row in result[index]]) for index in range(2))
    print_table("Scores without the class, %, mean over seeds", scores)
    print_table("Uses of the examples: the thresholds of the checkpoints on the test part, %, mean over seeds", uses)
    settings = {"seeds": seeds, "seconds": time.perf_counter() - start}
    print_json("out_of_scope", settings, {"scores": scores, "uses": uses})


def _measure(
    options: argparse.Namespace, seeds: int, vectors: str, storage: str
) -> Iterator[tuple[tuple[str, int], tuple[Rows, Rows]]]:
    from jobs.training.parallel_tasks import run_in_processes

    def list_jobs() -> Iterator[tuple[tuple[str, int], tuple[Experiment, Dataset]]]:
        for seed in range(seeds):
            experiment = make_experiment("clinc150", options.data, vectors, seed, storage)
            experiment = experiment.replace({"data.out_of_scope": ["oos_train.tsv", "oos_dev.tsv"]})
            dataset = load_dataset(experiment)
            if options.quick:
                experiment = experiment.replace({"train.epochs": 2})
                dataset = replace(dataset, train=dataset.train.select(range(0, len(dataset.train), QUICK_SHARE)))
            for use, rows in (("threshold", dataset), ("class", add_out_of_scope_class(dataset))):
                yield (use, seed), (experiment.replace({"data.out_of_scope_use": use}), rows)

    yield from run_in_processes(train_and_measure, list_jobs(), 1)


def train_and_measure(experiment: Experiment, dataset: Dataset) -> tuple[Rows, Rows]:
    """Train in this process; return the rows of both tables, of the first only without the class."""
    from jobs.estimator.training import train_dataset

    checkpoint = train_dataset(experiment, dataset).checkpoint
    data: DataSettings = experiment.data
    others = read_rows("oos_test.tsv", data, labelled=False).texts
    assert dataset.out_of_scope is not None
    parts = {
        "training": dataset.train.texts,
        "validation": dataset.validation.texts,
        "test": dataset.test.texts,
        "validation, out of scope": dataset.out_of_scope.texts,
        "test, out of scope": others,
    }
    labels = {
        name: np.array([checkpoint.labels.index(label) for label in part.labels])
        for name, part in (("training", dataset.train), ("validation", dataset.validation), ("test", dataset.test))
    }
    outputs = {name: _run_network(checkpoint, texts) for name, texts in parts.items()}
    uses = _measure_use(checkpoint, labels["test"], outputs)
    is_class = experiment.data.out_of_scope_use == "class"
    return [] if is_class else _measure_scores(checkpoint, labels, outputs), uses


def _run_network(checkpoint: Checkpoint, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the features and the logits of texts, `(texts, features)` and `(texts, classes)`."""
    import torch

    from jobs.datasets.tokenization.text_tokens import tokenize_texts
    from jobs.datasets.tokenizer import encode
    from jobs.model.batches import Collator, iter_batches_by_length
    from tests.support.torch_network import BATCH_SIZE, build_network

    network, settings = build_network(checkpoint), checkpoint.experiment.text
    tokens = encode(tokenize_texts(texts, settings), checkpoint.vocabulary, settings.max_tokens)
    collator = Collator(tokens, len(network.initial_vectors), "cpu")
    features = np.empty((len(texts), network.output.shape[1]), np.float32)
    logits = np.empty((len(texts), len(checkpoint.labels)))
    with torch.inference_mode():
        for rows in iter_batches_by_length(tokens.lengths, BATCH_SIZE):
            batch = collator.collate(rows)
            features[rows], logits[rows] = network.forward_features(batch).numpy(), network(batch).numpy()
    return features, logits


def _measure_scores(
    checkpoint: Checkpoint, labels: dict[str, np.ndarray], outputs: dict[str, tuple[np.ndarray, np.ndarray]]
) -> Rows:
    """Return a row for each score; the threshold keeps 95 % of the validation rows."""
    features = outputs["training"][0]
    means = np.array([features[labels["training"] == index].mean(axis=0) for index in range(len(checkpoint.labels))])
    covariance = np.cov((features - means[labels["training"]]).T) + RIDGE * np.eye(features.shape[1])
    precision = np.linalg.inv(covariance).astype(np.float32)
    directions, examples = _normalize(means), _normalize(features)

    def score(part: str) -> dict[str, np.ndarray]:
        found, logits = outputs[part]
        highest = logits.max(axis=1)
        distances = (
            ((found @ precision) * found).sum(axis=1)[:, None]
            - 2 * found @ precision @ means.T
            + ((means @ precision) * means).sum(axis=1)
        )
        return {
            "maximum softmax probability": softmax(logits / checkpoint.temperature).max(axis=1),
            "energy": highest + np.log(np.exp(logits - highest[:, None]).sum(axis=1)),
            "cosine, class mean": (_normalize(found) @ directions.T).max(axis=1),
            "Mahalanobis, class mean": -distances.min(axis=1),
            "cosine, training text": (_normalize(found) @ examples.T).max(axis=1),
        }

    scores = {part: score(part) for part in outputs if part != "training"}
    correct = {part: outputs[part][1].argmax(axis=1) == labels[part] for part in ("validation", "test")}
    rows = []
    for name in scores["test"]:
        threshold = select_retention_threshold(scores["validation"][name], 0.95)
        row: Row = {"score": name}
        for part in ("validation", "test"):
            inside, outside = scores[part][name], scores[f"{part}, out of scope"][name]
            row[f"AUROC, {part}"] = 100 * compute_auroc(inside, outside)
            row[f"recall, {part}"] = 100 * float(np.mean(outside < threshold))
            row[f"risk-coverage area, {part}"] = 100 * compute_risk_coverage(inside, correct[part]).area
        row["kept, test"] = 100 * float(np.mean(scores["test"][name] >= threshold))
        rows.append(row)
    return rows


def _normalize(rows: np.ndarray) -> np.ndarray:
    """Return rows with the length 1."""
    normalized: np.ndarray = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)
    return normalized


def _measure_use(checkpoint: Checkpoint, labels: np.ndarray, outputs: dict[str, tuple[np.ndarray, np.ndarray]]) -> Rows:
    """Return a row for each objective; an answer to a request in scope counts only if it is right."""
    abstention = checkpoint.metrics["abstention"]
    use = checkpoint.experiment.data.out_of_scope_use
    inside, outside = (
        softmax(outputs[part][1] / checkpoint.temperature).astype(np.float32) for part in ("test", "test, out of scope")
    )
    rows = []
    for objective in OBJECTIVES:
        rule = require_rule(checkpoint.metrics, objective)
        (classes, scores), (other_classes, others) = rule.apply(inside), rule.apply(outside)
        rows.append(
            {
                "examples": USES[use],
                "objective": objective,
                "validation, balanced": 100 * abstention["balanced_accuracy"],
                "accuracy": 100 * float(np.mean(inside.argmax(axis=1) == labels)),
                "AUROC": 100 * compute_auroc(scores, others),
                "kept": 100 * float(np.mean(classes >= 0)),
                "accuracy with abstention": 100 * float(np.mean(classes == labels)),
                "out-of-scope recall": 100 * float(np.mean(other_classes < 0)),
            }
        )
    return rows


def _average(rows: Rows) -> Rows:
    """Return a row of means for each combination of texts in the rows, in their order."""
    groups: dict[tuple[str, ...], Rows] = {}
    for row in rows:
        groups.setdefault(tuple(value for value in row.values() if isinstance(value, str)), []).append(row)
    return [
        {
            key: value if isinstance(value, str) else round(statistics.mean(row[key] for row in group), 2)
            for key, value in group[0].items()
        }
        for group in groups.values()
    ]


if __name__ == "__main__":
    main()
