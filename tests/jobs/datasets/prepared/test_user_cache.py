"""Cache of large sources in a folder of the user: with a storage in S3, where a second command reads no rows."""

import errno
import os
import pickle
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster import storage
from cluster.durable_files import user_cache_path
from cluster.package import REPOSITORY
from jobs.compilation.cache import find_folder
from jobs.config.experiment import Experiment, load_experiment
from jobs.datasets import readers
from jobs.datasets.prepared import array_file, cache, large_source
from jobs.dry_run import plan_training
from jobs.training.corpora.building import load_inputs
from tests.s3_server import BUCKET, S3Server, run_s3_server

LINES = [f"{'xy'[number % 2]},text {number}\n" for number in range(40)]
LOADING = """
import sys
from jobs.config.experiment import load_experiment
from jobs.datasets import readers
from jobs.training.corpora.building import load_inputs
readers.MIN_PREPARED_BYTES = 0
print(load_inputs(load_experiment(None, sys.argv[1:]))[1].key)
"""


@pytest.fixture(scope="module")
def module_server() -> Iterator[S3Server]:
    with run_s3_server() as server:
        yield server


@pytest.fixture(scope="module")
def kernels() -> dict[str, str]:
    """Environment variables with which a command compiles no kernels, although it has another folder of caches."""
    return {"NUMBA_CACHE_DIR": str(folder)} if (folder := find_folder()) else {}


