"""Table 2 of Kim (2014): four ways to use word vectors, on TREC, SST-2 and MR.

    python benchmarks/kim2014.py            # all, three seeds: an hour or so on two cores
    python benchmarks/kim2014.py --quick    # TREC, one seed, two epochs

Everything is at its default, but that random vectors have 300 dimensions as the others. TREC and SST-2 (its
sentences alone; Kim's phrases are not in the files) have official test parts, MR has 10 folds, drawn anew
for each seed. Trainings are spread over the cluster by Ray; with --results they are kept in a file, and what
is in it is not trained again.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # to be run as a file

from benchmarks.labelled_datasets import DATA_FOLDER, VECTORS_PATH, make_experiment
from benchmarks.reporting import print_json, print_table
from jobs.config.experiment import Experiment
from jobs.config.settings import Embedding

EMBEDDINGS = get_args(Embedding)
FOLDS = 10
# Kim (2014), Table 2, with the 3 million Google News vectors; his SST-2 was trained on phrases too.
PUBLISHED_ACCURACY = {
    "trec": {"rand": 91.2, "static": 92.8, "non-static": 93.6, "multichannel": 92.2},
    "sst2": {"rand": 82.7, "static": 86.8, "non-static": 87.2, "multichannel": 88.1},
    "mr": {"rand": 76.1, "static": 81.0, "non-static": 81.5, "multichannel": 81.1},
}
RunKey = tuple[str, str, int, int]  # set, kind, seed, fold


def main() -> None:
    """Train what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="TREC, one seed, two epochs")
    parser.add_argument("--data", type=Path, default=DATA_FOLDER, help="folder of the sets (default: %(default)s)")
    parser.add_argument("--vectors", help=f"(default: {VECTORS_PATH} in the data's folder)")
    parser.add_argument("--seeds", type=int, help="(default: 3)")
    parser.add_argument("--sets", nargs="+", choices=PUBLISHED_ACCURACY, help="(default: all)")
    parser.add_argument("--kinds", nargs="+", choices=EMBEDDINGS, default=EMBEDDINGS, help="(default: all)")
    parser.add_argument("--results", type=Path, help="jsonl file to add results to, and to take them from")
    options = parser.parse_args()
    vectors = options.vectors or str(options.data / VECTORS_PATH)
    if not os.path.exists(vectors):
        sys.exit(f"{vectors}: no such file; name the data with --data and --vectors")
    sets = options.sets or (["trec"] if options.quick else list(PUBLISHED_ACCURACY))
    seeds = options.seeds or (1 if options.quick else 3)
    start = time.perf_counter()
    found = _known(options.results)
    with tempfile.TemporaryDirectory() as storage:
        names = _names(sets, options.kinds, seeds)
        missing = [name for name in names if name not in found]
        print(f"{len(names)} trainings, {len(names) - len(missing)} of them known", flush=True)
        if missing:
            from cluster.connection import connect

            with connect():
                _train(missing, options, vectors, storage, found)
    rows = [_row(name, kind, found, seeds) for name in sets for kind in options.kinds]
    print_table("Test accuracy, % (mean over seeds, deviation of seeds; Kim 2014)", rows)
    settings = {"seeds": seeds, "quick": options.quick, "seconds": time.perf_counter() - start}
    print_json("kim2014", settings, {"accuracy": rows})


def _train(
    missing: list[RunKey], options: argparse.Namespace, vectors: str, storage: str, found: dict[RunKey, Any]
) -> None:
    from jobs.training.cross_validation import train_in_parallel

    for done, (name, result) in enumerate(train_in_parallel(_jobs(missing, options, vectors, storage), 1), start=1):
        found[name] = result
        print(
            f"{done:4d} of {len(missing)}   {' '.join(map(str, name)):28} accuracy {result['accuracy']:.4f}   epoch "
            f"{result['epoch']:2d}   {result['seconds']:.0f} s",
            flush=True,
        )
        if options.results:
            with options.results.open("a") as stream:
                stream.write(json.dumps({"name": name, **result}) + "\n")


def _jobs(names: list[RunKey], options: argparse.Namespace, vectors: str, storage: str) -> Iterator[Any]:
    """Yield each training; kinds of the same set, seed and fold come together and share their corpus."""
    import ray

    from jobs.datasets import dataset
    from jobs.training.corpus import build_corpus, load_text_vectors

    def say(line: str) -> None:
        print(line, file=sys.stderr)

    held: dict[Any, Any] = {}
    read: dict[str, Any] = {}
    for name, kind, seed, fold in names:
        chosen = _experiment(name, kind, seed, options, vectors, storage)
        if (name, seed, fold) not in held:
            parts = dataset.load_folds(chosen) if chosen.train.folds else [dataset.load_dataset(chosen)]
            part = parts[fold]
            if name not in read:
                read = {name: load_text_vectors(chosen, part.train.texts + part.validation.texts + part.test.texts)}
            corpora = {
                pretrained: ray.put(build_corpus(chosen, part, use_pretrained=pretrained, word_vectors=read[name]))
                for pretrained in (True, False)
            }
            held = {(name, seed, fold): (corpora, part.test)}
        corpora, test = held[name, seed, fold]
        yield (name, kind, seed, fold), chosen, corpora[kind != "rand"], test


def _experiment(name: str, kind: str, seed: int, options: argparse.Namespace, vectors: str, storage: str) -> Experiment:
    settings: dict[str, object] = {"model.embedding": kind, "vectors.dimensions": 300}
    if name == "mr":
        settings["train.folds"] = FOLDS
    if options.quick:
        settings["train.epochs"] = 2
    return make_experiment(name, options.data, vectors, seed, storage).replace(settings)


def _names(sets: list[str], kinds: list[str], seeds: int) -> list[RunKey]:
    return [
        (name, kind, seed, fold)
        for seed in range(seeds)
        for name in sets
        for fold in range(FOLDS if name == "mr" else 1)
        for kind in kinds
    ]


def _known(results: Path | None) -> dict[RunKey, Any]:
    if results is None or not results.exists():
        return {}
    found = (json.loads(line) for line in results.read_text().splitlines())
    return {tuple(each.pop("name")): each for each in found}


def _row(name: str, kind: str, found: dict[RunKey, Any], seeds: int) -> dict[str, Any]:
    folds = range(FOLDS if name == "mr" else 1)
    of_seeds = [
        100 * statistics.mean(found[name, kind, seed, fold]["accuracy"] for fold in folds) for seed in range(seeds)
    ]
    each = [100 * found[name, kind, seed, fold]["accuracy"] for seed in range(seeds) for fold in folds]
    return {
        "set": name,
        "kind": kind,
        "accuracy": round(statistics.mean(of_seeds), 2),
        "deviation": round(statistics.stdev(of_seeds), 2) if seeds > 1 else None,
        "lowest": round(min(each), 1),
        "highest": round(max(each), 1),
        "trainings": len(each),
        "Kim 2014": PUBLISHED_ACCURACY[name][kind],
    }


if __name__ == "__main__":
    main()
