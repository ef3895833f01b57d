"""What a search costs beyond the training of its trials.

    python benchmarks/tuning.py            # about six minutes on two cores
    python benchmarks/tuning.py --quick    # small numbers, under a minute

On a Ray of its own, with texts made up here:

* a search of 64 trials of some seconds: overhead a trial (the cores' time that was not spent training, by trials,
  the start of its processes apart), and the share of the cores' time spent training, start included;
* trials an hour where one trains for about a second, beside the usual pattern: a TorchTrainer in every trial, which
  runs the same loop;
* how much memory of its own a trial's process needs with a large table of vectors, beside a small one.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # to be run as a file

from benchmarks.chaos import write_texts
from benchmarks.reporting import print_json, print_table
from cluster.connection import connect
from jobs.config.experiment import Experiment
from jobs.search.tune import tune

CORES = 2
TRIAL_PROCESS_TITLE = b"ray::ResourceTrainable"  # of a trial's process


def make_search_experiment(folder: Path, name: str, trials: int, epochs: int, **settings: Any) -> Experiment:
    """Return a search of so many trials."""
    return Experiment().replace({
        "name": name, "storage": str(folder / "runs"), "data.train": str(folder / "texts.csv"),
        "model.embedding": "rand", "vectors.dimensions": 100, "model.feature_maps": 50, "train.patience": 1000,
        "train.epochs": epochs, "tune.epochs": None, "tune.scheduler": "none", "tune.samples": trials,
        "tune.space": {"model.dropout": {"uniform": [0.1, 0.6]}}, **settings,
    })  # fmt: skip


def run_search(chosen: Experiment, quiet: bool = True) -> tuple[list[dict[str, Any]], float, float]:
    """Search; return the records, when the trials were begun, and when the last one had ended."""
    began = 0.0

    def say(line: str) -> None:
        nonlocal began
        if "trials, up to" in line:
            began = time.time()
        if not quiet or (line.startswith("trial ") and line.split()[1].endswith("0")):
            print(line, flush=True)

    tune(chosen)
    [folder] = Path(chosen.storage, chosen.name).glob("tune-*")
    records = [json.loads(path.read_text()) for path in sorted((folder / "trials").glob("*.json"))]
    records.sort(key=lambda record: record["ended"])
    return records, began, records[-1]["ended"]


def measure_overhead(folder: Path, trials: int, epochs: int) -> dict[str, Any]:
    """Return what a search costs beyond its training."""
    records, began, ended = run_search(make_search_experiment(folder, "overhead", trials, epochs))
    training = [record["seconds"] for record in records]
    # From the moment when both processes had ended a trial: what comes before is their start.
    since = records[CORES - 1]["ended"]
    later = sum(training[CORES:])
    return {
        "trials": trials,
        "training a trial, s": statistics.mean(training),
        "overhead a trial, s": (CORES * (ended - since) - later) / (trials - CORES),
        "share of the cores' time in training": sum(training) / (CORES * (ended - began)),
    }


def compare_with_nested(folder: Path, trials: int, nested_trials: int, epochs: int) -> list[dict[str, Any]]:
    """Return the trials an hour of this project and of a TorchTrainer in every trial, both with their start."""
    records, began, ended = run_search(make_search_experiment(folder, "second", trials, epochs))
    training = statistics.median(record["seconds"] for record in records)
    ours = 3600 * trials / (ended - began)
    start = time.time()
    run_nested_search(make_search_experiment(folder, "nested", nested_trials, epochs), folder, nested_trials)
    theirs = 3600 * nested_trials / (time.time() - start)
    return [
        {"side": "this project", "trials": trials, "training a trial, s": training, "trials an hour": ours,
         "times": ours / theirs},
        {"side": "a TorchTrainer in every trial", "trials": nested_trials, "training a trial, s": training,
         "trials an hour": theirs, "times": 1.0},
    ]  # fmt: skip


def run_nested_search(chosen: Experiment, folder: Path, trials: int) -> None:
    """Search as it is usually written: each trial starts a TorchTrainer of one worker, which reports its epochs."""
    import ray
    import ray.train
    import ray.tune
    from ray.train.torch import TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    from jobs.datasets.dataset import load_dataset
    from jobs.training.corpus import build_corpus

    corpus = ray.put(build_corpus(chosen, load_dataset(chosen), use_pretrained=False))

    def train_loop(config: dict[str, Any]) -> None:
        import torch

        from jobs.model.network import Network
        from jobs.training.loop import Loop

        torch.set_num_threads(1)
        one = chosen.replace({"model.dropout": config["dropout"]})
        there = ray.get(config["corpus"])
        network = Network(one.model, there.vectors, len(there.labels), num_trainable_words=len(there.counts()))
        for epoch, _ in Loop(network, there, one.train, 0).train_epochs():
            ray.train.report({"accuracy": epoch.accuracy})

    def trial(config: dict[str, Any]) -> None:
        TorchTrainer(
            train_loop,
            train_loop_config=config | {"corpus": corpus},
            scaling_config=ray.train.ScalingConfig(num_workers=1),
            run_config=ray.train.RunConfig(
                name=f"train-{ray.tune.get_context().get_trial_id()}", storage_path=str(folder / "nested"),
                callbacks=[TuneReportCallback()],
            ),
        ).fit()  # fmt: skip

    results = ray.tune.Tuner(
        # What starts the workers takes no CPU, or two trials at once would wait for ever.
        ray.tune.with_resources(trial, {"cpu": 0, "memory": 1e6}),
        param_space={"dropout": ray.tune.uniform(0.1, 0.6)},
        tune_config=ray.tune.TuneConfig(num_samples=trials, max_concurrent_trials=CORES, metric="accuracy", mode="max"),
        run_config=ray.tune.RunConfig(name="nested", storage_path=str(folder / "runs"), verbose=0),
    ).fit()
    if results.errors:
        raise RuntimeError(f"a nested trial failed: {results.errors[0]}")


def measure_memory(folder: Path, trials: int, words: int) -> list[dict[str, Any]]:
    """Return the private memory of a trial's process with a small and a large table of static vectors."""
    found = []
    for name, extra in (("small", 1_000), ("large", words)):
        vectors = folder / f"{name}.bin"
        write_vectors(vectors, extra)
        chosen = make_search_experiment(
            folder, name, trials, 6, **{"model.embedding": "static", "vectors.path": str(vectors),
                                        "vectors.extra_words": extra},
        )  # fmt: skip
        with MemorySampler() as largest:
            run_search(chosen)
        megabytes = (extra + 1500) * 300 * 4 / 1e6
        found.append({"vectors, MB": megabytes, "trials at once": CORES, "own memory of a trial, MB": largest()})
    small, large = found
    large["for each MB of vectors, MB"] = (large["own memory of a trial, MB"] - small["own memory of a trial, MB"]) / (
        large["vectors, MB"] - small["vectors, MB"]
    )
    small["for each MB of vectors, MB"] = None
    return found


