"""Exports to a folder, and full disks: all of the files are there, or none."""

import os
from pathlib import Path

import pytest

from cluster import UsageError
from jobs.__main__ import main
from jobs.model.checkpoint import load_checkpoint, save_checkpoint
from jobs.portable.whole_folder import fill_folder
from tests.support.checkpoints import checkpoint_of
from tests.support.full_disk import limit_file_size

COMMANDS = pytest.mark.parametrize("command", [["quantize", "c", "out"], ["export", "c", "--browser", "out"]], ids=str)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory with a checkpoint."""
    monkeypatch.chdir(tmp_path)
    save_checkpoint(Path("c"), checkpoint_of("non-static"))


@COMMANDS
@pytest.mark.parametrize("exists", [False, True], ids=["new folder", "empty folder"])
def test_a_full_disk_leaves_no_files(command: list[str], exists: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """The folder is empty or missing, as before, so the command can be repeated."""
    if exists:
        Path("out").mkdir()
    with limit_file_size(4000):
        assert main(command) == 2
    assert "out: cannot be written: " in capsys.readouterr().err
    assert sorted(path.name for path in Path().iterdir()) == (["c", "out"] if exists else ["c"])
    assert not exists or not os.listdir("out")
    assert main(command) == 0


def write_and_fail(part: Path) -> None:
    (part / "a").write_text("second")
    raise UsageError("stop")


def test_a_failure_changes_none_of_the_files_that_would_be_replaced() -> None:
    Path("out").mkdir()
    Path("out", "notes").write_text("mine")
    with fill_folder("out", "b") as part:
        for name in ("b", "a"):
            (part / name).write_text("first")
    with pytest.raises(UsageError, match="stop"), fill_folder("out", "b") as part:
        write_and_fail(part)
    assert {path.name: path.read_text() for path in Path("out").iterdir()} == {
        "a": "first", "b": "first", "notes": "mine"
    }  # fmt: skip


def test_the_last_file_is_moved_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader of the folder finds the others then."""
    moved: list[str] = []
    monkeypatch.setattr(os, "replace", lambda source, target: moved.append(Path(target).name))
    with fill_folder("out", "b") as part:
        for name in "abc":
            (part / name).write_text("")
    assert sorted(moved[:2]) == ["a", "c"]
    assert moved[2:] == ["b"]


def test_the_working_directory_is_filled_and_not_replaced(tmp_path: Path) -> None:
    """A shell in it would find no files in another folder of the same name."""
    Path("out").mkdir()
    identity = os.stat("out").st_ino
    os.chdir("out")  # the fixture returns to the folder of the tests
    assert main(["quantize", "../c", "."]) == 0
    assert os.stat(".").st_ino == os.stat(tmp_path / "out").st_ino == identity
    assert load_checkpoint(".").labels == load_checkpoint("../c").labels
