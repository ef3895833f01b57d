"""Selection of the rows to label next: `predict --uncertain`, the least certain rows alone, and random rows, on TREC.

    python benchmarks/labelling.py            # five seeds, five minutes or so on two cores
    python benchmarks/labelling.py --quick    # one seed, two rounds, two epochs

A network is trained on 200 labelled rows, drawn from each class by its size. In each of five rounds 100 of the other
training rows are selected and labelled, and the network is trained anew. All settings are at their defaults, with the
vectors file; a tenth of the labelled rows is the validation part. The test part measures, and selects nothing.
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
from jobs.config.experiment import Experiment
from jobs.datasets.chunks import Chunk
from jobs.datasets.dataset import Dataset, stratified_split
from jobs.datasets.readers import Split, read_rows
from jobs.inference.batch.uncertain_rows import select_uncertain_rows
from jobs.inference.classifier import Classifier
from jobs.model.checkpoint import Checkpoint

FIRST_ROWS, ROWS_PER_ROUND = 200, 100
SIDES = ("random", "least margin", "predict --uncertain")


def main() -> None:
    """Run the rounds of each side and seed, and print the table."""
    options = parse_options(__doc__, "one seed, two rounds, two epochs", seeds=5)
    vectors, seeds, rounds = require_vectors(options), options.seeds, 2 if options.quick else 5
    start = time.perf_counter()
    results: dict[tuple[str, int], list[float]] = {}
    with tempfile.TemporaryDirectory() as storage:
        for (side, seed), accuracies in _measure(options, seeds, rounds, vectors, storage):
            results[side, seed] = accuracies
            print(f"{side:20} seed {seed}   {'  '.join(f'{value:.1f}' for value in accuracies)}", flush=True)
    rows = [_make_row(side, [results[side, seed] for seed in range(seeds)], results, seeds) for side in SIDES]
    print_table("Test accuracy by number of labelled rows, %, mean over seeds", rows)
    print_json("labelling", {"seeds": seeds, "seconds": time.perf_counter() - start}, {"sides": rows})


def _measure(
    options: argparse.Namespace, seeds: int, rounds: int, vectors: str, storage: str
) -> Iterator[tuple[tuple[str, int], list[float]]]:
    from jobs.training.parallel_tasks import run_in_processes

    def list_jobs() -> Iterator[tuple[tuple[str, int], tuple[Experiment, str, int]]]:
        for seed in range(seeds):
            experiment = make_experiment("trec", options.data, vectors, seed, storage)
            if options.quick:
                experiment = experiment.replace({"train.epochs": 2})
            for side in SIDES:
                yield (side, seed), (experiment, side, rounds)

    yield from run_in_processes(run_rounds, list_jobs(), 1)


def run_rounds(experiment: Experiment, side: str, rounds: int) -> list[float]:
    """Return the test accuracy in % with the first rows, and after each round."""
    pool = read_rows("train.tsv", experiment.data)
    test = read_rows("test.tsv", experiment.data)
    random = np.random.default_rng(experiment.seed)
    indices = Split([str(index) for index in range(len(pool))], pool.labels)  # texts are the numbers of the rows
    first, _ = stratified_split(indices, 1 - FIRST_ROWS / len(pool), experiment.seed, "share")
    labelled = [int(text) for text in first.texts]
    accuracies = []
    for number in range(rounds + 1):
        checkpoint = _train(experiment, pool.select(sorted(labelled)), test)
        predicted = Classifier(checkpoint, share_table=False).predict(test.texts)
        accuracies.append(100 * float(np.mean(np.array(predicted) == np.array(test.labels))))
        if number < rounds:
            known = set(labelled)
            others = [index for index in range(len(pool)) if index not in known]
            labelled += _select(side, checkpoint, pool, others, random)
    return accuracies


def _train(experiment: Experiment, rows: Split, test: Split) -> Checkpoint:
    from jobs.estimator.training import train_dataset

    train, validation = stratified_split(rows, experiment.data.validation_share, experiment.seed, "share")
    return train_dataset(experiment, Dataset(train, validation, test, sorted(set(train.labels)), [])).checkpoint


def _select(
    side: str, checkpoint: Checkpoint, pool: Split, others: list[int], random: np.random.Generator
) -> list[int]:
    """Return the numbers of the rows to label next."""
    if side == "random":
        return [int(index) for index in random.permutation(others)[:ROWS_PER_ROUND]]
    texts, classifier = [pool.texts[index] for index in others], Classifier(checkpoint, share_table=False)
    if side == "least margin":
        best = np.sort(classifier.predict_proba(texts), axis=1)[:, -2:]
        order = np.argsort(best[:, 1] - best[:, 0], kind="stable")[:ROWS_PER_ROUND]
        return [others[index] for index in order.tolist()]
    chunk = Chunk(texts, [{"row": index} for index in others])
    selected = select_uncertain_rows(checkpoint, classifier, [chunk], ROWS_PER_ROUND)
    return [int(str(record["row"])) for record in selected.records]


def _make_row(side: str, runs: list[list[float]], results: dict[tuple[str, int], list[float]], seeds: int) -> Row:
    means = [round(statistics.mean(values), 1) for values in zip(*runs, strict=True)]
    numbers = (FIRST_ROWS + ROWS_PER_ROUND * index for index in range(len(means)))
    after_first = [statistics.mean(run[1:]) for run in runs]
    random = [statistics.mean(results[SIDES[0], seed][1:]) for seed in range(seeds)]
    return {
        "side": side,
        **{f"{number} rows": mean for number, mean in zip(numbers, means, strict=True)},
        "mean of the rounds": round(statistics.mean(after_first), 2),
        "seeds above random": sum(one > other for one, other in zip(after_first, random, strict=True)),
    }


if __name__ == "__main__":
    main()
