"""Cost of train.precision=bfloat16 in accuracy, compared with float32, over several seeds.

    python benchmarks/precision.py            # TREC and SST-2, five seeds
    python benchmarks/precision.py --quick    # TREC, one seed, one epoch

All settings are defaults, with the vectors file, except that the network is alone (`model.linear=none`). Both
precisions start from the same weights and use the same batches and dropout masks. Processors without an instruction for
bfloat16 compute the same numbers, but slower.
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # to be run as a file

from benchmarks.labelled_datasets import add_data_options, make_experiment, require_vectors
from benchmarks.reporting import Row, print_json, print_table

PRECISIONS = ("float32", "bfloat16")


def main() -> None:
    """Train with both precisions, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="TREC, one seed, one epoch")
    add_data_options(parser)
    parser.add_argument("--seeds", type=int, help="(default: 5)")
    parser.add_argument("--sets", nargs="+", choices=("trec", "sst2"), help="(default: both)")
    options = parser.parse_args()
    vectors = require_vectors(options)
    sets = options.sets or (["trec"] if options.quick else ["trec", "sst2"])
    seeds = options.seeds or (1 if options.quick else 5)
    rows = []
    with tempfile.TemporaryDirectory() as storage:
        for name in sets:
            rows += measure_set(name, seeds, options, vectors, storage)
    print_table("Test accuracy, % (mean and standard deviation over seeds; difference to float32)", rows)
    print_json("precision", {"seeds": seeds, "quick": options.quick}, {"accuracy": rows})


def measure_set(name: str, seeds: int, options: argparse.Namespace, vectors: str, storage: str) -> list[Row]:
    """Return a row for each precision."""
    from jobs.datasets.dataset import load_dataset
    from jobs.training.corpora.building import build_corpus
    from jobs.training.cross_validation import train_and_evaluate

    accuracies: dict[str, list[float]] = {precision: [] for precision in PRECISIONS}
    for seed in range(seeds):
        experiment = make_experiment(name, options.data, vectors, seed, storage)
        if options.quick:
            experiment = experiment.replace({"train.epochs": 1})
        dataset = load_dataset(experiment)
        corpus = build_corpus(experiment, dataset, use_pretrained=True)
        for precision in PRECISIONS:
            result = train_and_evaluate(
                experiment.replace({"train.precision": precision, "model.linear": "none"}), corpus, dataset.test
            )
            accuracies[precision].append(100 * result.accuracy)
            print(f"{name} seed {seed} {precision:8} {accuracies[precision][-1]:.2f}", flush=True)
    differences = [other - float32 for float32, other in zip(*accuracies.values(), strict=True)]
    return [
        {
            "set": name,
            "precision": precision,
            "accuracy": statistics.mean(values),
            "deviation": statistics.stdev(values) if seeds > 1 else None,
            "difference": statistics.mean(differences) if precision == "bfloat16" else None,
            "its deviation": statistics.stdev(differences) if seeds > 1 and precision == "bfloat16" else None,
        }
        for precision, values in accuracies.items()
    ]


if __name__ == "__main__":
    main()
