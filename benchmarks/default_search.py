"""Test accuracy of a search over the default space, compared with the default settings, on six labelled sets.

    python benchmarks/default_search.py                          # a quarter of an hour for each set and seed
    python benchmarks/default_search.py --sets trec --seeds 1
    python benchmarks/default_search.py --quick                  # TREC, one seed, 12 s of trials of two epochs

Each search is `finetune-cnn tune` with `tune.minutes` alone, on all cores. The default settings are trained on the same
training and validation rows with the same seed. The test part is measured at the end; nothing is chosen by it. MR has
no official test part; it is split again for each seed.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # to be run as a file

from benchmarks.labelled_datasets import DATASET_FILES, WITHOUT_VECTORS, make_experiment, parse_options, require_vectors
from benchmarks.reporting import Row, print_json, print_table
from cluster.storage import join, parent
from jobs.config.experiment import Experiment
from jobs.datasets.dataset import load_dataset
from jobs.datasets.readers import Split
from jobs.inference.classifier import Classifier
from jobs.model.checkpoint import load_checkpoint
from jobs.search.records import RecordStore, trial_folder_name
from jobs.search.tune import tune
from jobs.training.corpora.building import build_corpus
from jobs.training.cross_validation import train_and_evaluate
from jobs.training.run_files.checkpoint_store import checkpoint_name
from jobs.training.run_files.run_folder import BestCheckpoint


def main() -> None:
    """Search on each set, and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, help="time of the trials of a search (default: 14)")
    parser.add_argument("--results", type=Path, help="jsonl file; its results are reused, new ones are appended")
    quick = "TREC, one seed, 12 s of trials of two epochs"
    options = parse_options(__doc__, quick, seeds=3, sets=tuple(DATASET_FILES), parser=parser)
    minutes = options.minutes or (0.2 if options.quick else 14)
    start = time.perf_counter()
    rows: list[Row] = []
    if options.results and options.results.exists():
        rows = [json.loads(line) for line in options.results.read_text().splitlines()]
    known = {(row["set"], row["seed"]) for row in rows}
    with tempfile.TemporaryDirectory() as storage:
        for seed in range(options.seeds):
            for name in options.sets:
                if (name, seed) in known:
                    continue
                vectors = None if name in WITHOUT_VECTORS else require_vectors(options)
                experiment = make_experiment(name, options.data, vectors, seed, join(storage, str(seed)))
                if options.quick:
                    experiment = experiment.replace({"train.epochs": 2, "tune.epochs": 2})
                rows.append({"set": name, "seed": seed, **_measure(experiment, minutes)})
                print(json.dumps(rows[-1]), flush=True)
                if options.results:
                    with options.results.open("a") as stream:
                        stream.write(json.dumps(rows[-1]) + "\n")
    table = [_average([row for row in rows if row["set"] == name]) for name in options.sets]
    print_table("Test accuracy, %, means over seeds; gain: of the refit over the default settings", table)
    settings = {"seeds": options.seeds, "minutes": minutes, "seconds": time.perf_counter() - start}
    print_json("default_search", settings, {"sets": table, "searches": rows})


def _measure(experiment: Experiment, minutes: float) -> Row:
    """Return the accuracies of the default settings, of the best trial of a search, and of its refit."""
    dataset = load_dataset(experiment)
    default = train_and_evaluate(experiment, build_corpus(experiment, dataset, use_pretrained=True), dataset.test)
    start = time.perf_counter()
    path = tune(experiment.replace({"tune.minutes": minutes}))
    seconds = time.perf_counter() - start
    best = BestCheckpoint.read(path)
    run = join(parent(path), best.run or "")
    trial = join(run, trial_folder_name(best.trial or 0), checkpoint_name(best.epoch))
    return {
        "default": round(100 * default.accuracy, 2),
        "best trial": _score(trial, dataset.test),
        "refit": _score(join(parent(path), best.checkpoint), dataset.test),
        "trials": len(RecordStore(join(run, "trials")).read()),
        "seconds": round(seconds),
        "validation": {"default": default.validation["accuracy"], "best trial": best.metrics["accuracy"]},
        "settings": best.settings,
    }


def _score(path: str, test: Split) -> float:
    """Return the accuracy of a checkpoint in %."""
    predicted = Classifier(load_checkpoint(path), share_table=False).predict(test.texts)
    return round(100 * statistics.mean(label == own for label, own in zip(predicted, test.labels, strict=True)), 2)


def _average(rows: list[Row]) -> Row:
    """Return a row of the table."""
    gains = [row["refit"] - row["default"] for row in rows]
    return {
        "set": rows[0]["set"],
        **{key: round(statistics.mean(row[key] for row in rows), 2) for key in ("default", "best trial", "refit")},
        "gain": round(statistics.mean(gains), 2),
        "deviation": round(statistics.stdev(gains), 2) if len(gains) > 1 else None,
        "trials": round(statistics.mean(row["trials"] for row in rows)),
        "seconds": round(statistics.mean(row["seconds"] for row in rows)),
    }


if __name__ == "__main__":
    main()
