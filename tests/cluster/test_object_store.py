"""Storage in an S3-compatible store: whole or not at all, while the server is slow, refuses, or breaks off."""

import secrets
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cluster import input_files as source
from cluster import storage
from cluster.storage import StorageError
from tests.s3_server import BUCKET, S3Server, respond_unavailable, run_s3_server

LARGE = b"0123456789abcdef" * (1 << 20)  # 16 MiB: sent in several parts


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with run_s3_server() as found:
        yield found


@pytest.fixture
def root(request: pytest.FixtureRequest, server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A URI in the bucket; where the server is, says the environment or, where a test asks so, the URI's query."""
    in_query = getattr(request, "param", "environment") == "query"
    for key, value in server.environment.items():
        if not (in_query and key == "AWS_ENDPOINT_URL"):
            monkeypatch.setenv(key, value)
    query = f"?scheme=http&endpoint_override={server.endpoint}" if in_query else ""
    yield f"s3://{BUCKET}/{secrets.token_hex(4)}{query}"
    server.fault = None


@pytest.mark.parametrize("root", ["environment", "query"], indirect=True)
def test_files_and_folders_are_written_and_read(root: str, tmp_path: Path) -> None:
    """As in a local folder."""
    path = storage.join(root, "a", "b.json")
    assert not storage.exists(path)
    with pytest.raises(StorageError, match=r"b\.json.*: cannot be read"):
        storage.read_text(path)
    for text in ("first", "zweitens \u2713"):
        storage.write_text(path, text)
        assert storage.read_text(path) == text
    assert storage.is_folder(storage.parent(path))
    assert storage.parent(path) == storage.join(root, "a")
    (tmp_path / "from" / "inner").mkdir(parents=True)
    (tmp_path / "from" / "inner" / "x").write_bytes(LARGE)
    storage.copy_folder(str(tmp_path / "from"), storage.join(root, "to"))
    with storage.as_local_folder(storage.join(root, "to")) as folder:
        assert (folder / "inner" / "x").read_bytes() == LARGE
    with source.open_stream(storage.join(root, "to", "inner", "x")) as stream:
        assert stream.read() == LARGE
    with storage.output_folder(storage.join(root, "report")) as folder:
        (folder / "report.md").write_text("# Report")
    assert storage.read_text(storage.join(root, "report", "report.md")) == "# Report"


@pytest.mark.slow
def test_a_store_that_refuses_is_an_error(root: str, server: S3Server, tmp_path: Path) -> None:
    """Whatever is asked of it; what was there before is there afterwards."""
    path = storage.join(root, "best.json")
    storage.write_text(path, "old")
    (tmp_path / "x").write_text("1")
    server.fault = respond_unavailable
    actions = (
        lambda: storage.exists(path),
        lambda: storage.is_folder(root),
        lambda: storage.read_text(path),
        lambda: storage.write_text(path, "new"),
        lambda: storage.copy_folder(str(tmp_path), storage.join(root, "to")),
        lambda: source.file_size(path),
    )
    with ThreadPoolExecutor(len(actions)) as pool:  # each takes the seconds in which pyarrow tries again
        for future in [pool.submit(action) for action in actions]:
            with pytest.raises(StorageError, match=BUCKET):
                future.result()
    server.fault = None
    assert storage.read_text(path) == "old"
    assert not storage.exists(storage.join(root, "to", "x"))


@pytest.mark.slow
@pytest.mark.parametrize("content", [b"new", LARGE], ids=["one put", "several parts"])
def test_a_write_that_breaks_off_leaves_what_was_there(root: str, server: S3Server, content: bytes) -> None:
    """In the middle of the body, again at each retry; then it is written whole."""
    path = storage.join(root, "weights")
    storage.write_bytes(path, b"old")
    server.fault = lambda method, path: (method == "PUT") or None
    with pytest.raises(StorageError, match="cannot be written"):
        storage.write_bytes(path, content)
    server.fault = None
    assert storage.read_text(path) == "old"
    storage.write_bytes(path, content)
    with source.open_stream(path) as stream:
        assert stream.read() == content


def test_a_short_fault_is_waited_out(root: str, server: S3Server) -> None:
    """One refusal, one broken transfer, slow answers."""
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
    """pyarrow is silent about parts that did not arrive."""
    for name in ("a", "weights"):
        (tmp_path / name).write_text(name)
    server.fault = lambda method, path: 503 if method == "PUT" and path.endswith("/weights") else None
    with pytest.raises(StorageError, match="weights did not arrive whole"):
        storage.copy_folder(str(tmp_path), storage.join(root, "checkpoint"))
    assert storage.list_file_sizes(storage.join(root, "checkpoint")) == {"a": 1}


@pytest.mark.slow
def test_a_folder_that_breaks_off_is_never_read_in_part(root: str, server: S3Server, tmp_path: Path) -> None:
    """Nor is a copy of it left here."""
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
        raise AssertionError("held a part of a folder")
