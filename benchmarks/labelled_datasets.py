"""The labelled data sets of the benchmarks, as experiments with default settings."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cluster.package import REPOSITORY
from jobs.config.experiment import Experiment

DATA_FOLDER = REPOSITORY.parent / "shared" / "data"
VECTORS_PATH = "vectors/reviews_blogs300_60k.bin.gz"

DATASET_FILES = {
    "trec": {"data.train": "train.tsv", "data.test": "test.tsv"},
    "mr": {"data.train": "all.tsv"},
    "sst2": {"data.train": "train.tsv", "data.validation": "dev.tsv", "data.test": "test.tsv"},
    "clinc150": {"data.train": "train.tsv", "data.validation": "dev.tsv", "data.test": "test.tsv"},
    "agnews20k": {"data.train": "train.tsv", "data.test": "test.tsv"},
    "imdb": {"data.train": "train.tsv.gz", "data.test": "test.tsv.gz"},
}

WITHOUT_VECTORS = ("imdb",)  # the vectors file was trained on its test texts


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """Add the options --data and --vectors."""
    parser.add_argument("--data", type=Path, default=DATA_FOLDER, help="folder of the data sets (default: %(default)s)")
    parser.add_argument("--vectors", help=f"vectors file (default: {VECTORS_PATH} in the folder of the data sets)")


def parse_options(
    document: str | None,
    quick: str,
    seeds: int | None = None,
    sets: Sequence[str] = (),
    quick_seeds: int = 1,
    parser: argparse.ArgumentParser | None = None,
) -> argparse.Namespace:
    """Return the options of a benchmark: --quick, --data, --vectors, and --seeds and --sets where there are such.

    Args:
        document: docstring of the benchmark. quick: help of --quick.
        seeds: their number by default; with --quick it is `quick_seeds`.
        sets: names of the data sets, all by default; with --quick the first one.
        parser: has more options.
    """
    parser = parser or argparse.ArgumentParser()
    parser.description = (document or "").partition("\n")[0]
    parser.add_argument("--quick", action="store_true", help=quick)
    add_data_options(parser)
    if seeds is not None:
        parser.add_argument("--seeds", type=int, help=f"(default: {seeds})")
    if sets:
        parser.add_argument("--sets", nargs="+", choices=sets, help="(default: all)")
    options = parser.parse_args()
    if seeds is not None:
        options.seeds = options.seeds or (quick_seeds if options.quick else seeds)
    if sets:
        options.sets = options.sets or (sets[:1] if options.quick else sets)
    return options


def require_vectors(options: argparse.Namespace) -> str:
    """Return the path of the vectors file; exit with a message if it does not exist."""
    path = options.vectors or str(options.data / VECTORS_PATH)
    if not Path(path).exists():
        sys.exit(f"{path}: no such file; set the options --data and --vectors")
    return path


def make_experiment(name: str, folder: Path, vectors: str | None, seed: int, storage: str) -> Experiment:
    """Return the experiment of a data set: default settings, except for paths and the seed."""
    settings: dict[str, object] = {"name": name, "seed": seed, "storage": storage, "data.folder": str(folder / name)}
    settings |= DATASET_FILES[name]
    if vectors is not None:
        settings["vectors.path"] = vectors
    return Experiment().replace(settings)
