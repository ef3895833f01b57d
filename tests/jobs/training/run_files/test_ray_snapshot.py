"""Ray Train's list of reports in a run's folder."""

import json
from pathlib import Path

import pytest

from jobs.training.run_files.ray_snapshot import RAY_SNAPSHOT, prune_ray_snapshot
from jobs.training.run_files.run_folder import RunFolder


def write_ray_snapshot(run: RunFolder, *names: str) -> Path:
    """Write Ray Train's list of reports, with the checkpoints of these names."""
    file = Path(run.path, RAY_SNAPSHOT)
    file.parent.mkdir(parents=True)
    results = [{"checkpoint_dir_name": name} for name in names]
    indices = list(range(len(names)))
    file.write_text(json.dumps({"checkpoint_results": results, "checkpoint_report_indices": indices}))
    return file


def test_ray_trains_list_loses_the_reports_of_removed_checkpoints(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path), "train-1")
    file = write_ray_snapshot(run, "epoch-0001", "epoch-0002")
    Path(run.path, "epoch-0002").mkdir()
    prune_ray_snapshot(run.path)
    expected = {"checkpoint_results": [{"checkpoint_dir_name": "epoch-0002"}], "checkpoint_report_indices": [1]}
    assert json.loads(file.read_text()) == expected


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[]", b"{}", b'{"checkpoint_results": 1}'])
def test_a_list_of_ray_train_in_another_format_is_removed(
    content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It does not end a finished run."""
    run = RunFolder(str(tmp_path), "train-1")
    file = write_ray_snapshot(run)
    file.write_bytes(content)
    prune_ray_snapshot(run.path)
    assert not file.exists()
    assert "is removed, because it cannot be updated" in caplog.text


def test_a_list_of_ray_train_that_cannot_be_removed_does_not_end_the_run(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path), "train-1")
    Path(run.path, RAY_SNAPSHOT, "not a file").mkdir(parents=True)
    prune_ray_snapshot(run.path)


def test_the_installed_ray_writes_the_list_in_this_format() -> None:
    """Its classes are private, so another version may have others."""
    from ray.train.v2._internal.constants import CHECKPOINT_MANAGER_SNAPSHOT_FILENAME
    from ray.train.v2._internal.execution.checkpoint import checkpoint_manager

    assert CHECKPOINT_MANAGER_SNAPSHOT_FILENAME == RAY_SNAPSHOT
    fields = checkpoint_manager._CheckpointManagerState.__annotations__
    assert {"checkpoint_results", "checkpoint_report_indices"} <= set(fields)
    assert "checkpoint_dir_name" in checkpoint_manager._TrainingResultState.__annotations__
