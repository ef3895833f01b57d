"""Checkpoint stores with small checkpoints."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from jobs.config.experiment import Experiment
from jobs.model.checkpoint import Checkpoint, save_checkpoint
from jobs.training.history import Epoch, Progress
from jobs.training.run_files.checkpoint_store import CheckpointStore, checkpoint_name
from jobs.training.run_files.run_folder import BestCheckpoint, RunFolder


def small_checkpoint(epochs: int, steps: int = 0, best: int = 0) -> Callable[[Path], None]:
    """Return a function that writes a small checkpoint of this position into a folder."""
    progress = Progress([Epoch(n + 1, 1, 1, 1, 1, 1, 1) for n in range(epochs)], best, steps)
    checkpoint = Checkpoint(Experiment(), ["a"], ["w"], {"vectors": np.full((3, 2), epochs, np.float32)}, {})
    return lambda folder: save_checkpoint(folder, checkpoint, {"steps": np.array([steps])}, progress.to_json())


def publish(run: RunFolder, best: BestCheckpoint) -> str:
    """Write the best.json of a finished run, publish it, and return the path as `RunFolder.publish` does."""
    run.write_best(best)
    return run.publish(best)


def make_store(path: Path, *positions: tuple[int, int, int]) -> CheckpointStore:
    """Return a store with a checkpoint for each (epochs, steps, best epoch), written in this order."""
    checkpoints = CheckpointStore(str(path))
    for epochs, steps, best in positions:
        checkpoints.write(checkpoint_name(epochs, steps), small_checkpoint(epochs, steps, best), best)
    return checkpoints
