"""Generated texts and checkpoints, for results that do not depend on the data; and checkpoints of the network alone."""

import random
from collections.abc import Sequence
from dataclasses import replace
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


def drop_linear_classifier(checkpoint: "Checkpoint") -> "Checkpoint":
    """Return the checkpoint of the network alone."""
    from jobs.model.linear.tensors import PREFIX

    weights = {name: value for name, value in checkpoint.weights.items() if not name.startswith(PREFIX)}
    return replace(checkpoint, weights=weights, experiment=checkpoint.experiment.replace({"model.linear": "none"}))


def make_random_checkpoint(words: Sequence[str], seed: int = 0) -> "Checkpoint":
    """Return a checkpoint of two classes with random weights and default settings.

    Its linear classifier has a row for each word, and for each pair of a word and the one after it in `words`.
    """
    import numpy as np

    from jobs.config.experiment import Experiment
    from jobs.model.checkpoint import Checkpoint
    from jobs.model.linear.tensors import BIAS, FIRST_WORD, PAIRS, SCALE, SQUARES, WEIGHT
    from jobs.model.network import Network

    experiment, generator = Experiment(), np.random.default_rng(seed)
    vectors = generator.normal(size=(len(words) + FIRST_WORD, 300)).astype(np.float32)
    vectors[0] = 0
    network = Network(experiment.model, vectors, 2)
    ids = np.arange(FIRST_WORD, len(vectors), dtype=np.int32)
    pairs = np.stack([ids[:-1], ids[1:]], axis=1)
    weight = generator.normal(size=(len(vectors) + len(pairs), 2)).astype(np.float32)
    squares = generator.uniform(1, 9, len(weight)).astype(np.float32)
    weight[:FIRST_WORD], squares[:FIRST_WORD] = 0, 0
    linear = {
        PAIRS: pairs, WEIGHT: weight, SQUARES: squares, BIAS: np.zeros(2, np.float32), SCALE: np.ones(2, np.float32),
    }  # fmt: skip
    weights = {name: value.numpy() for name, value in network.weights().items()} | linear
    return Checkpoint(experiment, ["neg", "pos"], list(words), weights, {"epoch": 1})


def save_random_checkpoint(folder: Path, words: Sequence[str], seed: int = 0) -> None:
    """Write the checkpoint of `make_random_checkpoint` into a folder."""
    from jobs.model.checkpoint import save_checkpoint

    save_checkpoint(folder, make_random_checkpoint(words, seed))
