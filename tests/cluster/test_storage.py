"""Storage by path and by URI: files appear whole or not at all, and are on the disk once they have their name."""

import errno
import fcntl
import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cluster import durable_files, storage
from cluster.durable_files import lock
from cluster.input_files import check_not_replaced, check_output_file
from cluster.storage import StorageError, lock_folder


@pytest.fixture(params=["path", "uri"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path) if request.param == "path" else f"file://{tmp_path}"


def test_text_is_written_and_read(root: str) -> None:
    """Parent folders are created, and an existing file is replaced."""
    path = storage.join(root, "a", "b.json")
    assert not storage.exists(path)
    for text in ("first", "zweitens \u2713"):
        storage.write_text(path, text)
        assert storage.read_text(path) == text
    with pytest.raises(StorageError, match=r"none.txt: cannot be read"):
        storage.read_text(storage.join(root, "none.txt"))


@pytest.mark.parametrize("has_links", [True, False])
def test_an_existing_file_stays_unless_it_may_be_replaced(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_links: bool
) -> None:
    if not has_links:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(PermissionError("no links here")))
    for content in (b"first", b"second"):
        storage.write_bytes(storage.join(root, "a.bin"), content, replace=False)
    assert (tmp_path / "a.bin").read_bytes() == b"first"
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]


@pytest.mark.parametrize("can_exchange", [True, False])
def test_a_folder_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can_exchange: bool) -> None:
    """In one step, so that after a crash there is the previous one or the new one; where possible."""
    part, target = tmp_path / "part", tmp_path / "target"
    for folder in (part, target):
        folder.mkdir()
        (folder / "name").write_text(folder.name)
    if can_exchange:
        monkeypatch.setattr(Path, "rename", lambda *_: pytest.fail("not in one step"))
    else:
        monkeypatch.setattr(durable_files, "_exchange", lambda *_: False)
    durable_files.publish_folder(part, target)
    assert [path.name for path in tmp_path.iterdir()] == ["target"]
    assert (target / "name").read_text() == "part"


def test_a_folder_is_copied(root: str, tmp_path: Path) -> None:
    """A copied folder has the same content."""
    (tmp_path / "from" / "inner").mkdir(parents=True)
    (tmp_path / "from" / "inner" / "x").write_text("1")
    storage.copy_folder(storage.join(root, "from"), storage.join(root, "to"))
    assert (tmp_path / "to" / "inner" / "x").read_text() == "1"
    with storage.as_local_folder(storage.join(root, "to")) as folder:
        assert (folder / "inner" / "x").read_text() == "1"


def test_a_failed_write_leaves_the_previous_file(root: str, tmp_path: Path) -> None:
    """A failed write leaves no temporary file next to the previous file."""
    (tmp_path / "a.txt").write_text("old")

    def fail() -> None:
        with storage.output_file(storage.join(root, "a.txt")) as part:
            part.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


