"""The checkpoints of a run: written whole or not at all, and found again."""

import errno
import os
from pathlib import Path

import pytest

from cluster.storage import StorageError
from jobs.training.checkpoint_store import BackgroundExecutor, CheckpointStore, checkpoint_name
from tests.support.stored_checkpoints import fill, filled


def test_the_newest_two_and_the_best_are_kept(tmp_path: Path) -> None:
    """In order of epochs and steps; nothing else is left in the folder."""
    checkpoints = filled(tmp_path / "run", (1, 0, 1), (2, 0, 1), (3, 0, 1), (3, 160, 1), (4, 0, 1))
    assert checkpoints.names() == ["epoch-0004", "epoch-0003-step-000160", "epoch-0001"]
    assert checkpoints.newest_position() == (4, 0)
    assert sorted(os.listdir(tmp_path / "run")) == sorted(checkpoints.names())
    assert CheckpointStore(str(tmp_path / "nothing")).newest_position() == (0, 0)


def test_the_newest_is_what_a_run_goes_on_from(tmp_path: Path) -> None:
    """With its place within an epoch."""
    name, found = filled(tmp_path, (1, 0, 1), (1, 16, 1)).load_newest_valid() or pytest.fail("there is none")
    assert name == "epoch-0001-step-000016"
    assert (len(found.progress["epochs"]), found.progress["steps"]) == (1, 16)
    assert CheckpointStore(str(tmp_path / "nothing")).load_newest_valid() is None


@pytest.mark.parametrize("name", ["weights.safetensors", "state.safetensors", "progress.json", "manifest.json"])
def test_a_damaged_one_is_passed_over_and_said(tmp_path: Path, name: str, messages: list[str]) -> None:
    """Whichever file is cut off; the one before takes its place, and is replaced when the epoch comes again."""
    checkpoints = filled(tmp_path, (1, 0, 1), (2, 0, 1))
    damaged = tmp_path / "epoch-0002" / name
    damaged.write_bytes(damaged.read_bytes()[:-3])
    _, found = checkpoints.load_newest_valid() or pytest.fail("there is none")
    assert len(found.progress["epochs"]) == 1
    assert len(messages) == 1
    assert "epoch-0002" in messages[0]
    assert "going on from the checkpoint before it" in messages[0]
    checkpoints.write(checkpoint_name(2), fill(2, 0, 1), 1)
    name, found = checkpoints.load_newest_valid() or pytest.fail("there is none")
    assert name == "epoch-0002"
    assert len(found.progress["epochs"]) == 2


def test_a_run_does_not_go_on_without_its_best_epoch(tmp_path: Path, messages: list[str]) -> None:
    """It would name a checkpoint that nobody can read; an earlier one makes the best epoch again."""
    checkpoints = filled(tmp_path, (1, 0, 1), (2, 0, 2), (3, 0, 2), (4, 0, 2))
    (tmp_path / "epoch-0002" / "weights.safetensors").write_bytes(b"")
    assert checkpoints.load_newest_valid() is None
    assert len(messages) == 3
    assert all("epoch-0002" in line for line in messages)
    assert messages[0].endswith("going on from the checkpoint before it")
    assert messages[2].endswith("starting from the beginning")


def test_a_checkpoint_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    """A full disk in the middle: an error that says so, and those before stay."""
    checkpoints = filled(tmp_path, (1, 0, 1))

    def full(folder: Path) -> None:
        fill(2)(folder)
        (folder / "manifest.json").unlink()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(StorageError, match=r"epoch-0002: cannot be written: .*No space left on device"):
        checkpoints.write(checkpoint_name(2), full, 1)
    assert os.listdir(tmp_path) == ["epoch-0001"]


def test_what_a_killed_writer_left_is_swept_away(tmp_path: Path) -> None:
    """Wherever it was written; checkpoints stay."""
    checkpoints = filled(tmp_path, (1, 0, 1))
    (tmp_path / ".epoch-0007.host.123.part").mkdir()
    checkpoints.remove_partial()
    assert os.listdir(tmp_path) == ["epoch-0001"]


def test_a_damaged_one_takes_no_whole_ones_place(tmp_path: Path) -> None:
    """Two whole ones are kept beside it, until its epoch comes again."""
    checkpoints = filled(tmp_path, (1, 0, 1), (2, 0, 1), (3, 0, 1), (4, 0, 1))
    (tmp_path / "epoch-0004" / "manifest.json").write_bytes(b"")
    assert checkpoints.load_newest_valid()
    checkpoints.write(checkpoint_name(3, 16), fill(3, 16, 1), 1)
    assert checkpoints.names() == ["epoch-0003-step-000016", "epoch-0003", "epoch-0001"]
    checkpoints.write(checkpoint_name(4), fill(4, 0, 1), 1)
    assert checkpoints.names() == ["epoch-0004", "epoch-0003-step-000016", "epoch-0001"]


def test_an_object_store_gets_the_manifest_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that what is cut off in the middle is no checkpoint."""
    from jobs.training import checkpoint_store as module

    copied: list[list[str]] = []
    copy = module.copy_folder

    def watched(source: str, target: str) -> None:
        copied.append(sorted(os.listdir(source)))
        copy(source, target)

    monkeypatch.setattr(module, "copy_folder", watched)
    checkpoints = CheckpointStore(f"file://{tmp_path}/run")
    checkpoints.write(checkpoint_name(1), fill(1, 0, 1), 1)
    assert copied[0]
    assert "manifest.json" not in copied[0]
    assert (tmp_path / "run" / "epoch-0001" / "manifest.json").exists()
    assert checkpoints.has("epoch-0001")
    assert checkpoints.load_newest_valid() is not None


def test_work_in_the_background_keeps_its_order_and_tells_its_errors() -> None:
    """With the next piece of work, or at the end; once."""
    background, done = BackgroundExecutor(), []
    for number in range(5):
        background.submit(lambda number=number: done.append(number))
    background.wait()
    assert done == [0, 1, 2, 3, 4]

    def fails() -> None:
        raise StorageError("full")

    background.submit(fails)
    with pytest.raises(StorageError, match="full"):
        background.submit(lambda: None)
    background.wait()
