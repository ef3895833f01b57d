"""The list of runs: several folders, and columns without values."""

from pathlib import Path

import pytest

from jobs.config.experiment import Experiment
from jobs.runs.run_list import Run, RunsError, build_rows, log_runs
from jobs.runs.stored_files import StoredFile


def write_run(folder: Path, name: str) -> None:
    (folder / name).mkdir(parents=True)
    (folder / name / "experiment.yaml").write_text(Experiment().to_yaml())


def make_run(name: str, metrics: dict[str, float | None]) -> Run:
    return Run(name, {}, None, metrics, None, True, False, frozenset(), {"best.json": StoredFile(1, 1e9, 1e9, 1, "")})


def test_the_runs_of_several_folders_are_listed_once(tmp_path: Path, messages: list[str]) -> None:
    """A folder may be in another one. Of a wrong one the error comes before the first table."""
    for experiment in ("a/x", "a/y", "b"):
        write_run(tmp_path / experiment, "train-00000001")
    log_runs(str(tmp_path / "b"), str(tmp_path / "a"), str(tmp_path / "a/x"), str(tmp_path / "b/train-00000001"))
    assert [line.partition(": ")[0] for line in messages[::2]] == [f"{tmp_path}/{name}" for name in ("b", "a/x", "a/y")]
    messages.clear()
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunsError, match="empty: contains no runs"):
        log_runs(str(tmp_path / "b"), str(tmp_path / "empty"))
    assert messages == []


def test_a_run_without_files_is_no_error(tmp_path: Path, messages: list[str]) -> None:
    (tmp_path / "train-00000001").mkdir()
    log_runs(str(tmp_path))
    assert messages == [f"{tmp_path}: 0 B"]


def test_columns_without_values_are_left_out() -> None:
    """A search stores all metrics, those of several labels per text as null; an unfinished run has none yet."""
    search = make_run("tune-00000001", {"epoch": 2, "micro_f1": None, "accuracy": 0.5, "macro_f1": 0.4, "loss": 0.3})
    unfinished = make_run("train-00000002", {})
    others = {"run", "date", "status", "size", "settings"}
    assert build_rows([search])[0].keys() == others | {"epoch", "accuracy", "macro F1", "loss"}
    assert build_rows([search, unfinished])[1].keys() == others | {"epoch", "accuracy", "macro F1", "loss"}
    assert build_rows([unfinished])[0].keys() == others
    several = make_run("train-00000003", {"micro_f1": 0.5})
    assert [row["micro F1"] for row in build_rows([search, several])] == ["", "0.5000"]
