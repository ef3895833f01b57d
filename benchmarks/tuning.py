"""Overhead of a search beyond the training of its trials.

    python benchmarks/tuning.py            # about six minutes on two cores
    python benchmarks/tuning.py --quick    # small numbers, under a minute

In its own embedded Ray, with generated texts, it measures:

* overhead: a search of 64 trials of some seconds. The overhead per trial is the cores' time that was not spent in
  training, without the start of the trials' processes; the share of the cores' time in training includes the start;
* trials per hour where a trial trains for about a second, compared with the usual pattern, a TorchTrainer in every
  trial, which runs the same loop;
* private memory of a trial's process with a large table of vectors, compared with a small one.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # to be run as a file

from benchmarks.generated_data import NUM_WORDS, write_texts
from benchmarks.reporting import Row, print_json, print_table
from cluster.connection import connect
from jobs.config.experiment import Experiment
from jobs.search.tune import tune
from jobs.training.corpus import Corpus

CORES = 2
DIMENSIONS = 300  # of the vectors files
TRIAL_PROCESS_TITLE = b"ray::ResourceTrainable"


@dataclass(frozen=True)
class FinishedSearch:
    """Seconds of training and ends of the trials, in the order of the ends; start of the first process. Unix times."""

    seconds: list[float]
    ends: list[float]
    start: float


@dataclass(frozen=True)
class Sizes:
    """Sizes of the measurements: trials and epochs of each, rows of the texts, words of the large vectors file."""

    rows: int
    overhead: tuple[int, int]
    short: tuple[int, int]
    nested_trials: int
    memory: tuple[int, int]
    words: int


FULL = Sizes(rows=4000, overhead=(64, 10), short=(32, 3), nested_trials=8, memory=(4, 6), words=400_000)
QUICK = Sizes(rows=300, overhead=(CORES + 1, 1), short=(1, 1), nested_trials=1, memory=(1, 3), words=20_000)


def make_search_experiment(folder: Path, name: str, trials: int, epochs: int, **settings: Any) -> Experiment:
    """Return the experiment of a search with `trials` trials."""
    return Experiment().replace({
        "name": name, "storage": str(folder / "runs"), "data.train": str(folder / "texts.csv"),
        "model.embedding": "rand", "vectors.dimensions": 100, "model.feature_maps": 50, "train.patience": 1000,
        "train.epochs": epochs, "tune.epochs": None, "tune.scheduler": "none", "tune.samples": trials,
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


def measure_overhead(folder: Path, sizes: Sizes) -> Row:
    """Return the overhead of a search beyond its training."""
    trials, epochs = sizes.overhead
    search = run_search(make_search_experiment(folder, "overhead", trials, epochs))
    # Without the start of the processes: from the moment when as many trials as there are processes have ended.
    later_seconds = search.ends[-1] - search.ends[CORES - 1]
    return {
        "trials": trials,
        "training a trial, s": statistics.mean(search.seconds),
        "overhead a trial, s": (CORES * later_seconds - sum(search.seconds[CORES:])) / (trials - CORES),
        "share of the cores' time in training": sum(search.seconds) / (CORES * (search.ends[-1] - search.start)),
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
    from jobs.training.corpus import build_corpus

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


@contextmanager
def sample_private_memory() -> Iterator[list[float]]:
    """Context manager: sample the private memory of trials' processes, in MB, into the list that it yields."""
    samples: list[float] = [0.0]
    ended = threading.Event()
    own = f"RAY_TMPDIR={os.environ['RAY_TMPDIR']}".encode()

    def sample() -> None:
        while not ended.wait(0.2):
            for entry in Path("/proc").iterdir():
                with suppress(OSError):
                    is_trial = entry.name.isdigit() and (entry / "cmdline").read_bytes().startswith(TRIAL_PROCESS_TITLE)
                    if is_trial and own in (entry / "environ").read_bytes():
                        samples.append(read_private_megabytes(entry))

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        ended.set()
        thread.join()


def read_private_megabytes(process: Path) -> float:
    """Return the memory that a process shares with no other, in MB."""
    lines = (process / "smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1000


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
    options = parser.parse_args()
    sizes = QUICK if options.quick else FULL
    # Short: Ray creates sockets in it.
    with tempfile.TemporaryDirectory(prefix="rb-", dir="/tmp", ignore_cleanup_errors=True) as scratch:
        folder = Path(scratch)
        os.environ["RAY_TMPDIR"] = scratch
        os.environ.pop("RAY_ADDRESS", None)
        write_texts(folder / "texts.csv", sizes.rows)
        with connect(num_cpus=CORES):
            overhead = measure_overhead(folder, sizes)
            comparison = compare_with_nested(folder, sizes)
            memory = measure_memory(folder, sizes)
    print_table("Overhead of a search", [overhead])
    print_table("Trials of about a second", comparison)
    print_table("Private memory with static vectors, which are mapped from the object store", memory)
    print_json("tuning", {"quick": options.quick}, {"search": [overhead], "nested": comparison, "memory": memory})


if __name__ == "__main__":
    main()