class MemorySampler:
    """Holds while the private memory of trials' processes is looked at; gives the largest of any, in MB."""

    def __enter__(self) -> Callable[[], float]:
        self._ended, self._largest = threading.Event(), 0.0
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return lambda: self._largest

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        mine = f"RAY_TMPDIR={os.environ['RAY_TMPDIR']}".encode()
        while not self._ended.wait(0.2):
            for entry in Path("/proc").iterdir():
                with suppress(OSError):
                    trains = entry.name.isdigit() and (entry / "cmdline").read_bytes().startswith(TRIAL_PROCESS_TITLE)
                    if trains and mine in (entry / "environ").read_bytes():
                        self._largest = max(self._largest, read_private_mb(entry))


def read_private_mb(process: Path) -> float:
    """Return the memory that a process shares with no other."""
    lines = (process / "smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1000


def write_vectors(path: Path, extra: int) -> None:
    """Write word2vec binary: the texts' words, and others."""
    words = [f"w{number}" for number in range(1500)] + [f"x{number}" for number in range(extra)]
    values = np.random.default_rng(0).standard_normal((len(words), 300), dtype=np.float32)
    with path.open("wb") as stream:
        stream.write(f"{len(words)} 300\n".encode())
        for word, row in zip(words, values, strict=True):
            stream.write(word.encode() + b" " + row.tobytes())


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small numbers")
    options = parser.parse_args()
    quick = options.quick
    # Short: Ray keeps sockets in it.
    with tempfile.TemporaryDirectory(prefix="rb-", dir="/tmp", ignore_cleanup_errors=True) as scratch:
        folder = Path(scratch)
        os.environ["RAY_TMPDIR"] = scratch
        os.environ.pop("RAY_ADDRESS", None)
        write_texts(folder / "texts.csv", 500 if quick else 4000)
        with connect(num_cpus=CORES):
            costs = measure_overhead(folder, 6 if quick else 64, 2 if quick else 10)
            sides = compare_with_nested(folder, 4 if quick else 32, 1 if quick else 8, 1 if quick else 3)
            tables = measure_memory(folder, 2 if quick else 4, 20_000 if quick else 400_000)
    print_table("a search", [costs])
    print_table("trials of about a second", sides)
    print_table("static vectors, mapped from the object store", tables)
    print_json("tuning", {"quick": quick}, {"search": [costs], "beside": sides, "memory": tables})


if __name__ == "__main__":
    main()
