"""Checkpoint store of a run: checkpoints are complete or absent, and the newest valid one is found."""

import errno
import os
from pathlib import Path

import pytest

from cluster import durable_files
from cluster.storage import StorageError
from jobs.model import checkpoint_leases, checkpoint_uploads
from jobs.model.checkpoint_leases import is_leased, write_lease
from jobs.training.run_files import checkpoint_store
from jobs.training.run_files.checkpoint_store import BackgroundExecutor, CheckpointStore, checkpoint_name
from tests.support.stored_checkpoints import make_store, small_checkpoint


def test_the_newest_two_and_the_best_are_kept(tmp_path: Path) -> None:
    """The newest are those with the most epochs and steps; nothing else is left in the folder."""
    checkpoints = make_store(tmp_path / "run", (1, 0, 1), (2, 0, 1), (3, 0, 1), (3, 160, 1), (4, 0, 1))
    assert checkpoints.names() == ["epoch-0004", "epoch-0003-step-000160", "epoch-0001"]
    assert checkpoints.newest_position() == (4, 0)
    assert sorted(os.listdir(tmp_path / "run")) == sorted(checkpoints.names())
    assert CheckpointStore(str(tmp_path / "nothing")).newest_position() == (0, 0)


def test_only_checkpoints_within_an_epoch_are_removed_where_others_remove_those_of_epochs(tmp_path: Path) -> None:
    """Ray Train, in a user's own trainer. A step checkpoint stays until a newer checkpoint is complete."""
    checkpoints = CheckpointStore(str(tmp_path), num_to_keep=None)
    for epochs, steps, names in (
        (0, 8, ["epoch-0000-step-000008"]),
        (0, 16, ["epoch-0000-step-000016"]),
        (1, 0, ["epoch-0001"]),
        (1, 8, ["epoch-0001-step-000008", "epoch-0001"]),
        (2, 0, ["epoch-0002", "epoch-0001"]),
        (3, 0, ["epoch-0003", "epoch-0002", "epoch-0001"]),
    ):
        checkpoints.write(checkpoint_name(epochs, steps), small_checkpoint(epochs, steps, 1), 1)
        assert checkpoints.names() == names
    checkpoints.write(checkpoint_name(3, 8), small_checkpoint(3, 8, 1), 1)
    with pytest.raises(StorageError):
        checkpoints.write(checkpoint_name(4), lambda folder: (folder / "missing" / "file").touch(), 1)
    assert checkpoints.names()[0] == "epoch-0003-step-000008"


def test_a_checkpoint_with_a_lease_is_kept(tmp_path: Path) -> None:
    """A service uses it, and starts replicas with it later."""
    checkpoints = make_store(tmp_path, (1, 0, 1), (2, 0, 1))
    write_lease(str(tmp_path / "epoch-0002"), "service", {})
    for epoch in (3, 4, 5):
        checkpoints.write(checkpoint_name(epoch), small_checkpoint(epoch, 0, 1), 1)
    assert checkpoints.names() == ["epoch-0005", "epoch-0004", "epoch-0002", "epoch-0001"]


def test_a_checkpoint_that_is_written_again_keeps_its_leases(tmp_path: Path) -> None:
    checkpoints = make_store(tmp_path, (1, 0, 1), (2, 0, 1))
    write_lease(str(tmp_path / "epoch-0002"), "service", {})
    checkpoints.write(checkpoint_name(2), small_checkpoint(2, 0, 1), 1)
    assert is_leased(str(tmp_path / "epoch-0002"))
    assert checkpoints.read("epoch-0002")


def test_the_newest_checkpoint_is_loaded(tmp_path: Path) -> None:
    """The checkpoint has its position within an epoch; without any checkpoint the result is None."""
    name, state = make_store(tmp_path, (1, 0, 1), (1, 16, 1)).load_newest_valid() or pytest.fail("there is none")
    assert name == "epoch-0001-step-000016"
    assert (len(state.progress["epochs"]), state.progress["steps"]) == (1, 16)
    assert CheckpointStore(str(tmp_path / "nothing")).load_newest_valid() is None


@pytest.mark.parametrize("name", ["weights.safetensors", "state.safetensors", "progress.json", "manifest.json"])
def test_a_damaged_checkpoint_is_ignored_with_a_warning(tmp_path: Path, name: str, messages: list[str]) -> None:
    """The previous one is loaded instead; the damaged one is replaced when its epoch is written again."""
    checkpoints = make_store(tmp_path, (1, 0, 1), (2, 0, 1))
    damaged = tmp_path / "epoch-0002" / name
    damaged.write_bytes(damaged.read_bytes()[:-3])
    _, state = checkpoints.load_newest_valid() or pytest.fail("there is none")
    assert len(state.progress["epochs"]) == 1
    assert len(messages) == 1
    assert "epoch-0002" in messages[0]
    assert "resuming from the previous checkpoint" in messages[0]
    checkpoints.write(checkpoint_name(2), small_checkpoint(2, 0, 1), 1)
    name, state = checkpoints.load_newest_valid() or pytest.fail("there is none")
    assert name == "epoch-0002"
    assert len(state.progress["epochs"]) == 2


