"""Fixtures of the service's tests."""

import json
from pathlib import Path

import pytest

from jobs.model.checkpoint import save_checkpoint
from tests.support.checkpoints import checkpoint_of


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two checkpoints, `first` (non-static) and `second` (multichannel); best.json names the first."""
    folder = tmp_path_factory.mktemp("run")
    save_checkpoint(folder / "first", checkpoint_of("non-static"))
    save_checkpoint(folder / "second", checkpoint_of("multichannel"))
    (folder / "best.json").write_text(json.dumps({"checkpoint": "first"}))
    return folder
