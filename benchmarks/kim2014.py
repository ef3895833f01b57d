"""Table 2 of Kim (2014): four kinds of embedding on TREC, SST-2 and MR.

    python benchmarks/kim2014.py            # all, three seeds: an hour or so on two cores
    python benchmarks/kim2014.py --quick    # TREC, one seed, two epochs

All settings are defaults, except that random vectors have 300 dimensions like the others, and that there is no linear
classifier next to the network (`model.linear`), since Kim had none. TREC and SST-2 (sentences only; the files do not
contain Kim's phrases) have official test parts. MR has 10 folds, drawn again for each seed.
Ray distributes the training runs over the cluster. With --results they are saved to a file and not repeated.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # to be run as a file

from benchmarks.labelled_datasets import add_data_options, make_experiment, require_vectors
from benchmarks.reporting import Row, print_json, print_table
from jobs.config.experiment import Experiment
from jobs.config.settings import Embedding

EMBEDDINGS = get_args(Embedding)
FOLDS = 10
# Kim (2014), Table 2, with the 3 million Google News vectors; SST-2 with phrases as training texts too.
PUBLISHED_ACCURACY = {
    "trec": {"rand": 91.2, "static": 92.8, "non-static": 93.6, "multichannel": 92.2},
    "sst2": {"rand": 82.7, "static": 86.8, "non-static": 87.2, "multichannel": 88.1},
    "mr": {"rand": 76.1, "static": 81.0, "non-static": 81.5, "multichannel": 81.1},
}
RunKey = tuple[str, str, int, int]  # data set, embedding, seed, fold
Results = dict[RunKey, dict[str, Any]]


def main() -> None:
    """Train what --results does not contain, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="TREC, one seed, two epochs")
    add_data_options(parser)
    parser.add_argument("--seeds", type=int, help="(default: 3)")
    parser.add_argument("--sets", nargs="+", choices=PUBLISHED_ACCURACY, help="(default: all)")
    parser.add_argument("--embeddings", nargs="+", choices=EMBEDDINGS, default=EMBEDDINGS, help="(default: all)")
    parser.add_argument("--results", type=Path, help="jsonl file; its results are reused, new ones are appended")
    options = parser.parse_args()
    options.vectors = require_vectors(options)
    sets = options.sets or (["trec"] if options.quick else list(PUBLISHED_ACCURACY))
    seeds = options.seeds or (1 if options.quick else 3)
    start = time.perf_counter()
    results = _read_results(options.results)
    keys = _make_keys(sets, options.embeddings, seeds)
    missing = [key for key in keys if key not in results]
    print(f"{len(keys)} trainings, {len(keys) - len(missing)} of them in the results file", flush=True)
    if missing:
        from cluster.connection import connect

        with tempfile.TemporaryDirectory() as storage, connect():
            _train(missing, options, storage, results)
    rows = [_make_row(name, embedding, results, seeds) for name in sets for embedding in options.embeddings]
    print_table("Test accuracy, % (mean and standard deviation over seeds; results of Kim 2014)", rows)
    settings = {"seeds": seeds, "quick": options.quick, "seconds": time.perf_counter() - start}
    print_json("kim2014", settings, {"accuracy": rows})


def _train(missing: list[RunKey], options: argparse.Namespace, storage: str, results: Results) -> None:
    from jobs.training.cross_validation import train_in_parallel

    for done, (key, result) in enumerate(train_in_parallel(_training_jobs(missing, options, storage), 1), start=1):
        results[key] = result.to_json()
        print(
            f"{done:4d} of {len(missing)}   {' '.join(map(str, key)):28} accuracy {result.accuracy:.4f}   epoch "
            f"{result.epoch:2d}   {result.seconds:.0f} s",
            flush=True,
        )
        if options.results:
            with options.results.open("a") as stream:
                stream.write(json.dumps({"name": key, **result.to_json()}) + "\n")


def _training_jobs(keys: list[RunKey], options: argparse.Namespace, storage: str) -> Iterator[Any]:
    """Yield the training runs; embeddings of the same set, seed and fold are consecutive and share their corpus."""
    import ray

    from jobs.datasets.dataset import load_dataset, load_folds
    from jobs.training.corpora.building import build_corpus, load_text_vectors

    shared: dict[Any, Any] = {}
    vectors: dict[str, Any] = {}
    for name, embedding, seed, fold in keys:
        experiment = _make_experiment(name, embedding, seed, options, storage)
        if (name, seed, fold) not in shared:
            datasets = load_folds(experiment, FOLDS) if name == "mr" else [load_dataset(experiment)]
            dataset = datasets[fold]
            if name not in vectors:
                texts = dataset.train.texts + dataset.validation.texts + dataset.test.texts
                vectors = {name: load_text_vectors(experiment, texts)}
            corpora = {
                pretrained: ray.put(
                    build_corpus(experiment, dataset, use_pretrained=pretrained, word_vectors=vectors[name])
                )
                for pretrained in (True, False)
            }
            shared = {(name, seed, fold): (corpora, dataset.test)}
        corpora, test = shared[name, seed, fold]
        yield (name, embedding, seed, fold), experiment, corpora[embedding != "rand"], test


def _make_experiment(name: str, embedding: str, seed: int, options: argparse.Namespace, storage: str) -> Experiment:
    settings: dict[str, object] = {
        "model.embedding": embedding, "model.linear": "none", "vectors.dimensions": 300,
    }  # fmt: skip
    if options.quick:
        settings["train.epochs"] = 2
    return make_experiment(name, options.data, options.vectors, seed, storage).replace(settings)


def _make_keys(sets: list[str], embeddings: list[str], seeds: int) -> list[RunKey]:
    return [
        (name, embedding, seed, fold)
        for seed in range(seeds)
        for name in sets
        for fold in range(FOLDS if name == "mr" else 1)
        for embedding in embeddings
    ]


def _read_results(path: Path | None) -> Results:
    if path is None or not path.exists():
        return {}
    records = [json.loads(line) for line in path.read_text().splitlines()]
    return {tuple(record.pop("name")): record for record in records}


def _make_row(name: str, embedding: str, results: Results, seeds: int) -> Row:
    folds = range(FOLDS if name == "mr" else 1)
    accuracies = [
        [100 * results[name, embedding, seed, fold]["accuracy"] for fold in folds] for seed in range(seeds)
    ]  # by seed
    means = [statistics.mean(values) for values in accuracies]
    flat = [value for values in accuracies for value in values]
    return {
        "set": name,
        "embedding": embedding,
        "accuracy": round(statistics.mean(means), 2),
        "deviation": round(statistics.stdev(means), 2) if seeds > 1 else None,
        "lowest": round(min(flat), 1),
        "highest": round(max(flat), 1),
        "trainings": len(flat),
        "Kim 2014": PUBLISHED_ACCURACY[name][embedding],
    }


if __name__ == "__main__":
    main()