def test_a_run_is_not_resumed_without_its_best_epoch(tmp_path: Path, messages: list[str]) -> None:
    """best.json would name a checkpoint that cannot be read; from an earlier one the best epoch is trained again."""
    checkpoints = make_store(tmp_path, (1, 0, 1), (2, 0, 2), (3, 0, 2), (4, 0, 2))
    (tmp_path / "epoch-0002" / "weights.safetensors").write_bytes(b"")
    assert checkpoints.load_newest_valid() is None
    assert len(messages) == 3
    assert all("epoch-0002" in line for line in messages)
    assert messages[0].endswith("resuming from the previous checkpoint")
    assert messages[2].endswith("starting from the beginning")


def test_a_checkpoint_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    """A full disk while writing is a StorageError, and earlier checkpoints stay."""
    checkpoints = make_store(tmp_path, (1, 0, 1))

    def fill_disk(folder: Path) -> None:
        small_checkpoint(2)(folder)
        (folder / "manifest.json").unlink()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(StorageError, match=r"epoch-0002: cannot be written: .*No space left on device"):
        checkpoints.write(checkpoint_name(2), fill_disk, 1)
    assert os.listdir(tmp_path) == ["epoch-0001"]


def test_a_run_continues_if_an_old_checkpoint_cannot_be_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, messages: list[str]
) -> None:
    """The new one is complete; the next write tries again to remove the old one."""
    checkpoints = make_store(tmp_path, (1, 0, 1), (2, 0, 1), (3, 0, 1))

    def fail(path: str) -> None:
        raise StorageError(f"{path}: permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_leases, "remove_folder", fail)
        checkpoints.write(checkpoint_name(4), small_checkpoint(4, 0, 1), 1)
    assert checkpoints.names() == ["epoch-0004", "epoch-0003", "epoch-0002", "epoch-0001"]
    [message] = messages
    assert message.startswith("an outdated checkpoint stays for now: ")
    checkpoints.write(checkpoint_name(5), small_checkpoint(5, 0, 1), 1)
    assert checkpoints.names() == ["epoch-0005", "epoch-0004", "epoch-0001"]


def test_temporary_folders_of_killed_writers_are_removed(tmp_path: Path) -> None:
    """Temporary folders of any host and process are removed; checkpoints stay."""
    checkpoints = make_store(tmp_path, (1, 0, 1))
    (tmp_path / ".epoch-0007.host.123.part").mkdir()
    checkpoints.remove_partial()
    assert os.listdir(tmp_path) == ["epoch-0001"]


def test_a_damaged_checkpoint_does_not_count_as_one_of_the_newest(tmp_path: Path) -> None:
    """Two complete checkpoints are kept as well, until the epoch of the damaged one is written again."""
    checkpoints = make_store(tmp_path, (1, 0, 1), (2, 0, 1), (3, 0, 1), (4, 0, 1))
    (tmp_path / "epoch-0004" / "manifest.json").write_bytes(b"")
    assert checkpoints.load_newest_valid()
    checkpoints.write(checkpoint_name(3, 16), small_checkpoint(3, 16, 1), 1)
    assert checkpoints.names() == ["epoch-0003-step-000016", "epoch-0003", "epoch-0001"]
    checkpoints.write(checkpoint_name(4), small_checkpoint(4, 0, 1), 1)
    assert checkpoints.names() == ["epoch-0004", "epoch-0003-step-000016", "epoch-0001"]


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_checkpoint_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    """All its files are flushed first; so after a power failure it is complete or absent."""
    flushed: set[str] = set()
    flush, rename = durable_files.flush, Path.rename

    def record_flush(path: Path) -> None:
        flush(path)
        flushed.add(path.name)

    def check_files(part: Path, target: Path) -> Path:
        assert {path.name for path in part.iterdir()} | {part.name} <= flushed
        return rename(part, target)

    monkeypatch.setattr(durable_files, "flush", record_flush)
    monkeypatch.setattr(Path, "rename", check_files)
    CheckpointStore(f"{scheme}{tmp_path}/run").write(checkpoint_name(1), small_checkpoint(1, 0, 1), 1)
    assert os.listdir(tmp_path / "run") == ["epoch-0001"]
    assert "run" in flushed


def test_an_object_store_receives_the_manifest_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The manifest is last, so an interrupted upload leaves no valid checkpoint."""
    uploads: list[list[str]] = []
    copy_folder = checkpoint_uploads.copy_folder

    def record_upload(source: str, target: str) -> None:
        uploads.append(sorted(os.listdir(source)))
        assert not (tmp_path / "run" / "epoch-0001" / "manifest.json").exists()
        copy_folder(source, target)

    monkeypatch.setattr(checkpoint_store, "local_path", lambda path: None)  # as for an object store
    monkeypatch.setattr(checkpoint_uploads, "copy_folder", record_upload)
    checkpoints = CheckpointStore(f"file://{tmp_path}/run")
    checkpoints.write(checkpoint_name(1), small_checkpoint(1, 0, 1), 1)
    assert uploads[0]
    assert "manifest.json" not in uploads[0]
    assert (tmp_path / "run" / "epoch-0001" / "manifest.json").exists()
    assert checkpoints.has("epoch-0001")
    assert checkpoints.load_newest_valid() is not None


def test_background_work_keeps_its_order_and_raises_its_errors() -> None:
    """An error is raised once, by the next submission or at the end."""
    background, done = BackgroundExecutor(), []
    for number in range(5):
        background.submit(lambda number=number: done.append(number))
    background.wait()
    assert done == [0, 1, 2, 3, 4]

    def fail() -> None:
        raise StorageError("full")

    background.submit(fail)
    with pytest.raises(StorageError, match="full"):
        background.submit(lambda: None)
    background.wait()
