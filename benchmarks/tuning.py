"""Overhead of a search beyond the training of its trials.

    python benchmarks/tuning.py                 # about a quarter of an hour on two cores
    python benchmarks/tuning.py --only kills    # one part: overhead, sides, nested, memory, checkpoints or kills
    python benchmarks/tuning.py --quick         # small numbers, about a minute, without the last two parts

In its own embedded Ray, with generated texts, it measures:

* overhead: a search of 64 trials of some seconds. The overhead per trial is the cores' time that was not spent in
  training, without the start of the trials' processes; the share of the cores' time in training includes the start;
* trials per hour where a trial trains for about a second, compared with the usual pattern, a TorchTrainer in every
  trial, which runs the same loop;
* the same search with Ray Tune's own features (benchmarks/ray_tuner.py), alternately: overhead, and space on the disk;
  also with checkpoints of 75 MB;
* kills of the driver on both sides (benchmarks/search_kills.py);
* private memory of a trial's process with a large table of vectors, compared with a small one.
"""

import argparse
import functools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # to be run as a file

from benchmarks.generated_data import NUM_WORDS, write_texts
from benchmarks.private_memory import sample_private_memory
from benchmarks.reporting import Row, print_json, print_table
from cluster.connection import connect
from jobs.config.experiment import Experiment
from jobs.search.tune import tune
from jobs.training.corpora.corpus import Corpus

CORES = 2
DIMENSIONS = 300  # of the vectors files


@dataclass(frozen=True)
class FinishedSearch:
    """Seconds of training and ends of the trials, in the order of the ends; start of the first process. Unix times."""

    seconds: list[float]
    ends: list[float]
    start: float


@dataclass(frozen=True)
class Sizes:
    """Sizes of the measurements: trials and epochs of each, rows of the texts, words of the large vectors file.

    sides: and rounds. kills: trials, and kills of each side.
    """

    rows: int
    overhead: tuple[int, int]
    sides: tuple[int, int, int]
    large: tuple[int, int]
    kills: tuple[int, int]
    short: tuple[int, int]
    nested_trials: int
    memory: tuple[int, int]
    words: int


FULL = Sizes(
    rows=4000, overhead=(64, 10), sides=(24, 2, 2), large=(5, 2), kills=(16, 6), short=(32, 3), nested_trials=8,
    memory=(4, 6), words=400_000,
)  # fmt: skip
QUICK = Sizes(
    rows=300, overhead=(CORES + 1, 1), sides=(CORES + 1, 1, 1), large=(CORES + 1, 2), kills=(4, 1), short=(1, 1),
    nested_trials=1, memory=(1, 3), words=20_000,
)  # fmt: skip


def make_search_experiment(folder: Path, name: str, trials: int, epochs: int, **settings: Any) -> Experiment:
    """Return the experiment of a search with `trials` trials; without the training with the best settings after them,
    which the other sides do not have."""
    return Experiment().replace({
        "name": name, "storage": str(folder / "runs"), "data.train": str(folder / "texts.csv"),
        "model.embedding": "rand", "vectors.dimensions": 100, "model.feature_maps": 50, "train.patience": 1000,
        "train.epochs": epochs, "tune.epochs": None, "tune.scheduler": "none", "tune.samples": trials,
        "tune.refit": False,
        "tune.space": {"model.dropout": {"uniform": [0.1, 0.6]}}, **settings,
    })  # fmt: skip


def run_search(experiment: Experiment) -> FinishedSearch:
    """Run a search and return the times of its trials."""
    tune(experiment)
    [folder] = Path(experiment.storage, experiment.name).glob("tune-*")
    start = (folder / "experiment.yaml").stat().st_mtime  # written when the trials are about to start
    records = [json.loads(path.read_text()) for path in sorted((folder / "trials").glob("*.json"))]
    records.sort(key=lambda record: record["ended"])
    return FinishedSearch([record["seconds"] for record in records], [record["ended"] for record in records], start)


def measure_overhead(folder: Path, sizes: Sizes) -> list[Row]:
    """Return the overhead of a search beyond its training."""
    trials, epochs = sizes.overhead
    search = run_search(make_search_experiment(folder, "overhead", trials, epochs))
    share = sum(search.seconds) / (CORES * (search.ends[-1] - search.start))
    return [{"trials": trials, **compute_overhead(search), "share of the cores' time in training": share}]


def compare_with_ray_tune(folder: Path, sizes: Sizes) -> list[Row]:
    """Return the overhead of this project and of Ray Tune's own features, in alternate searches of short trials."""
    trials, epochs, rounds = sizes.sides
    settings = {"tune.search": "optuna", "tune.trials": trials, "tune.scheduler": "asha", "tune.grace_epochs": epochs}
    sides = {
        "this project": run_search,
        "Ray Tune": run_tuner,
        "Ray Tune, state every 10 s": functools.partial(run_tuner, state_period="auto"),
    }
    rows: dict[str, list[Row]] = {name: [] for name in sides}
    for number in range(rounds):
        for side, (name, run) in enumerate(sides.items()):
            experiment = make_search_experiment(folder, f"side-{side}-{number}", trials, epochs, **settings)
            rows[name].append(compute_overhead(run(experiment)) | {"MB": folder_megabytes(experiment)})
    return [
        {"side": name, "trials": trials} | {key: statistics.median(row[key] for row in items) for key in items[0]}
        for name, items in rows.items()
    ]


