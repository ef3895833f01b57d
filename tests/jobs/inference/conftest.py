"""Checkpoint that the tests of this package share; none of them changes it."""

import pytest

from jobs.model.checkpoint import save_checkpoint
from tests.support.checkpoints import checkpoint_of


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a checkpoint with random weights."""
    folder = tmp_path_factory.mktemp("inference") / "checkpoint"
    save_checkpoint(folder, checkpoint_of("non-static"))
    return str(folder)
