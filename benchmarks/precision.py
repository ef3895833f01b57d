"""What train.precision=bfloat16 costs in accuracy, beside float32, over several seeds.

    python benchmarks/precision.py            # TREC and SST-2, five seeds
    python benchmarks/precision.py --quick    # TREC, one seed, one epoch

All settings are at their defaults, the vectors those of the file. Both sides start alike and see the same batches
and dropout masks. Where the processor has no instruction for bfloat16 the same numbers come more slowly.
"""

import argparse
import os
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # to be run as a file

from benchmarks.labelled_datasets import DATA_FOLDER, VECTORS_PATH, make_experiment
from benchmarks.reporting import print_json, print_table

PRECISIONS = ("float32", "bfloat16")


def main() -> None:
    """Train on both sides, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="TREC, one seed, one epoch")
    parser.add_argument("--data", type=Path, default=DATA_FOLDER, help="folder of the sets (default: %(default)s)")
    parser.add_argument("--vectors", help=f"(default: {VECTORS_PATH} in the data's folder)")
    parser.add_argument("--seeds", type=int, help="(default: 5)")
    parser.add_argument("--sets", nargs="+", choices=("trec", "sst2"), help="(default: both)")
    options = parser.parse_args()
    vectors = options.vectors or str(options.data / VECTORS_PATH)
    if not os.path.exists(vectors):
        sys.exit(f"{vectors}: no such file; name the data with --data and --vectors")
    sets = options.sets or (["trec"] if options.quick else ["trec", "sst2"])
    seeds = options.seeds or (1 if options.quick else 5)

    from jobs.datasets import dataset
    from jobs.training.corpus import build_corpus
    from jobs.training.cross_validation import train_and_evaluate

    rows = []
    with tempfile.TemporaryDirectory() as storage:
        for name in sets:
            found: dict[str, list[float]] = {precision: [] for precision in PRECISIONS}
            for seed in range(seeds):
                chosen = make_experiment(name, options.data, vectors, seed, storage)
                if options.quick:
                    chosen = chosen.replace({"train.epochs": 1})
                parts = dataset.load_dataset(chosen)
                corpus = build_corpus(chosen, parts, use_pretrained=True)
                for precision in PRECISIONS:
                    result = train_and_evaluate(chosen.replace({"train.precision": precision}), corpus, parts.test)
                    found[precision].append(100 * result["accuracy"])
                    print(f"{name} seed {seed} {precision:8} {found[precision][-1]:.2f}", flush=True)
            differences = [b - a for a, b in zip(*found.values(), strict=True)]
            rows += [
                {
                    "set": name,
                    "precision": precision,
                    "accuracy": statistics.mean(values),
                    "deviation": statistics.stdev(values) if seeds > 1 else None,
                    "difference": statistics.mean(differences) if precision == "bfloat16" else None,
                    "its deviation": statistics.stdev(differences) if seeds > 1 and precision == "bfloat16" else None,
                }
                for precision, values in found.items()
            ]
    print_table("Test accuracy, % (mean over seeds, deviation of seeds)", rows)
    print_json("precision", {"seeds": seeds, "quick": options.quick}, {"accuracy": rows})


if __name__ == "__main__":
    main()
