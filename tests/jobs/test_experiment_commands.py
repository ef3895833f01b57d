"""The words of the commands runs and clean."""

from pathlib import Path

import pytest

import jobs.runs.cleaning
import jobs.runs.run_list
from jobs.__main__ import main


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The folders that the commands are called with, relative to the current one; --yes is shown by an exclamation."""
    monkeypatch.chdir(tmp_path)
    calls: list[str] = []

    def record(folder: str, delete: bool = False) -> None:
        relative = folder if "://" in folder else str(Path(folder).relative_to(tmp_path))
        calls.append(relative + "!" * delete)

    monkeypatch.setattr(jobs.runs.run_list, "log_runs", record)
    monkeypatch.setattr(jobs.runs.cleaning, "clean", record)
    return calls


@pytest.mark.parametrize(
    ("words", "folder"),
    [
        ([], "runs"),
        (["storage=other"], "other"),
        (["name=toy"], "runs/toy"),
        (["x.yaml"], "runs/mine"),
        (["x.yaml", "storage=other"], "other/mine"),
        (["runs/toy"], "runs/toy"),
        (["s3://bucket/runs?endpoint_override=host"], "s3://bucket/runs?endpoint_override=host"),
    ],
)
def test_an_experiment_or_a_folder_is_named(words: list[str], folder: str, folders: list[str]) -> None:
    """Without either, all runs of the storage."""
    Path("x.yaml").write_text("name: mine")
    Path("runs/toy").mkdir(parents=True)
    assert main(["runs", *words]) == 0
    assert main(["clean", *words]) == 0
    assert main(["clean", "--yes", *words]) == 0
    assert folders == [folder, folder, f"{folder}!"]
