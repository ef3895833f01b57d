"""Sources of labelled texts: the files of paths, folders, patterns, lists and URIs, and what is wrong with them."""

import secrets
import threading
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from cluster import storage
from jobs.config.settings import DataSettings
from jobs.datasets.formats.rows import SourceFile
from jobs.datasets.new_experiment import write_experiment
from jobs.datasets.readers import DataError, check_file, file_size, read_rows
from jobs.datasets.sources import has_matches, locate_source, map_files, resolve_source
from tests.s3_server import BUCKET, S3Server, respond_unavailable, run_s3_server
from tests.support.text_formats import encode_rows, save_dataset

ROWS = [("x", "a"), ("y", "b")]


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with run_s3_server() as s3_server:
        yield s3_server


@pytest.fixture(params=["path", "memory://", "s3://"])
def root(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder with files of two formats and a folder; in S3 the server's address is an option of the URI."""
    (tmp_path / "data" / "more").mkdir(parents=True)
    for name in ("b 1.csv", "a.csv", "more/c.csv", "_d.csv", "e.parquet", "readme.md"):
        (tmp_path / "data" / name).write_bytes(encode_rows([(name, "a b")], f".{name.rpartition('.')[2]}"[:8]))
    if request.param == "path":
        return str(tmp_path / "data")
    files = [path for path in (tmp_path / "data").rglob("*") if path.is_file()]
    folder = secrets.token_hex(4)
    if request.param == "memory://":
        for path in files:
            name = path.relative_to(tmp_path / "data")
            fsspec.filesystem("memory").pipe({f"/{folder}/{name}": path.read_bytes()})
        return f"memory:///{folder}"
    server = request.getfixturevalue("server")
    for key, value in server.environment.items():
        if key != "AWS_ENDPOINT_URL":
            monkeypatch.setenv(key, value)
    uri = f"s3://{BUCKET}/{folder}?scheme=http&endpoint_override={server.endpoint}"
    storage.copy_folder(str(tmp_path / "data"), uri)
    return uri


def read_labels(source: str | list[str], **settings: object) -> list[str]:
    return read_rows(source, DataSettings(**settings)).labels


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (["a.csv"], ["a.csv"]),
        (["*.csv"], ["_d.csv", "a.csv", "b 1.csv"]),
        (["[ab]*.csv"], ["a.csv", "b 1.csv"]),
        (["**/*.csv"], ["_d.csv", "a.csv", "b 1.csv", "more/c.csv"]),
        (["*/c.csv"], ["more/c.csv"]),
        (["m*"], ["more/c.csv"]),
        (["more"], ["more/c.csv"]),
        (["more/"], ["more/c.csv"]),
        (["e.parquet", "a.csv", "m*"], ["e.parquet", "a.csv", "more/c.csv"]),
    ],
)
def test_files_are_read_in_order_from_every_storage(root: str, names: list[str], labels: list[str]) -> None:
    """By name within a folder or pattern, and in the order of a list. A list may mix formats."""
    sources = [storage.join(root, name) for name in names]
    assert read_labels(sources) == labels
    if len(sources) == 1:
        assert read_labels(sources[0]) == labels
    assert read_labels(names, folder=root) == labels  # relative to data.folder
    check_file(sources, DataSettings())
    assert (file_size(sources, DataSettings()) or 0) > 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.csv", r"none\.csv.*: no such file"),
        ("x*.csv", r"x\*\.csv.*: matches no file"),
        ("none/*.csv", r"none/\*\.csv.*: (matches no file|cannot be listed)"),
        ("readme.md", r"readme\.md.*: the name must end in \.csv, .*, or one of these and \.gz or \.zst"),
        ("", r": mixes csv \(a\.csv\) and parquet \(e\.parquet\); name files of one format, as in .*\*\.csv"),
        ("[ae]*", r"\[ae\]\*.*: mixes csv \(a\.csv\) and parquet \(e\.parquet\); name files of one format, or a list"),
    ],
)
def test_errors_name_the_source_in_every_storage(root: str, name: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_rows(storage.join(root, name) if name else root, DataSettings())


def test_a_folder_without_supported_files_is_an_error(tmp_path: Path) -> None:
    """The message names its folders, which are not searched: a folder `test` is not to be trained on."""
    (tmp_path / "a.pdf").touch()
    with pytest.raises(DataError, match=r"contains no file of texts; the name must end in \.csv.*\.zst$"):
        read_rows(str(tmp_path), DataSettings())
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "a.csv").write_bytes(encode_rows(ROWS, ".csv"))
    with pytest.raises(DataError, match=r"it has the folders test: name one, or .*/\*\*/\*\.csv"):
        read_rows(str(tmp_path), DataSettings())


def test_a_folder_may_hold_files_without_rows(tmp_path: Path) -> None:
    """Parallel writers leave them; but if there are no rows at all, that is an error."""
    (tmp_path / "0.csv").write_text("label,text\n")
    with pytest.raises(DataError, match=f"{tmp_path}: has no rows"):
        read_rows(str(tmp_path), DataSettings())
    with pytest.raises(DataError, match=f"{tmp_path}: has no rows"):
        check_file(str(tmp_path), DataSettings())
    (tmp_path / "1.csv").write_bytes(encode_rows(ROWS, ".csv"))
    assert read_labels(str(tmp_path)) == ["x", "y"]
    check_file(str(tmp_path), DataSettings())


