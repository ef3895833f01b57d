"""Checkpoint stores with small checkpoints."""

from pathlib import Path

import numpy as np

from jobs.config.experiment import Experiment
from jobs.model.checkpoint import Checkpoint, save_checkpoint
from jobs.training.checkpoint_store import CheckpointStore, checkpoint_name
from jobs.training.history import Epoch, Progress


def fill(epochs: int, steps: int = 0, best: int = 0):
    """Return what writes a small checkpoint of this position."""
    progress = Progress([Epoch(n + 1, 1, 1, 1, 1, 1, 1) for n in range(epochs)], best, steps)
    found = Checkpoint(Experiment(), ["a"], ["w"], {"vectors": np.full((3, 2), epochs, np.float32)}, {})
    return lambda folder: save_checkpoint(folder, found, {"steps": np.array([steps])}, progress.to_json())


def filled(path: Path, *positions: tuple[int, int, int]) -> CheckpointStore:
    checkpoints = CheckpointStore(str(path))
    for epochs, steps, best in positions:
        checkpoints.write(checkpoint_name(epochs, steps), fill(epochs, steps, best), best)
    return checkpoints
