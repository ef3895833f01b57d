"""Training loops on the toy data."""

from pathlib import Path

from jobs.config.experiment import Experiment
from jobs.training.loop import Loop, create_loop
from jobs.training.process_group import ProcessGroup
from jobs.training.snapshot import capture
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