def compare_large_checkpoints(folder: Path, sizes: Sizes) -> list[Row]:
    """Return the overhead and the disk space with checkpoints of 75 MB (in the small form: less)."""
    trials, epochs = sizes.large
    words = sizes.words * 62_500 // 400_000
    vectors = folder / "large-checkpoint.bin"
    write_vectors(vectors, words)
    settings = {"tune.search": "optuna", "tune.trials": trials, "model.embedding": "non-static",
                "vectors.path": str(vectors), "vectors.extra_words": words, "train.patience": 1000}  # fmt: skip
    sides = {
        "this project": run_search,
        "Ray Tune, best epochs of the search": run_tuner,
        "Ray Tune, every epoch": functools.partial(run_tuner, checkpoint_frequency=1),
    }
    rows = []
    for side, (name, run) in enumerate(sides.items()):
        experiment = make_search_experiment(folder, f"checkpoints-{side}", trials, epochs, **settings)
        rows.append({"side": name, "trials": trials, **compute_overhead(run(experiment))})
        rows[-1] |= {"MB": folder_megabytes(experiment)}
    return rows


def run_tuner(experiment: Experiment, **options: Any) -> FinishedSearch:
    """Run a search with Ray Tune's own features and return the times of its trials; options: of `run_ray_search`."""
    from benchmarks.ray_tuner import run_ray_search

    ended: list[tuple[float, float]] = []
    start = time.time()
    run_ray_search(experiment, f"{experiment.storage}/{experiment.name}", lambda *trial: ended.append(trial), **options)
    return FinishedSearch([seconds for seconds, _ in ended], [end for _, end in ended], start)


def folder_megabytes(experiment: Experiment) -> float:
    """Return the size of all files of an experiment's runs, in MB; checkpoints share files, which count once."""
    files = [path.stat() for path in Path(experiment.storage, experiment.name).rglob("*") if path.is_file()]
    return sum({(file.st_dev, file.st_ino): file.st_size for file in files}.values()) / 1e6


def compute_overhead(search: FinishedSearch) -> Row:
    """Return the cores' time of a trial, and how much of it was not spent in training, without the processes' start.

    Work of the driver beside the trials slows down their training, so the first number is the one to compare.
    """
    trials = len(search.ends) - CORES
    cores_seconds = CORES * (search.ends[-1] - search.ends[CORES - 1]) / trials
    training = sum(search.seconds[CORES:]) / trials
    return {
        "cores' time a trial, s": cores_seconds,
        "training a trial, s": training,
        "overhead a trial, s": cores_seconds - training,
    }


def compare_with_nested(folder: Path, sizes: Sizes) -> list[Row]:
    """Return the trials per hour of this project, and with a TorchTrainer in every trial; both include their start."""
    trials, epochs = sizes.short
    search = run_search(make_search_experiment(folder, "short", trials, epochs))
    training = statistics.median(search.seconds)
    ours = 3600 * trials / (search.ends[-1] - search.start)
    start = time.time()
    run_nested_search(make_search_experiment(folder, "nested", sizes.nested_trials, epochs), folder)
    theirs = 3600 * sizes.nested_trials / (time.time() - start)
    return [
        {"side": "this project", "trials": trials, "training a trial, s": training, "trials an hour": ours,
         "times": ours / theirs},
        {"side": "a TorchTrainer in every trial", "trials": sizes.nested_trials, "training a trial, s": training,
         "trials an hour": theirs, "times": 1.0},
    ]  # fmt: skip


def run_nested_search(experiment: Experiment, folder: Path) -> None:
    """Search with the usual pattern: each trial starts a TorchTrainer with one worker, which reports its epochs."""
    import ray
    import ray.train
    import ray.tune
    from ray.train.torch import TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    from jobs.datasets.dataset import load_dataset
    from jobs.training.corpora.building import build_corpus

    reference = ray.put(build_corpus(experiment, load_dataset(experiment), use_pretrained=False))

    def train_loop(config: dict[str, Any]) -> None:
        import torch

        from jobs.training.loop import create_loop

        torch.set_num_threads(1)
        corpus: Corpus = ray.get(config["corpus"])
        for epoch, _ in create_loop(experiment.replace({"model.dropout": config["dropout"]}), corpus).train_epochs():
            ray.train.report({"accuracy": epoch.accuracy})

    def trial(config: dict[str, Any]) -> None:
        TorchTrainer(
            train_loop,
            train_loop_config=config | {"corpus": reference},
            scaling_config=ray.train.ScalingConfig(num_workers=1),
            run_config=ray.train.RunConfig(
                name=f"train-{ray.tune.get_context().get_trial_id()}", storage_path=str(folder / "nested"),
                callbacks=[TuneReportCallback()],
            ),
        ).fit()  # fmt: skip

    results = ray.tune.Tuner(
        # The trials themselves take no CPU: with one each, two of them would leave none for their workers.
        ray.tune.with_resources(trial, {"cpu": 0, "memory": 1e6}),
        param_space={"dropout": ray.tune.uniform(0.1, 0.6)},
        tune_config=ray.tune.TuneConfig(
            num_samples=experiment.tune.samples, max_concurrent_trials=CORES, metric="accuracy", mode="max"
        ),
        run_config=ray.tune.RunConfig(name="nested", storage_path=str(folder / "runs"), verbose=0),
    ).fit()
    if results.errors:
        raise RuntimeError(f"a nested trial failed: {results.errors[0]}")


