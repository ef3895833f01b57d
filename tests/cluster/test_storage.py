"""Storage by path and by URI: files appear whole or not at all."""

from pathlib import Path

import pytest

from cluster import storage
from cluster.storage import StorageError, lock_folder


@pytest.fixture(params=["path", "uri"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path) if request.param == "path" else f"file://{tmp_path}"


def test_text_is_written_and_read(root: str) -> None:
    """Parent folders are created, and an existing file is replaced."""
    path = storage.join(root, "a", "b.json")
    if storage.is_uri(root):
        Path(root.removeprefix("file://"), "a").mkdir()
    assert not storage.exists(path)
    for text in ("first", "zweitens \u2713"):
        storage.write_text(path, text)
        assert storage.read_text(path) == text
    with pytest.raises(StorageError, match=r"none.txt: cannot be read"):
        storage.read_text(storage.join(root, "none.txt"))


def test_a_folder_is_copied(root: str, tmp_path: Path) -> None:
    """A copied folder has the same content."""
    (tmp_path / "from" / "inner").mkdir(parents=True)
    (tmp_path / "from" / "inner" / "x").write_text("1")
    storage.copy_folder(storage.join(root, "from"), storage.join(root, "to"))
    assert (tmp_path / "to" / "inner" / "x").read_text() == "1"
    with storage.as_local_folder(storage.join(root, "to")) as folder:
        assert (folder / "inner" / "x").read_text() == "1"


def test_a_failed_write_leaves_the_previous_file(tmp_path: Path) -> None:
    """A failed write leaves no temporary file next to the previous file."""
    target = tmp_path / "a.txt"
    target.write_text("old")

    def fail() -> None:
        with storage.atomic_write(target) as part:
            part.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert target.read_text() == "old"


def test_a_storage_that_cannot_be_opened_is_an_error(tmp_path: Path) -> None:
    """The error contains the path."""
    with pytest.raises(StorageError, match="nosuch://x"):
        storage.read_text("nosuch://x/y")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        storage.write_text(str(tmp_path / "file" / "x.txt"), "a")


def test_a_folder_is_locked_by_one_command(tmp_path: Path) -> None:
    """Another one gets an error, and can lock the folder afterwards."""
    folder = str(tmp_path / "run")
    with (
        lock_folder(folder),
        pytest.raises(StorageError, match="another command is using this run folder"),
        lock_folder(folder),
    ):
        pass
    with lock_folder(folder):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"), lock_folder(str(tmp_path / "file" / "run")):
        pass
    with lock_folder("s3://bucket/run"), lock_folder("s3://bucket/run"):
        pass


def test_paths_are_absolute_in_every_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """URIs are unchanged."""
    monkeypatch.chdir(tmp_path)
    assert storage.absolute_path("runs") == str(tmp_path / "runs")
    assert storage.absolute_path("s3://bucket/runs") == "s3://bucket/runs"
    assert storage.cache_folder("runs") == tmp_path / "runs" / "cache"
    assert Path.home() in storage.cache_folder("s3://bucket/runs").parents
