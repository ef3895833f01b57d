"""The labelled data sets of the benchmarks, as experiments with default settings."""

import argparse
import sys
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


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """Add the options --data and --vectors."""
    parser.add_argument("--data", type=Path, default=DATA_FOLDER, help="folder of the data sets (default: %(default)s)")
    parser.add_argument("--vectors", help=f"vectors file (default: {VECTORS_PATH} in the folder of the data sets)")


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
