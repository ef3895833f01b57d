"""Training loops on the toy data."""

from pathlib import Path

import numpy as np
import torch

from jobs.config.experiment import Experiment
from jobs.training.loop import Loop, create_loop
from jobs.training.process_group import ProcessGroup
from jobs.training.run_files.snapshot import capture, gather_weights
from tests.support.toy_data import make_test_corpus


def make_loop(experiment: Experiment, group: ProcessGroup | None = None, device: str = "cpu") -> Loop:
    """Return a loop of the experiment, with random initial vectors."""
    return create_loop(experiment, make_test_corpus(experiment), group, device)


def train_checkpoint(experiment: Experiment, folder: Path, epochs: int | None = None) -> Loop:
    """Train that many epochs (default: all) in this process, write a checkpoint into a folder, return the loop."""
    loop = make_loop(experiment)
    for epoch, _ in loop.train_epochs():
        if epoch.epoch == epochs:
            break
    capture(experiment, loop.corpus, loop, resumable=False)(folder)
    return loop


def train_in_process(experiment: Experiment) -> tuple[Loop, dict[int, dict[str, np.ndarray]]]:
    """Train without Ray in this process, as one worker does; return the loop and the weights after each epoch."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as on a worker: the order of sums depends on it
    loop = make_loop(experiment)
    weights = {
        epoch.epoch: {key: value.clone().numpy() for key, value in gather_weights(loop).items()}
        for epoch, _ in loop.train_epochs()
    }
    torch.set_num_threads(threads)
    return loop, weights
