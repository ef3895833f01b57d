"""Checkpoints in folders: changed files, pickles with code, and stores with small checkpoints."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

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


def change_file(folder: Path, name: str, content: bytes) -> None:
    """Change a file of a checkpoint and its checksum in the manifest, like an attacker."""
    (folder / name).write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(manifest))


class MakeFolder:
    """Object whose pickle makes a folder when it is loaded."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self._folder),)
