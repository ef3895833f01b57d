"""Checkpoint that the tests of this package share, and that none of them changes; folder of shared arrays."""

from pathlib import Path

import pytest

from jobs.inference.shared_arrays import shared_folder
from jobs.model.checkpoint import save_checkpoint
from tests.support.checkpoints import checkpoint_of


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a checkpoint with random weights."""
    folder = tmp_path_factory.mktemp("inference") / "checkpoint"
    save_checkpoint(folder, checkpoint_of("non-static"))
    return str(folder)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the arrays that processes share, empty."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return shared_folder()
