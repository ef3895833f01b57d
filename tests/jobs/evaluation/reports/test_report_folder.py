"""Folder of a report: which one is the default, and which ones are refused."""

import json
import os
from pathlib import Path

import pytest

from cluster import UsageError
from cluster.storage import StorageError
from jobs.evaluation.drift import report_drift
from jobs.evaluation.evaluate import evaluate
from jobs.evaluation.reports.report_folder import choose_report_folder
from jobs.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from tests.support.checkpoints import checkpoint_of


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with three checkpoints, the second of which is the best."""
    for number in (1, 2, 3):
        save_checkpoint(tmp_path / "run" / f"epoch-000{number}", checkpoint_of("rand"))
    (tmp_path / "run" / "best.json").write_text(json.dumps({"checkpoint": "epoch-0002"}))
    return tmp_path / "run"


def load(path: Path) -> Checkpoint:
    return load_checkpoint(str(path))


def test_checkpoints_of_a_run_have_reports_of_their_own(run: Path, tmp_path: Path) -> None:
    """`report` is that of the best one, under each of its names, and of a checkpoint outside a run."""
    for path, name in ((run, "report"), (run / "epoch-0002", "report"), (run / "epoch-0003", "report-epoch-0003")):
        assert choose_report_folder(None, str(path), load(path)) == f"{run}/{name}"
        assert choose_report_folder(None, str(path), load(path), "-new-1") == f"{run}/{name}-new-1"
    (run / "best.json").unlink()
    assert choose_report_folder(None, str(run / "epoch-0002"), load(run / "epoch-0002")) == f"{run}/report-epoch-0002"
    save_checkpoint(tmp_path / "model", checkpoint_of("rand"))
    assert choose_report_folder(None, str(tmp_path / "model"), load(tmp_path / "model")) == f"{tmp_path}/report"


@pytest.mark.parametrize("name", ["epoch-0002", "epoch-0002/report", "epoch-0003", "link", "link/x", "x/../epoch-0002"])
def test_a_report_is_never_in_a_checkpoint(run: Path, name: str) -> None:
    (run / "link").symlink_to("epoch-0002")
    (run / "x").mkdir()
    before = sorted(os.listdir(run / "epoch-0002"))
    checkpoint = load(run)
    for out in (f"{run}/{name}", f"file://{run}/{name}"):
        with pytest.raises(StorageError, match="is in a checkpoint, whose files are never changed"):
            choose_report_folder(out, str(run), checkpoint)
    assert choose_report_folder(f"{run}/epoch-0002/../mine", str(run), checkpoint).endswith("/mine")
    assert sorted(os.listdir(run / "epoch-0002")) == before


def test_commands_refuse_a_checkpoint_as_their_output(run: Path, tmp_path: Path) -> None:
    """Both fail before they write anything."""
    (tmp_path / "x.csv").write_text("text,label\nword1,a\n")
    metrics = {"epoch": 1, "rows": 3, "accuracy": 0.5, "versions": {}}
    checkpoint = checkpoint_of("rand")
    checkpoint.metrics.update(metrics)
    save_checkpoint(run / "epoch-0004", checkpoint)
    path = str(run / "epoch-0004")
    with pytest.raises(StorageError, match="is in a checkpoint"):
        evaluate(path, [], path, str(tmp_path / "x.csv"))
    with pytest.raises(UsageError, match="is in a checkpoint"):
        report_drift(path, [], 3, path)
    assert "report.md" not in os.listdir(path)