def measure_memory(folder: Path, sizes: Sizes) -> list[Row]:
    """Return the private memory of a trial's process with a small and a large table of static vectors."""
    rows: list[Row] = []
    for name, words in (("small", 1_000), ("large", sizes.words)):
        vectors = folder / f"{name}.bin"
        write_vectors(vectors, words)
        settings = {"model.embedding": "static", "vectors.path": str(vectors), "vectors.extra_words": words}
        experiment = make_search_experiment(folder, name, *sizes.memory, **settings)
        with sample_private_memory() as samples:
            run_search(experiment)
        megabytes = (words + NUM_WORDS) * DIMENSIONS * 4 / 1e6
        rows.append({"vectors, MB": megabytes, "trials at once": CORES, "private memory of a trial, MB": max(samples)})
    small, large = rows
    growth = large["private memory of a trial, MB"] - small["private memory of a trial, MB"]
    large["per MB of vectors, MB"] = growth / (large["vectors, MB"] - small["vectors, MB"])
    small["per MB of vectors, MB"] = None
    return rows


def write_vectors(path: Path, extra_words: int) -> None:
    """Write word2vec binary with the words of the texts and `extra_words` others."""
    words = [f"w{number}" for number in range(NUM_WORDS)] + [f"x{number}" for number in range(extra_words)]
    values = np.random.default_rng(0).standard_normal((len(words), DIMENSIONS), dtype=np.float32)
    with path.open("wb") as stream:
        stream.write(f"{len(words)} {DIMENSIONS}\n".encode())
        for word, row in zip(words, values, strict=True):
            stream.write(word.encode() + b" " + row.tobytes())


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small numbers")
    parser.add_argument("--only", nargs="*", choices=PARTS, help="by default all, with --quick all but the last two")
    options = parser.parse_args()
    parts = options.only or list(PARTS)[: -2 if options.quick else None]
    sizes = QUICK if options.quick else FULL
    tables: dict[str, list[Row]] = {}
    # Short: Ray creates sockets in it.
    with tempfile.TemporaryDirectory(prefix="rb-", dir="/tmp", ignore_cleanup_errors=True) as scratch:
        folder = Path(scratch)
        os.environ["RAY_TMPDIR"] = scratch
        os.environ.pop("RAY_ADDRESS", None)
        write_texts(folder / "texts.csv", sizes.rows)
        with connect(num_cpus=CORES) if parts != ["kills"] else nullcontext():
            for part in parts:
                if part != "kills":  # they have their own Ray
                    tables[part] = measure(part, folder, sizes)
        if "kills" in parts:
            tables["kills"] = measure("kills", folder, sizes)
    print_json("tuning", {"quick": options.quick}, tables)


def measure_search_kills(folder: Path, sizes: Sizes) -> list[Row]:
    """Return what kills of the driver cost in this project and in Ray Tune."""
    from benchmarks.search_kills import measure_kills

    trials, kills = sizes.kills
    settings = {"tune.search": "optuna", "tune.trials": trials}
    return measure_kills(folder / "kills", make_search_experiment(folder, "kills", trials, 4, **settings), kills)


# Function and title of each part.
PARTS: dict[str, tuple[Callable[[Path, Sizes], list[Row]], str]] = {
    "overhead": (measure_overhead, "Overhead of a search"),
    "sides": (compare_with_ray_tune, "Ray Tune's own features, medians of alternate searches"),
    "nested": (compare_with_nested, "Trials of about a second"),
    "memory": (measure_memory, "Private memory with static vectors, which are mapped from the object store"),
    "checkpoints": (compare_large_checkpoints, "Large checkpoints"),
    "kills": (measure_search_kills, "Kills of the driver"),
}


def measure(part: str, folder: Path, sizes: Sizes) -> list[Row]:
    """Return the rows of a part, and print them."""
    function, title = PARTS[part]
    rows = function(folder, sizes)
    print_table(title, rows)
    sys.stdout.flush()
    return rows


if __name__ == "__main__":
    main()
