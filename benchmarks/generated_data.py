"""Generated texts and checkpoints for benchmarks whose results do not depend on the data."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jobs.model.checkpoint import Checkpoint

NUM_WORDS = 1500


def write_texts(path: Path, rows: int) -> None:
    """Write a csv with columns label and text; the last word of a text determines the label."""
    choose = random.Random(0)
    words = [f"w{number}" for number in range(NUM_WORDS)]
    with path.open("w") as stream:
        stream.write("label,text\n")
        for row in range(rows):
            text = [*choose.choices(words, k=choose.randint(4, 30)), f"{'ab'[row % 2]}{choose.randint(0, 30)}"]
            stream.write(f"{'ab'[row % 2]},{' '.join(text)}\n")


def make_random_checkpoint(folder: Path, words: Sequence[str], seed: int = 0) -> "Checkpoint":
    """Return and save a checkpoint of two classes with random weights and default settings."""
    import numpy as np

    from jobs.config.experiment import Experiment
    from jobs.model.checkpoint import Checkpoint, save_checkpoint
    from jobs.model.network import Network

    experiment = Experiment()
    vectors = np.random.default_rng(seed).normal(size=(len(words) + 2, 300)).astype(np.float32)
    vectors[0] = 0
    network = Network(experiment.model, vectors, 2)
    weights = {name: value.numpy() for name, value in network.weights().items()}
    checkpoint = Checkpoint(experiment, ["neg", "pos"], list(words), weights, {"epoch": 1})
    save_checkpoint(folder, checkpoint)
    return checkpoint