@pytest.fixture
def disk_events(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of files and folders that were flushed to the disk, and of those that were renamed, in order."""
    events: list[str] = []
    flush, replace, rename = durable_files.flush, os.replace, Path.rename

    def record_flush(path: Path) -> None:
        flush(path)
        events.append(f"flush {'part' if path.name.endswith('.part') else path.name}")

    def record_replace(part: Path, target: Path) -> None:
        replace(part, target)
        events.append(f"name {target.name}")

    def record_rename(part: Path, target: Path) -> Path:
        events.append(f"name {target.name}")
        return rename(part, target)

    monkeypatch.setattr(durable_files, "flush", record_flush)
    monkeypatch.setattr(os, "replace", record_replace)
    monkeypatch.setattr(Path, "rename", record_rename)
    return events


def test_what_has_its_name_is_on_the_disk(root: str, tmp_path: Path, disk_events: list[str]) -> None:
    """Contents are flushed before the name is given, and the name itself afterwards, with that of a new folder."""
    storage.write_text(storage.join(root, "new", "a.txt"), "a")
    assert disk_events == [f"flush {tmp_path.name}", "flush part", "name a.txt", "flush new"]
    disk_events.clear()
    storage.copy_folder(storage.join(root, "new"), storage.join(root, "copy"))
    assert disk_events[-4:] == ["flush a.txt", "flush part", "name copy", f"flush {tmp_path.name}"]


def test_a_file_system_that_cannot_flush_folders_is_used_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of the disk is an error of the write: the file does not get its name."""
    code = errno.EINVAL

    def fail(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)
    storage.write_text(str(tmp_path / "a.txt"), "a")
    assert (tmp_path / "a.txt").read_text() == "a"
    code = errno.EIO
    with pytest.raises(StorageError, match=r"a\.txt: cannot be written"):
        storage.write_text(str(tmp_path / "a.txt"), "b")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "a"


def test_threads_and_hosts_write_the_same_file(root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writers with the same process id do not share a temporary file: the file is that of one of them."""
    monkeypatch.setattr(os, "getpid", lambda: 1)
    contents = [str(number) * 100_000 for number in range(8)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda text: storage.write_text(storage.join(root, "a.txt"), text), contents))
    assert (tmp_path / "a.txt").read_text() in contents
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_an_output_file_is_never_an_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The input is recognized by any path or URI; the home folder is expanded; an unknown storage is an error."""
    monkeypatch.setenv("HOME", str(tmp_path))
    source = tmp_path / "in.csv"
    source.write_text("text")
    (tmp_path / "link.csv").symlink_to(source)
    for path in (str(source), f"file://{source}", "~/in.csv", str(tmp_path / "link.csv")):
        with pytest.raises(StorageError, match="is the input file"):
            check_output_file(path, str(source))
    check_output_file("~/out/x.csv", str(source))
    assert not (tmp_path / "out").exists()  # a dry run makes this check too
    for path, message in (
        ("~", "is a folder"),
        ("~/in.csv/x.csv", "cannot be written"),
        (f"~/{'x' * 256}", "cannot be written: .*File name too long"),
        ("~nobody-of-this-name/x.csv", "nobody-of-this-name"),
        ("nosuch://x.csv", "cannot be opened"),
        ("s3://bucket/x.csv", "is the input file"),
    ):
        with pytest.raises(StorageError, match=message):
            check_output_file(path, "s3://bucket/x.csv")


@pytest.fixture
def ordinary_user() -> Iterator[None]:
    """The test is run as a user who may not enter every folder, unlike root."""
    uid = os.geteuid()
    if uid == 0:
        os.seteuid(65534)
    yield
    os.seteuid(uid)


@pytest.mark.usefixtures("ordinary_user")
def test_an_output_file_in_a_folder_that_may_not_be_entered_is_an_error() -> None:
    with tempfile.TemporaryDirectory() as parent:  # this user may not enter pytest's folders
        folder = Path(parent, "closed")
        folder.mkdir(mode=0)
        for path in (folder / "x.csv", folder / "inner" / "x.csv"):
            check_not_replaced(str(path))  # before the other check
            with pytest.raises(StorageError, match=f"{path}: cannot be written: "):
                check_output_file(str(path))


def test_a_storage_that_cannot_be_opened_is_an_error(tmp_path: Path) -> None:
    """The error contains the path."""
    with pytest.raises(StorageError, match="nosuch://x"):
        storage.read_text("nosuch://x/y")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        storage.write_text(str(tmp_path / "file" / "x.txt"), "a")


def test_a_folder_is_locked_by_one_command(root: str, tmp_path: Path) -> None:
    """Another one gets an error, and can lock the folder afterwards."""
    folder = storage.join(root, "run")
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


def test_a_lock_file_that_its_holder_has_removed_is_not_locked(tmp_path: Path) -> None:
    """A command may open it before, and would share the folder with the next one, which creates a new file."""
    path = tmp_path / ".lock"
    with path.open("w") as stream:
        path.unlink()
        with pytest.raises(BlockingIOError, match="was removed by the process that held its lock"):
            lock(stream)


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_used_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, messages: list[str], code: int
) -> None:
    """An error of the disk is still an error."""

    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", fail)
    with lock_folder(str(tmp_path / "run")):
        pass
    assert ["the file system has no locks" in line for line in messages] == [True]
    code = errno.EIO
    with pytest.raises(StorageError, match="Input/output error"), lock_folder(str(tmp_path / "run")):
        pass


def test_paths_are_absolute_in_every_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """URIs are unchanged."""
    monkeypatch.chdir(tmp_path)
    assert storage.absolute_path("runs") == str(tmp_path / "runs")
    assert storage.absolute_path("s3://bucket/runs") == "s3://bucket/runs"
