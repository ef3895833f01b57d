"""Difference between the types of the projection table: labels and scores of test texts, and memory.

    python benchmarks/table_types.py            # six sets: twenty minutes or so on two cores
    python benchmarks/table_types.py --quick    # TREC, one epoch

A network is trained with default settings and the vectors file on each set; the test texts, those of MR's split, are
then classified with a table in int16 and with one in float32. `difference` is the largest one of any text and class,
`limit` is `Classifier.max_rounding_error`, and `smallest margin` the least difference of a text's two highest logits.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # to be run as a file

import numpy as np

from benchmarks.labelled_datasets import DATASET_FILES, add_data_options, make_experiment, require_vectors
from benchmarks.reporting import Row, print_json, print_table


def main() -> None:
    """Train on each set, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="TREC, one epoch")
    add_data_options(parser)
    parser.add_argument("--sets", nargs="+", choices=DATASET_FILES, help="(default: all)")
    parser.add_argument("--seeds", type=int, default=1, help="(default: %(default)s)")
    options = parser.parse_args()
    vectors = require_vectors(options)
    rows = []
    for name in options.sets or (["trec"] if options.quick else list(DATASET_FILES)):
        for seed in range(options.seeds):
            rows.append(measure_set(name, seed, vectors, options))
            print(rows[-1], flush=True)
    print_table("Table in int16 compared with float32, test texts", rows)
    print_json("table_types", {"quick": options.quick, "seeds": options.seeds}, {"difference": rows})


def measure_set(name: str, seed: int, vectors: str, options: argparse.Namespace) -> Row:
    """Return the differences on the test texts of a set."""
    from jobs.datasets.dataset import load_dataset
    from jobs.inference.classifier import Classifier
    from jobs.model.checkpoint import Checkpoint
    from jobs.training.corpora.building import build_corpus
    from jobs.training.loop import create_loop

    experiment = make_experiment(name, options.data, vectors, seed, "runs")
    if options.quick:
        experiment = experiment.replace({"train.epochs": 1})
    dataset = load_dataset(experiment)
    corpus = build_corpus(experiment, dataset, use_pretrained=True)
    loop = create_loop(experiment, corpus)
    weights: dict[str, np.ndarray] = {}
    for _, improved in loop.train_epochs():
        if improved:
            weights = {key: value.numpy().copy() for key, value in loop.network.weights().items()}
    texts = list(dataset.test.texts)
    checkpoint = Checkpoint(experiment, list(corpus.labels), list(corpus.words), weights, {})
    small = Classifier(checkpoint, table_dtype="int16", share_table=False)
    whole = Classifier(checkpoint, table_dtype="float32", share_table=False)
    logits, expected = small.predict_logits(texts), whole.predict_logits(texts)
    probabilities = small.predict_proba(texts) - whole.predict_proba(texts)
    top_two = np.sort(expected, axis=1)[:, -2:]
    return {
        "set": name,
        "texts": len(texts),
        "changed labels": int((logits.argmax(axis=1) != expected.argmax(axis=1)).sum()),
        "smallest margin": float((top_two[:, 1] - top_two[:, 0]).min()),
        "logits, difference": float(np.abs(logits - expected).max()),
        "limit": float(small.max_rounding_error.max()),
        "probabilities, difference": float(np.abs(probabilities).max()),
        "words in the table": small.num_rows,
        "in float32": whole.num_rows,
    }


if __name__ == "__main__":
    main()
