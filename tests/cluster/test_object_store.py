"""Storage in an S3-compatible store: files are whole or absent if the server is slow, rejects or aborts requests."""

import os
import secrets
import signal
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cluster import input_files, storage
from cluster.storage import StorageError
from tests.s3_server import BUCKET, S3Server, respond_unavailable, run_s3_server

LARGE = b"0123456789abcdef" * (1 << 20)  # 16 MiB: sent in several parts


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with run_s3_server() as s3_server:
        yield s3_server


@pytest.fixture
def root(request: pytest.FixtureRequest, server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A URI in the bucket; the server's address is in the environment, or in the query if the parameter is `query`."""
    in_query = getattr(request, "param", "environment") == "query"
    for key, value in server.environment.items():
        if not (in_query and key == "AWS_ENDPOINT_URL"):
            monkeypatch.setenv(key, value)
    query = f"?scheme=http&endpoint_override={server.endpoint}" if in_query else ""
    yield f"s3://{BUCKET}/{secrets.token_hex(4)}{query}"
    server.fault = None


@pytest.mark.parametrize("root", ["environment", "query"], indirect=True)
def test_files_and_folders_are_written_and_read(root: str, tmp_path: Path) -> None:
    """The same functions as for a local folder."""
    path = storage.join(root, "a", "b.json")
    assert not storage.exists(path)
    with pytest.raises(StorageError, match=r"b\.json.*: cannot be read"):
        storage.read_text(path)
    for text in ("first", "zweitens \u2713"):
        storage.write_text(path, text)
        assert storage.read_text(path) == text
    assert storage.exists(storage.parent(path))
    assert storage.parent(path) == storage.join(root, "a")
    (tmp_path / "from" / "inner").mkdir(parents=True)
    (tmp_path / "from" / "inner" / "x").write_bytes(LARGE)
    storage.copy_folder(str(tmp_path / "from"), storage.join(root, "to"))
    with storage.as_local_folder(storage.join(root, "to")) as folder:
        assert (folder / "inner" / "x").read_bytes() == LARGE
    with input_files.open_stream(storage.join(root, "to", "inner", "x")) as stream:
        assert stream.read() == LARGE
    with storage.output_folder(storage.join(root, "report")) as folder:
        (folder / "report.md").write_text("# Report")
    assert storage.read_text(storage.join(root, "report", "report.md")) == "# Report"


def test_a_fingerprint_shows_a_change_within_a_second(root: str) -> None:
    """The times of S3 are whole seconds. An unchanged file has the same fingerprint."""
    path = storage.join(root, "a.csv")
    filesystem, inside = storage.resolve_filesystem(path)
    time.sleep(1 - time.time() % 1)
    states = []
    for content in (b"one", b"two"):
        storage.write_bytes(path, content)
        states.append((filesystem.get_file_info(inside).mtime_ns, input_files.fingerprint(path)))
    assert states[0][0] == states[1][0]
    assert states[0][1] != states[1][1] == input_files.fingerprint(path)


@pytest.mark.slow
def test_a_store_that_rejects_requests_is_an_error(root: str, server: S3Server, tmp_path: Path) -> None:
    """Every function raises an error; existing files stay unchanged."""
    path = storage.join(root, "best.json")
    storage.write_text(path, "old")
    (tmp_path / "x").write_text("1")
    server.fault = respond_unavailable
    actions = (
        lambda: storage.exists(path),
        lambda: storage.list_folders(root),
        lambda: storage.read_text(path),
        lambda: storage.write_text(path, "new"),
        lambda: storage.copy_folder(str(tmp_path), storage.join(root, "to")),
        lambda: input_files.file_size(path),
    )
    with ThreadPoolExecutor(len(actions)) as pool:  # pyarrow retries for seconds
        for future in [pool.submit(action) for action in actions]:
            with pytest.raises(StorageError, match=BUCKET):
                future.result()
    server.fault = None
    assert storage.read_text(path) == "old"
    assert not storage.exists(storage.join(root, "to", "x"))


@pytest.mark.slow
@pytest.mark.parametrize("content", [b"new", LARGE], ids=["one put", "several parts"])
def test_an_aborted_write_leaves_the_previous_file(root: str, server: S3Server, content: bytes) -> None:
    """The write is aborted in the middle of the body at every retry; a later write succeeds."""
    path = storage.join(root, "weights")
    storage.write_bytes(path, b"old")
    server.fault = lambda method, path: (method == "PUT") or None
    with pytest.raises(StorageError, match="cannot be written"):
        storage.write_bytes(path, content)
    server.fault = None
    assert storage.read_text(path) == "old"
    storage.write_bytes(path, content)
    with input_files.open_stream(path) as stream:
        assert stream.read() == content


def test_an_interrupted_write_is_whole(root: str, server: S3Server) -> None:
    """Ctrl-C comes during the upload of the first part."""
    path = storage.join(root, "weights")
    interrupts = iter([signal.SIGINT])

    def interrupt(method: str, path: str) -> None:
        if method == "PUT" and (number := next(interrupts, None)):
            os.kill(os.getpid(), number)

    server.fault = interrupt
    with pytest.raises(KeyboardInterrupt):
        storage.write_bytes(path, LARGE * 4)
    with input_files.open_stream(path) as stream:
        assert len(stream.read()) == 4 * len(LARGE)


def test_a_short_fault_is_retried(root: str, server: S3Server) -> None:
    """The faults are one rejection, one aborted transfer and slow responses."""
    faults = iter([503, True])

    def fault(method: str, path: str) -> bool | int | None:
        time.sleep(0.2)
        return next(faults, None) if method == "PUT" else None

    server.fault = fault
    path = storage.join(root, "x.txt")
    storage.write_text(path, "whole")
    assert storage.read_text(path) == "whole"
    assert next(faults, "used up") == "used up"


@pytest.mark.slow
def test_an_upload_that_loses_a_file_is_an_error(root: str, server: S3Server, tmp_path: Path) -> None:
    """pyarrow does not report parts that failed."""
    for name in ("a", "weights"):
        (tmp_path / name).write_text(name)
    server.fault = lambda method, path: 503 if method == "PUT" and path.endswith("/weights") else None
    with pytest.raises(StorageError, match="weights was not copied completely"):
        storage.copy_folder(str(tmp_path), storage.join(root, "checkpoint"))
    assert storage.list_file_sizes(storage.join(root, "checkpoint")) == {"a": 1}


def test_a_file_that_is_added_meanwhile_does_not_matter(root: str, server: S3Server, tmp_path: Path) -> None:
    """For instance a lease on a checkpoint, while a service starts."""
    for name in ("a", "b"):
        storage.write_text(storage.join(root, "checkpoint", name), name)

    def add_file(method: str, path: str) -> None:
        if method == "GET" and path.endswith("/a"):
            server.fault = None
            url = f"{server.endpoint}/{storage.join(root, 'checkpoint', 'lease.json').removeprefix('s3://')}"
            urllib.request.urlopen(urllib.request.Request(url, b"{}", method="PUT"), timeout=30).close()

    server.fault = add_file
    with storage.as_local_folder(storage.join(root, "checkpoint")) as folder:
        assert (folder / "a").read_text() == "a"
    assert server.fault is None
    assert storage.exists(storage.join(root, "checkpoint", "lease.json"))


@pytest.mark.slow
def test_a_folder_is_never_read_in_part(root: str, server: S3Server, tmp_path: Path) -> None:
    """If a file cannot be read, no copy remains here."""
    for name in ("a", "b", "c"):
        storage.write_text(storage.join(root, "checkpoint", name), name)
    server.fault = lambda method, path: 503 if method == "GET" and path.endswith("/c") else None
    target = tmp_path / "copy"
    with pytest.raises(StorageError, match="cannot be copied"):
        storage.copy_folder(storage.join(root, "checkpoint"), str(target))
    assert not target.exists()
    with (
        pytest.raises(StorageError, match="cannot be copied"),
        storage.as_local_folder(storage.join(root, "checkpoint")),
    ):
        raise AssertionError("yielded a part of a folder")
