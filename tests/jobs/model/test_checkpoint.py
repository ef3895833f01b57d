"""A checkpoint: whole or refused, and nothing in it runs."""

import json
from pathlib import Path

import numpy as np
import pytest

from jobs.config.experiment import Experiment
from jobs.model.checkpoint import (
    Checkpoint,
    CheckpointError,
    load_checkpoint,
    load_training_state,
    resolve_checkpoint,
    save_checkpoint,
    verify_checksums,
)


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, Checkpoint]:
    checkpoint = Checkpoint(
        Experiment(name="x"),
        ["a", "b|\n"],
        ["w\u2028", "東京", "\u00a0"],
        {"vectors": np.arange(10, dtype=np.float32).reshape(5, 2), "output.bias": np.zeros(2, np.float32)},
        {"epoch": 3, "accuracy": 0.5},
    )
    folder = tmp_path / "run" / "checkpoint"
    save_checkpoint(folder, checkpoint, {"steps": np.array([3, 2])}, {"epochs": [], "best": 0})
    return folder, checkpoint


def test_what_was_written_is_read(saved: tuple[Path, Checkpoint]) -> None:
    """Weights bit for bit, words with any characters, all settings."""
    folder, checkpoint = saved
    found = load_checkpoint(str(folder))
    assert (found.experiment, found.labels, found.words) == (checkpoint.experiment, checkpoint.labels, checkpoint.words)
    assert found.metrics == checkpoint.metrics
    assert all(np.array_equal(found.weights[key], value) for key, value in checkpoint.weights.items())
    resumable = load_training_state(folder)
    assert resumable.optimizer_state["steps"].tolist() == [3, 2]
    assert resumable.progress == {"epochs": [], "best": 0}
    assert resumable.weights.keys() == checkpoint.weights.keys()
    verify_checksums(str(folder))


def test_it_is_found_by_folder_best_json_or_the_folder_of_one(saved: tuple[Path, Checkpoint], tmp_path: Path) -> None:
    """best.json names it relative to itself, so runs can be moved."""
    folder, _ = saved
    (tmp_path / "best.json").write_text(json.dumps({"checkpoint": "run/checkpoint"}))
    assert resolve_checkpoint(str(folder)) == str(folder)
    assert resolve_checkpoint(str(tmp_path / "best.json")) == resolve_checkpoint(str(tmp_path)) == str(folder)
    (tmp_path / "best.json").write_text(json.dumps({"checkpoint": str(folder)}))
    assert resolve_checkpoint(str(tmp_path)) == str(folder)


def test_only_what_classifies_is_needed(saved: tuple[Path, Checkpoint]) -> None:
    """The optimiser's state may be deleted to save space; then it cannot resume."""
    folder, _ = saved
    (folder / "state.safetensors").unlink()
    assert load_checkpoint(str(folder)).labels
    with pytest.raises(CheckpointError, match=r"lacks state\.safetensors"):
        load_training_state(folder)


@pytest.mark.parametrize("name", ["weights.safetensors", "vocabulary.json", "labels.json", "experiment.yaml"])
def test_a_missing_cut_or_altered_file_is_refused(saved: tuple[Path, Checkpoint], name: str) -> None:
    """By its name."""
    folder, _ = saved
    whole = (folder / name).read_bytes()
    for content in (whole[:-1], whole[:-1] + b"X", b""):
        (folder / name).write_bytes(content)
        for reader in (load_checkpoint, verify_checksums):
            with pytest.raises(CheckpointError, match=f"{name} is not what the manifest says"):
                reader(str(folder))
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=f"lacks {name}"):
        load_checkpoint(str(folder))


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ("{", "no readable manifest"),
        ("[]", "no readable manifest"),
        ('{"format": 1}', "no readable manifest"),
        ('{"format": 2, "files": {}}', "is of format 2; this version reads format 1"),
        ('{"format": 1, "files": {}}', "lacks experiment.yaml"),
    ],
)
def test_a_broken_or_newer_manifest_is_refused(saved: tuple[Path, Checkpoint], manifest: str, message: str) -> None:
    """With the reason."""
    folder, _ = saved
    (folder / "manifest.json").write_text(manifest)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(str(folder))


def test_nothing_there_is_an_error(tmp_path: Path) -> None:
    """For a folder, and for a best.json that names nothing."""
    with pytest.raises(CheckpointError, match=r"holds neither a checkpoint nor a best\.json"):
        load_checkpoint(str(tmp_path))
    (tmp_path / "best.json").write_text("{}")
    with pytest.raises(CheckpointError, match="does not name a checkpoint"):
        load_checkpoint(str(tmp_path))
    (tmp_path / "best.json").write_text('{"checkpoint": "gone"}')
    with pytest.raises(CheckpointError, match="gone"):
        load_checkpoint(str(tmp_path))