@pytest.fixture
def server(module_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """A server with a folder of two files, and a user without caches."""
    for key, value in (module_server.environment | {"XDG_CACHE_HOME": str(tmp_path / "caches")}).items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr(readers, "MIN_PREPARED_BYTES", 0)
    for name in ("a", "b"):
        write_rows(name, LINES)
    yield module_server
    module_server.fault = None
    storage.remove_folder(f"s3://{BUCKET}/data")


def write_rows(name: str, lines: list[str]) -> None:
    storage.write_text(f"s3://{BUCKET}/data/{name}.csv", "label,text\n" + "".join(lines))


def make_settings(folder: Path, data: str = "s3", runs: str = "s3") -> list[str]:
    roots = {"s3": f"s3://{BUCKET}", "local": str(folder)}
    return [f"data.train={roots[data]}/data", f"storage={roots[runs]}/runs", "model.embedding=rand"]


@pytest.fixture
def experiment(server: S3Server, tmp_path: Path) -> Experiment:
    """An experiment with texts and storage in S3."""
    return load_experiment(None, make_settings(tmp_path))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of the user's cache."""
    return tmp_path / "caches" / "finetune-cnn" / "corpora"


def list_names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*"))


def count_reads(server: S3Server) -> int:
    """Return the number of requests for the content of a file of texts."""
    return sum(method == "GET" and path.endswith(".csv") for method, path in server.requests)


def read_words(experiment: Experiment, server: S3Server) -> tuple[list[str], int]:
    """Return the words of an experiment, and the requests for its texts."""
    server.requests.clear()
    return load_inputs(experiment)[1].words, count_reads(server)


@pytest.mark.parametrize(("data", "runs"), [("s3", "s3"), ("s3", "local"), ("local", "s3")])
def test_a_second_command_reads_no_rows(
    server: S3Server, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, data: str, runs: str
) -> None:
    """A local storage has the cache itself."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.csv").write_text("label,text\n" + "".join(LINES))
    experiment = load_experiment(None, make_settings(tmp_path, data, runs))
    words, num_reads = read_words(experiment, server)
    assert (num_reads > 0) == (data == "s3")
    names = list_names(folder if runs == "s3" else tmp_path / "runs" / "cache")
    assert [name.split("-")[0] for name in names] == ["texts", "tokens"]
    monkeypatch.setattr("jobs.datasets.prepared.large_source.read_blocks", None)
    monkeypatch.setattr("jobs.datasets.prepared.tokens.WordIndex", None)
    assert read_words(experiment, server) == (words, 0)
    assert folder.exists() == (runs == "s3")


def test_only_the_user_reads_the_folder(experiment: Experiment, folder: Path) -> None:
    """A plan names it and does not create it. Where others can write, nothing is cached."""
    assert str(folder) in [file.path for file in plan_training(experiment).writes]
    assert not folder.exists()
    load_inputs(experiment)
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o755)  # as one that existed
    load_inputs(experiment)
    assert folder.stat().st_mode & 0o777 == 0o700
    for path in folder.iterdir():
        path.unlink()
    folder.chmod(0o777)
    load_inputs(experiment)
    assert list_names(folder) == []


def test_a_link_to_another_folder_is_not_used(experiment: Experiment, folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir(mode=0o700)
    folder.parent.mkdir(parents=True)
    folder.symlink_to(other)
    load_inputs(experiment)
    assert list_names(other) == []


def test_texts_are_pickled_without_the_file(experiment: Experiment, folder: Path) -> None:
    """Another node has no such file, and another command may have removed it."""
    dataset, _ = load_inputs(experiment)
    content = pickle.dumps(dataset)
    for path in folder.iterdir():
        path.unlink()
    assert list(pickle.loads(content).train.texts) == list(dataset.train.texts)


def test_a_relative_folder_of_caches_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "caches")
    assert user_cache_path("corpora") == Path.home() / ".cache" / "finetune-cnn" / "corpora"


@pytest.mark.parametrize("change", ["content", "new file", "settings"])
def test_other_content_or_settings_are_prepared_anew(
    experiment: Experiment, server: S3Server, folder: Path, change: str
) -> None:
    """Also a change that keeps the size, within the second that is the precision of S3's times."""
    words, _ = read_words(experiment, server)
    names = list_names(folder)
    if change == "content":
        write_rows("b", [line.replace("text", "test") for line in LINES])
    elif change == "new file":
        write_rows("c", ["x,test\n"])
    else:
        experiment = experiment.replace({"data.text_column": "label"})
    changed_words, num_reads = read_words(experiment, server)
    assert num_reads > 0
    assert ("test" in changed_words) == (change != "settings")
    assert changed_words != words
    assert len(list_names(folder)) == len(names) + 2


def test_files_that_change_while_they_are_read_are_not_cached(
    experiment: Experiment, server: S3Server, folder: Path, messages: list[str]
) -> None:
    """The key of the cache is that of the earlier files, which may return."""
    is_changed = False
    content = ("label,text\n" + "".join(LINES)).replace(",text ", ",test ").encode()

    def change(method: str, path: str) -> None:
        nonlocal is_changed
        if method == "GET" and path.endswith("b.csv") and not is_changed:
            is_changed = True
            # In one request, not in the several ones of pyarrow, between which the command could go on.
            headers = {"Content-Type": "text/csv"}  # else moto takes the content for a form
            request = urllib.request.Request(server.endpoint + path, content, headers, method="PUT")
            urllib.request.urlopen(request, timeout=30).close()

    server.fault = change
    assert "test" in read_words(experiment, server)[0]
    assert list_names(folder) == []
    assert [message for message in messages if "data: files have changed while they were read" in message]


@pytest.mark.parametrize("kind", ["texts", "tokens"])
def test_a_damaged_file_is_prepared_again(experiment: Experiment, server: S3Server, folder: Path, kind: str) -> None:
    words, _ = read_words(experiment, server)
    [path] = folder.glob(f"{kind}-*")
    content = bytearray(path.read_bytes())
    content[-300] ^= 1
    path.write_bytes(content)
    assert read_words(experiment, server) == (words, count_reads(server))
    assert path.read_bytes() != content
    assert read_words(experiment, server) == (words, 0)


def test_a_full_disk_means_no_cache(
    experiment: Experiment, server: S3Server, folder: Path, monkeypatch: pytest.MonkeyPatch, messages: list[str]
) -> None:
    """The texts are in a temporary file, a warning says so, and no part of a file stays."""
    write = array_file.ArrayWriter._write

    def write_to_full_disk(writer: array_file.ArrayWriter, content: bytes) -> None:
        if str(writer._stream.name).startswith(str(folder)) and writer._position > 1000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(writer, content)

    with monkeypatch.context() as patch:
        patch.setattr(array_file.ArrayWriter, "_write", write_to_full_disk)
        words, _ = read_words(experiment, server)
    assert "text" in words
    [warning] = [message for message in messages if "cannot be written" in message]
    assert "No space left on device" in warning
    assert list_names(folder) == []


@pytest.mark.slow
def test_two_commands_at_once_use_the_same_files(
    experiment: Experiment, server: S3Server, folder: Path, tmp_path: Path, kernels: dict[str, str]
) -> None:
    """Both read the texts, since the other has not finished; either file is complete."""
    both_read = threading.Barrier(2)
    reads = iter(range(2))

    def wait_for_both(method: str, path: str) -> None:
        if method == "GET" and path.endswith(".csv") and next(reads, None) is not None:
            both_read.wait(timeout=60)

    server.fault = wait_for_both
    variables = os.environ | kernels | {"PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", LOADING, *make_settings(tmp_path)]
    processes = [
        subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    server.fault = None
    keys = [output.strip() for output, _ in outputs]
    server.requests.clear()
    assert keys == 2 * [load_inputs(experiment)[1].key]
    assert count_reads(server) == 0
    assert [name.split("-")[0] for name in list_names(folder)] == ["texts", "tokens"]


def make_old(path: Path, seconds: float) -> None:
    os.utime(path, (time.time() - seconds,) * 2)


def lower_limit(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(cache, "MAX_USER_CACHE_BYTES", 250_000)


def fill_disk(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 0}))


@pytest.mark.parametrize("limit", [lower_limit, fill_disk])
def test_the_files_used_the_longest_time_ago_are_removed_beyond_the_limit(
    experiment: Experiment, server: S3Server, folder: Path, monkeypatch: pytest.MonkeyPatch, limit: Callable[..., None]
) -> None:
    """Those of the last hour stay: another command may use them."""
    words, _ = read_words(experiment, server)
    own = list_names(folder)
    for number, name in enumerate(("used", "old", "older")):
        path = folder / f"texts-{name}.arrays"
        path.write_bytes(bytes(200_000))
        make_old(path, 3000 + 3000 * number)
    limit(monkeypatch)
    assert read_words(experiment, server) == (words, 0)
    assert list_names(folder) == sorted([*own, "texts-used.arrays"])


def test_files_of_last_month_and_of_killed_commands_are_removed(experiment: Experiment, folder: Path) -> None:
    """A command that found its file has used it now."""
    load_inputs(experiment)
    own = list_names(folder)
    (folder / "notes.txt").touch()
    make_old(folder / "notes.txt", 24 * 3600 * 400)
    days = {"texts-x.arrays": 31, "texts-y.arrays": 29, ".texts-x.arrays.00.part": 2, ".texts-y.arrays.00.part": 0.9}
    for name in (*days, *own):
        (folder / name).touch()
        make_old(folder / name, 24 * 3600 * days.get(name, 40))
    load_inputs(experiment)
    assert list_names(folder) == sorted([*own, "notes.txt", "texts-y.arrays", ".texts-y.arrays.00.part"])


def test_a_user_without_a_home_has_no_cache(experiment: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")

    def fail() -> Path:
        raise RuntimeError

    monkeypatch.setattr(Path, "home", fail)
    assert large_source.find_user_cache() is None
    assert "text" in load_inputs(experiment)[1].words
