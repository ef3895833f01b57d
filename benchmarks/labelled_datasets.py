"""The labelled sets that the benchmarks run on, as experiments with the default settings and nothing else set."""

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


def make_experiment(name: str, folder: Path, vectors: str | None, seed: int, storage: str) -> Experiment:
    """Return the experiment of a set: all defaults but for where the data lies and the seed."""
    settings: dict[str, object] = {"name": name, "seed": seed, "storage": storage, "data.folder": str(folder / name)}
    settings |= DATASET_FILES[name]
    if vectors is not None:
        settings["vectors.path"] = vectors
    return Experiment().replace(settings)
