"""Training loops on the toy data."""

from jobs.config.experiment import Experiment
from jobs.training.loop import Loop, create_loop
from jobs.training.process_group import ProcessGroup
from tests.conftest import make_test_corpus


def loop_of(experiment: Experiment, group: ProcessGroup | None = None) -> Loop:
    """Return a loop of the experiment on the CPU."""
    return create_loop(experiment, make_test_corpus(experiment), group)