def test_the_first_file_of_each_path_is_checked(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(encode_rows(ROWS, ".csv"))
    (tmp_path / "b.csv").write_text("label,body\nx,a\n")
    with pytest.raises(DataError, match=r"b\.csv: has no column 'text'"):
        check_file(["a.csv", "b.csv"], DataSettings(folder=str(tmp_path)))


def test_a_name_with_characters_of_a_pattern_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "what?[1].csv").write_bytes(encode_rows(ROWS, ".csv"))
    assert read_labels(str(tmp_path / "what?[1].csv")) == ["x", "y"]
    assert has_matches(f"{tmp_path}/wh*")
    assert not has_matches(f"{tmp_path}/why?")


def test_a_saved_dataset_is_read_in_the_order_of_its_state(tmp_path: Path) -> None:
    """The numbers of its classes become names, and -1 is no class; other files of the folder are ignored."""
    folder = save_dataset(tmp_path / "d", {"text": list("abcd"), "label": [1, 0, 0, 1]}, ["no", "yes"])
    (folder / "cache-0.arrow").write_text("left by a filter")
    rows = read_rows(str(folder), DataSettings())
    assert (rows.texts, rows.labels) == (list("abcd"), ["yes", "no", "no", "yes"])
    assert rows.describe_position(2) == f"{folder}/data-00001-of-00002.arrow, row 1"
    folder = save_dataset(tmp_path / "e", {"text": list("ab"), "label": [1, -1]}, ["no", "yes"])
    with pytest.raises(DataError, match=r"data-00001-of-00002\.arrow, row 1: the label in 'label' is empty"):
        read_rows(str(folder), DataSettings())


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("dataset_dict.json", '{"splits": ["train", "test"]}', "has the splits train, test; name one, as in .*d/train"),
        ("state.json", "{", r"state\.json: cannot be read"),
        ("state.json", "[]", r"state\.json: must be a JSON object, not a list"),
        ("state.json", "{}", r"d: state\.json or dataset_info\.json is not as `datasets` writes it: KeyError"),
        (
            "state.json",
            '{"_data_files": [{"filename": "../x.arrow"}]}',
            r"'\.\./x\.arrow' is not a file of this",
        ),
        ("state.json", '{"_data_files": [{"filename": "x.arrow"}]}', r"x\.arrow: cannot be read"),
        ("state.json", '{"_data_files": [], "_indices_data_files": [{}]}', r"call flatten_indices\(\) of the dataset"),
    ],
)
def test_a_damaged_dataset_is_an_error(tmp_path: Path, name: str, content: str, message: str) -> None:
    folder = save_dataset(tmp_path / "d", {"text": list("ab"), "label": list("xy")})
    (folder / name).write_text(content)
    with pytest.raises(DataError, match=message):
        read_rows(str(folder), DataSettings())


def test_a_storage_that_does_not_respond_is_an_error(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in server.environment.items():
        monkeypatch.setenv(key, value)
    storage.write_bytes(f"s3://{BUCKET}/down/a.csv", encode_rows(ROWS, ".csv"))
    assert read_labels(f"s3://{BUCKET}/down/*.csv") == ["x", "y"]
    server.fault = respond_unavailable
    try:
        with pytest.raises(DataError, match=r"down/a\.csv: cannot be read"):
            read_rows(f"s3://{BUCKET}/down/a.csv", DataSettings())
    finally:
        server.fault = None


def test_a_new_experiment_keeps_the_options_of_a_uri(
    server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are no part of its name."""
    monkeypatch.chdir(tmp_path)
    for key, value in server.environment.items():
        if key != "AWS_ENDPOINT_URL":
            monkeypatch.setenv(key, value)
    uri = f"s3://{BUCKET}/train.parquet?scheme=http&endpoint_override={server.endpoint}"
    storage.write_bytes(uri, encode_rows([*ROWS, *ROWS], ".parquet"))
    path, experiment = write_experiment(uri, None, [])
    assert (path, experiment.name, experiment.data.train) == ("train.yaml", "train", uri)
    assert read_rows(uri, experiment.data).labels == ["x", "y", "x", "y"]


def test_a_source_is_located_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As best.json names the test part."""
    monkeypatch.chdir(tmp_path)
    assert locate_source("a.csv", DataSettings(folder="d")) == f"{tmp_path}/d/a.csv"
    assert locate_source(["*.csv", "s3://b/c"], DataSettings()) == [f"{tmp_path}/*.csv", "s3://b/c"]
    assert locate_source("a.csv", DataSettings(folder="s3://b/c?d=e")) == "s3://b/c/a.csv?d=e"


def test_any_lines_are_accepted_on_request(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("a\nb\n")
    [file] = resolve_source(str(tmp_path / "README.md"), DataSettings(), any_lines=True)
    assert file.format is None


def test_files_of_an_object_store_are_read_at_the_same_time() -> None:
    """So that a thousand files do not take a thousand times the delay of a request. The results are in order."""
    barrier = threading.Barrier(3)

    def read(file: SourceFile) -> str:
        barrier.wait(timeout=10)
        return file.path

    paths = [f"s3://bucket/{name}.parquet" for name in "cab"]
    assert map_files(read, [SourceFile(path, "parquet") for path in paths]) == paths
    assert map_files(lambda file: threading.current_thread(), [SourceFile(path, "csv") for path in "ab"]) == (
        2 * [threading.main_thread()]
    )
